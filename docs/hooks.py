"""What the site needs beside the pages in docs/: pages from elsewhere, and the reference.

Pages are written for readers of the repository: a link says where a file lies in it. On the site
the same link leads to the page that is made of that file; a file that no page is made of, such as
a notebook, is laid beside the pages.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"
_START = "start.md"
_REFERENCE = "reference/"
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
# Code stays as it is: fenced blocks, and spans between equally many backticks.
_CODE = re.compile(
    r"^ *```.*?^ *```$|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)", re.M | re.S
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository's own folder, the reference, and what pages link to."""
    for path in sorted(_ROOT.glob("*.md")):
        files.append(File.generated(config, _place(path), content=path.read_text("utf-8")))
    modules = [uri for uri in _named(config.nav) if uri.startswith(_REFERENCE)]
    for uri, text in reference(modules).items():
        files.append(File.generated(config, uri, content=text))
    for page in list(files.documentation_pages()):
        for _, link, _ in _LINK.findall(_CODE.sub("", page.content_string)):
            path = (_source(page).parent / link).resolve()
            if path.is_file() and path.is_relative_to(_ROOT) and _place(path) not in files.src_uris:
                files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = posixpath.dirname(page.file.src_uri) or "."

    def moved(match: re.Match[str]) -> str:
        path = (_source(page.file).parent / match[2]).resolve()
        if not path.is_relative_to(_ROOT):
            return match[0]  # which MkDocs then complains of
        return match[1] + posixpath.relpath(_place(path), here) + match[3]

    done, text = 0, ""
    for code in _CODE.finditer(markdown):
        text += _LINK.sub(moved, markdown[done : code.start()]) + code[0]
        done = code.end()
    return text + _LINK.sub(moved, markdown[done:])


def reference(uris: list[str]) -> dict[str, str]:
    """By address, the page of each module: a table of its public names, and their entries.

    A name that an earlier module has too gets a line in the table, which leads to its entry there.
    """
    loader = griffe.GriffeLoader(search_paths=[_ROOT])
    modules = {uri: posixpath.basename(uri).removesuffix(".md") for uri in uris}
    for top in sorted({module.partition(".")[0] for module in modules.values()}):
        loader.load(top)
    loader.resolve_aliases()
    entries: dict[str, str] = {}  # by what it is, where its entry stands
    pages = {}
    for uri, module in modules.items():
        package = importlib.import_module(module)  # the lazy ones list their names when they run
        table, new = ["| name | what |", "|---|---|"], []
        for name in sorted(package.__all__, key=str.lower):
            path = f"{module}.{name}"
            found = loader.modules_collection[path]
            if found.canonical_path not in entries:
                entries[found.canonical_path] = path
                new.append(f"::: {path}")
            table.append(f"| [`{name}`][{entries[found.canonical_path]}] | {_summary(found)} |")
        about = loader.modules_collection[module].docstring
        parts = [f"# {module}", about.value if about else "", "\n".join(table), *new]
        pages[uri] = "\n\n".join(parts) + "\n"
    return pages


def _summary(found: griffe.Object | griffe.Alias) -> str:
    """The first paragraph of a docstring, as a cell of a table."""
    text = found.docstring.value if found.docstring else ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", r"\|")


def _source(file: File) -> Path:
    """Where a page's text lies in the repository."""
    for path in _ROOT.glob("*.md"):
        if file.src_uri == _place(path):
            return path
    return _DOCS / file.src_uri


def _place(path: Path) -> str:
    """The address of a file of the repository on the site, as MkDocs takes it."""
    if path.is_relative_to(_DOCS):
        return path.relative_to(_DOCS).as_posix()
    if path.parent == _ROOT and path.suffix == ".md":
        return _START if path.stem == "README" else path.name.lower()
    return path.relative_to(_ROOT).as_posix()


def _named(nav: Any) -> list[str]:
    """Every address that the navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [
        uri for part in (nav.values() if isinstance(nav, dict) else nav) for uri in _named(part)
    ]
