"""mkdocs hooks: pages that live outside docs/, the reference, and links that work in the repository and on the site.

README.md is the home page, docs/README.md the overview of how-to pages; results/, the changelog and the contributor's
page are shown as they are. One page of reference a room is written from the modules' docstrings.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
HOMES = {
    "README.md": "index.md",
    "docs/README.md": "howto.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """A how-to page that nobody listed in mkdocs.yml comes last among what one can do."""
    listed = set(_pages(config.nav))
    new = sorted(
        path.name for path in (ROOT / "docs").glob("*.md") if path.name not in {"README.md", *listed}
    )
    (section,) = (part["Do"] for part in config.nav if "Do" in part)
    section += new
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that mkdocs does not find in docs/."""
    for source, page in _homes().items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for path in _pictures():
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    results = sorted((ROOT / "results").glob("*.md"))
    for name, text in {"results.md": _results(results), **_reference()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point every relative link to where its target is on the site; a link into the source becomes its text."""
    pages = _homes()
    sources = {site: source for source, site in pages.items()}
    shown = set(_pictures())
    here = page.file.src_uri
    source = sources.get(here, f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        path, _, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if wanted in pages:
            wanted = pages[wanted]
        elif wanted.startswith("docs/"):
            wanted = wanted.removeprefix("docs/")
        elif ROOT / wanted in shown:
            pass  # it lies on the site where it lies in the repository
        elif (ROOT / wanted).exists():
            return text
        else:
            return match[0]  # mkdocs will complain
        relative = posixpath.relpath(wanted, posixpath.dirname(here) or ".")
        return f"{picture}[{text}]({relative}{'#' + anchor if anchor else ''})"

    parts, at = [], 0
    for block in CODE.finditer(markdown):
        parts += [LINK.sub(moved, markdown[at : block.start()]), block[0]]
        at = block.end()
    return "".join([*parts, LINK.sub(moved, markdown[at:])])


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inside = nav.values() if isinstance(nav, dict) else nav
    return [page for part in inside for page in _pages(part)]


def _homes() -> dict[str, str]:
    """Path in the repository -> page on the site, for what is not in docs/."""
    results = {
        path.relative_to(ROOT).as_posix(): f"results/{path.name}" for path in (ROOT / "results").glob("*.md")
    }
    return HOMES | results


def _pictures() -> list[Path]:
    """Figures beside the results."""
    return sorted(path for path in (ROOT / "results").rglob("*") if path.suffix in (".png", ".svg", ".jpg"))


def _results(paths: list[Path]) -> str:
    lines = [
        "# Results",
        "",
        "What studies and benchmarks found, as the commands that they name wrote it.",
        "",
    ]
    for path in paths:
        title = next(line for line in path.read_text().splitlines() if line.startswith("# "))
        lines.append(f"- [{title[2:]}](results/{path.name})")
    return "\n".join(lines) + "\n"


def _reference() -> dict[str, str]:
    """One page a room of src/fovea, and one that lists them."""
    source = ROOT / "src" / "fovea"
    rooms = sorted(path for path in source.iterdir() if path.is_dir() and list(path.glob("**/*.py")))
    index = ["# Reference", "", "Every public module, from its docstrings.", ""]
    pages = {}
    for room in rooms:
        modules = sorted(
            path.relative_to(source.parent).with_suffix("")
            for path in room.rglob("*.py")
            if not path.name.startswith("_") and path.read_text().strip()
        )
        if not modules:
            continue
        text = [f"# fovea.{room.name}", ""]
        for module in modules:
            text += [f"::: {'.'.join(module.parts)}", "    options: {heading_level: 2}", ""]
        pages[f"reference/{room.name}.md"] = "\n".join(text)
        index.append(f"- [fovea.{room.name}](reference/{room.name}.md)")
    top = ["tokens", "errors", "progress", "processes"]
    pages["reference/top.md"] = "# fovea\n\n" + "\n\n".join(f"::: fovea.{name}" for name in top) + "\n"
    index.append("- [fovea](reference/top.md)")
    return {"reference.md": "\n".join(index) + "\n"} | pages
