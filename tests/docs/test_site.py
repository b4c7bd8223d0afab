"""The documentation's site: strict, complete, its links lead somewhere. The reference is built by `make docs`."""

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    loaded = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(site), plugins=["search"], strict=True)
    build(loaded)
    return loaded


def test_the_site_builds_without_a_warning(config):
    """Strict: a link or a page of the navigation that leads nowhere ends the build."""
    site = Path(config.site_dir)
    home = (site / "index.html").read_text()
    assert "images/how_it_works.svg" in home
    assert 'href="results/first/"' in home
    assert (site / "results" / "first" / "index.html").is_file()
    assert (
        "::: fovea.policies.ef_vla.modeling_ef_vla"
        in (site / "reference" / "policies" / "index.html").read_text()
    )


def test_figures_of_the_results_are_on_the_site(config):
    page = Path(config.site_dir) / "results" / "grafting" / "index.html"
    shown = re.findall(r'<img[^>]* src="([^"]+)"', page.read_text())
    assert shown
    for source in shown:
        assert (page.parent / source).resolve().is_file(), source


def test_every_page_of_the_docs_is_listed(config):
    """A page that mkdocs.yml does not name is put into the navigation by the hook."""
    home = (Path(config.site_dir) / "index.html").read_text()
    pages = [path.stem for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    assert len(pages) > 10
    assert [page for page in pages if f'href="{page}/"' not in home] == []
