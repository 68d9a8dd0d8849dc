"""The site builds without a warning, names every public name, and loads nothing from elsewhere."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
MODULES = re.findall(r" reference/([\w.]+)\.md$", NAV, re.M)
# Attributes by which a browser loads something, without a click.
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@dataclass
class Page(HTMLParser):
    """What matters of a page of the site."""

    html: str
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    """Paths of what has an entry on the page, members not counted."""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if given.get(LOADS.get(tag, "")):
            self.loads.append(given[LOADS[tag]])
        if tag == "h2" and "doc-heading" in given.get("class", ""):
            self.entries.append(given["id"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of the site, and what was said while it was built."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pages(built: tuple[Path, str]) -> dict[Path, Page]:
    folder, _ = built
    return {path: Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}


def test_it_is_built_without_a_warning(built: tuple[Path, str]) -> None:
    _, said = built
    assert "WARNING" not in said
    assert "ERROR" not in said


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry_and_a_sentence(
    module: str, built: tuple[Path, str], pages: dict[Path, Page]
) -> None:
    here = built[0] / "reference" / f"{module}.html"
    table = pages[here].html.partition("</table>")[0]
    row = re.compile(
        r'<td><a[^>]* href="([^"]*)"[^>]*><code>(\w+)</code></a></td>\s*<td>(.*?)</td>'
    )
    rows = {name: (link, sentence) for link, name, sentence in row.findall(table)}
    public = pkgutil.resolve_name(module).__all__
    assert sorted(rows) == sorted(public)
    for name, (link, sentence) in rows.items():
        path, _, anchor = link.partition("#")
        target = pages[(here.parent / path).resolve() if path else here]
        assert anchor in target.entries, f"{module}.{name} has no entry"
        assert sentence.strip(), f"{module}.{name} has no docstring"


def test_each_object_has_one_entry(pages: dict[Path, Page]) -> None:
    entries = [entry for page in pages.values() for entry in page.entries]
    found: dict[int, str] = {}
    for entry in entries:
        module, _, name = entry.rpartition(".")
        value = getattr(pkgutil.resolve_name(module), name)
        if not isinstance(value, int | str):  # equal constants are one object
            assert found.setdefault(id(value), entry) == entry
    assert len(set(entries)) == len(entries) > 100


def imported_on_pages() -> Iterator[tuple[str, str]]:
    """(module, name) of what the code of README and docs imports from the libraries."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            for node in ast.walk(ast.parse(block)):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                if module and module.partition(".")[0] in ("interp", "probes", "cache"):
                    yield from ((module, alias.name) for alias in node.names)


def test_the_reference_has_all_that_pages_import() -> None:
    imported = set(imported_on_pages())
    assert len(imported) > 20
    for module, name in imported:
        assert module in MODULES, f"{module} is not in the reference (see nav in mkdocs.yml)"
        assert name in pkgutil.resolve_name(module).__all__, f"{module}.{name} is not public"


def test_every_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    for here, page in pages.items():
        for link in page.links:
            path, _, anchor = unquote(link).partition("#")
            if here.name == "404.html" or ":" in path:
                continue  # that page's links are those of a server's root
            target = (here.parent / path).resolve() if path else here
            assert target.exists(), f"{here.name}: {link}"
            if anchor and target in pages and anchor != "__top":
                assert anchor in pages[target].ids, f"{here.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(built: tuple[Path, str], pages: dict[Path, Page]) -> None:
    elsewhere = re.compile(r"(https?:)?//")
    loads = [(here.name, load) for here, page in pages.items() for load in page.loads]
    assert loads
    assert [load for load in loads if elsewhere.match(load[1])] == []
    for style in built[0].rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", text), style.name
