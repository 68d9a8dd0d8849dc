"""The tree on the architecture page is the one that is there, in the order that imports keep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "experiments", "probes", "interp", "cache")
MOST_FILES = 18
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def tree() -> dict[str, list[str]]:
    """Folders of each folder at the top, as the page lists them."""
    listed = PAGE.split("## The tree")[1].split("```")[1]
    found: dict[str, list[str]] = {}
    for line in listed.strip().splitlines():
        match = re.match(r"( *)(\w+)/ ", line)
        assert match, line
        if match[1]:
            found[list(found)[-1]].append(match[2])
        else:
            found[match[2]] = []
    return found


def folders(package: str) -> set[str]:
    return {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_names_every_room(package: str) -> None:
    assert set(tree()[package]) == folders(package)


def test_packages_stand_in_the_order_of_imports() -> None:
    assert [name for name in tree() if name in PACKAGES] == list(PACKAGES)


@pytest.mark.parametrize("package", ["interp", "cache"])
def test_rooms_stand_in_the_order_of_imports(package: str) -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contract = settings.split(f'containers = ["{package}"]')[1].split("]")[0]
    layers = re.findall(r'"([^"]+)"', contract)
    floor = {room.strip(): i for i, layer in enumerate(layers) for room in re.split(r"[|:]", layer)}
    floors = [floor[room] for room in tree()[package]]
    assert floors == sorted(floors)


def test_no_folder_is_a_heap_and_no_file_two_ideas() -> None:
    for package in PACKAGES:
        for folder in [ROOT / package, *(p.parent for p in (ROOT / package).rglob("__init__.py"))]:
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= MOST_FILES, folder
            for file in files:
                assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file


def test_what_is_said_to_stand_in_one_place_stands_there() -> None:
    told = PAGE.split("## What stands in one place")[1].split("## Glossary")[0]
    for path in re.findall(r"`((?:interp|cache)/[\w/.]+)`", told):
        assert (ROOT / path).exists(), path


def test_the_glossary_says_each_word_once() -> None:
    rows = re.findall(r"^\| ([\w, ]+) \| ", PAGE.split("## Glossary")[1], flags=re.MULTILINE)
    words = [word.strip() for row in rows[1:] for word in row.split(",")]
    assert words == sorted(words) or len(words) == len(set(words))
    assert len(words) == len(set(words))
