# `make help` lists the targets. Everything runs from the locked environment in .venv, which `make setup` makes.

PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo quick test docs wheel lint format types contract lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## uv, the locked environment, the GL library and what the tests need (run again at will)
	@scripts/setup.sh --test

demo: ## twenty minutes: demonstrations, features, EF-VLA, closed loop, outputs/demo/report.html
	@scripts/setup.sh
	@.venv/bin/fovea demo $(ARGS)

quick: ## two minutes: the same stages, too small to mean anything, to see that all works
	@scripts/setup.sh
	@.venv/bin/fovea demo --quick $(ARGS)

test: setup ## all tests: offline, on a CPU (tests/conftest.py)
	@$(PYTHON) -m pytest $(ARGS)

docs: setup ## the documentation's site, in site/ (strict: broken links fail)
	@PATH="$$PWD/.uv-bootstrap/bin:$$HOME/.local/bin:$$PATH" uv sync --quiet --inexact --frozen --extra docs
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

wheel: ## sdist and wheel in dist/, then the wheel alone in a new environment: doctor and demo --quick
	@scripts/check_wheel.sh

lint: setup ## ruff, check and format
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

format: setup ## let ruff mend what it can
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

types: setup ## mypy over src
	@.venv/bin/mypy

contract: setup ## who may import whom (see [tool.importlinter] in pyproject.toml)
	@.venv/bin/lint-imports

lock: ## is uv.lock what pyproject.toml asks for?
	@PATH="$$PWD/.uv-bootstrap/bin:$$HOME/.local/bin:$$PATH" uv lock --check

clean: ## remove the environment and caches (results in outputs/ stay)
	rm -rf .venv .uv-bootstrap .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
