"""Links on the pages of the repository lead somewhere, and the index knows every page."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_CODE = re.compile(r"^( *)(```|~~~).*?^\1\2[^\S\n]*$|(?<!`)(`+)(?!`).+?(?<!`)\3(?!`)", re.M | re.S)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.M)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.I)


def links(page: Path) -> list[str]:
    text = _CODE.sub("code", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(text) if not _SCHEME.match(target)]


def anchors(page: Path) -> set[str]:
    """The headings of a page, named as GitHub and the site name them."""
    text = re.sub(r"^( *)(```|~~~).*?^\1\2", "", page.read_text("utf-8"), flags=re.M | re.S)
    found: set[str] = set()
    for heading in _HEADING.findall(text):
        name = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", name).replace(" ", "-")
        number = next(
            n for n in range(len(found) + 1) if (f"{name}-{n}" if n else name) not in found
        )
        found.add(f"{name}-{number}" if number else name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    for link in links(page):
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), (
                f"{link}: no such heading; there are {anchors(target)}"
            )


def test_links_are_found_and_code_is_not_taken_for_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b.c` — d\n[x](y.md#z) `[no](code.md)` ![i](i.png) [out](https://example.org)\n"
        "```python\n# no heading\n[no](block.md)\n```\n## A, b\n## a b\n"
    )
    assert links(page) == ["y.md#z", "i.png"]
    assert anchors(page) == {"a-bc--d", "a-b", "a-b-1"}


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs/index.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    for page in PAGES:
        assert page == index or page in named, f"docs/index.md does not name {page.name}"


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/images").glob("*")), ids=lambda p: p.name)
def test_a_picture_is_small_and_shown(picture: Path) -> None:
    assert picture.stat().st_size < 300_000
    assert any(
        (page.parent / link).resolve() == picture for page in PAGES for link in links(page)
    ), "shown on no page"
