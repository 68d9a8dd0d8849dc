"""The names that people type: what Tab offers, and what pages and notebooks import."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = (
    "interp",
    "interp.patching",
    "interp.circuits",
    "interp.comparison",
    "interp.lens",
    "interp.figures",
    "interp.execute",
    "interp.harvest",
    "interp.stats",
    "cache",
    "probes",
)
OURS = {"interp", "cache", "probes", "experiments", "app"}
FENCED = re.compile(r"^( *)```(?:python|py)\b[^\n]*\n(.*?)^\1```", re.M | re.S)


def modules_below(package: str) -> list[str]:
    found = importlib.import_module(package)
    paths = getattr(found, "__path__", ())
    return [m.name for m in pkgutil.walk_packages(paths, f"{package}.")]


@pytest.mark.parametrize("package", PUBLIC)
def test_tab_offers_public_names_and_no_others(package: str) -> None:
    found = importlib.import_module(package)
    for module in modules_below(package):
        importlib.import_module(module)
    assert dir(found) == sorted(set(found.__all__))
    for name in found.__all__:
        assert not name.startswith("_")
        # Also where a name is that of the file which it stands in.
        assert not isinstance(getattr(found, name), types.ModuleType), name


@pytest.mark.slow
def test_tab_offers_the_same_before_anything_was_used() -> None:
    """In a process of its own, where no submodule has become an attribute yet, or been shadowed."""
    code = f"""
        import importlib, json
        print(json.dumps({{p: dir(importlib.import_module(p)) for p in {PUBLIC!r}}}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    offered = json.loads(out.stdout)
    for package in PUBLIC:
        assert offered[package] == sorted(importlib.import_module(package).__all__), package


def texts() -> Iterator[tuple[str, str]]:
    """Every piece of Python in pages and notebooks, by where it stands."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")):
        for number, match in enumerate(FENCED.finditer(page.read_text("utf-8"))):
            yield f"{page.relative_to(ROOT)}:{number}", textwrap.dedent(match[2])
    for script in ROOT.glob("examples/**/*.py"):
        yield str(script.relative_to(ROOT)), script.read_text("utf-8")
    for notebook in ROOT.glob("examples/**/*.ipynb"):
        cells = json.loads(notebook.read_text("utf-8"))["cells"]
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
                yield f"{notebook.relative_to(ROOT)}:{number}", code


def imported() -> Iterator[tuple[str, str, str]]:
    """(where, module, name) of each import of ours; the name is "" for a whole module."""
    for where, text in texts():
        for node in ast.walk(ast.parse(text, filename=where)):
            if isinstance(node, ast.Import):
                names = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [(node.module, alias.name) for alias in node.names]
            else:
                continue
            for module, name in names:
                if module.partition(".")[0] in OURS:
                    yield where, module, name


IMPORTED = sorted({(module, name) for _, module, name in imported()})


def test_pages_and_notebooks_are_read() -> None:
    where = {place.partition(":")[0] for place, _, _ in imported()}
    assert {"README.md", "docs/circuits.md", "examples/first_light.ipynb"} <= where
    assert ("interp", "load_model") in IMPORTED


@pytest.mark.parametrize(("module", "name"), IMPORTED, ids=".".join)
def test_what_pages_and_notebooks_import_is_there(module: str, name: str) -> None:
    found = importlib.import_module(module)
    if name and not hasattr(found, name):
        importlib.import_module(f"{module}.{name}")
