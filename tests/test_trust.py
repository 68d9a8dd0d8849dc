"""Each promise in docs/trust.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = [
    line
    for line in (ROOT / "docs/trust.md")
    .read_text(encoding="utf-8")
    .split("\n## What is not")[0]
    .splitlines()
    if line.startswith("- ")
]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_are_promises() -> None:
    assert len(PROMISES) > 100


@pytest.mark.parametrize("promise", PROMISES, ids=[line[2:60] for line in PROMISES])
def test_a_promise_has_its_test(promise: str) -> None:
    path, found = "", 0
    for file, name in _NAMED.findall(promise):
        path = file or path
        if not path:
            continue  # code in the promise itself
        assert (ROOT / path).is_file(), path
        assert not name or name in names_in(ROOT / path), f"{path}::{name}"
        found += 1
    assert found, "names no test"
