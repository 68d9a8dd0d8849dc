"""Tests use public names: what is private may change without any test failing.

Private names of this project's packages are meant, and whoever's they are in an import.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from torch import nn

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "cache", "experiments", "interp", "probes")
TESTS = sorted((ROOT / "tests").rglob("*.py"))
REACHING = {"setattr", "getattr", "hasattr", "delattr", "patch", "object"}
"""Functions that take a name as text."""


def is_private(name: str) -> bool:
    # Notebooks call what is named _repr_…_: it is as public as __repr__.
    shown = name.startswith("_repr_") and name.endswith("_")
    return name.startswith("_") and not name.startswith("__") and name != "_" and not shown


def is_itself(value: ast.expr, *others: str) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls", *others)


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a file gives to functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and is_itself(node.value):
            yield node.attr


@functools.cache
def ours() -> frozenset[str]:
    """Private names of the packages."""
    return frozenset(
        name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in defined(ast.parse(path.read_text(encoding="utf-8")))
        if is_private(name) and name not in vars(nn.Module())
    )


def reached(source: str) -> Iterator[str]:
    """Private names that a test imports, reads, or names in a text to change them."""
    tree = ast.parse(source)
    others = ours().difference(defined(tree))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import))
    modules = {one.name for node in imports for one in node.names if one.asname is None}
    foreign = {name for name in modules if name.partition(".")[0] not in PACKAGES}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in (*PACKAGES, "tests"):
                yield from (one.name for one in node.names if is_private(one.name))
        elif isinstance(node, ast.Attribute):
            if node.attr in others and not is_itself(node.value, *foreign):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            texts = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
            if called in REACHING:
                for text in (text for text in texts if isinstance(text, str)):
                    if any(part in others for part in text.split(".")):
                        yield text


def test_only_public_names_are_used() -> None:
    """One test, so that the packages are read by one process only."""
    found = {path: list(reached(path.read_text(encoding="utf-8"))) for path in TESTS}
    assert {str(path.relative_to(ROOT)): names for path, names in found.items() if names} == {}


def test_private_names_would_be_found() -> None:
    assert "_bits" not in ours()
    name = sorted(ours())[0]
    for source in (
        f"from interp.model import {name}",
        f"model.{name}",
        f"model.{name} = 1",
        f"monkeypatch.setattr(model, '{name}', 1)",
        f"monkeypatch.setattr('interp.model.{name}', 1)",
        f"getattr(model, '{name}')",
    ):
        assert list(reached(source)), source
    for source in ("from torch import _C", "model._bits", "self." + name, "def f(_): return _"):
        assert not list(reached(source)), source
