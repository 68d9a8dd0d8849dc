"""Every figure tells what it is over; nothing is drawn without a word."""

from __future__ import annotations

import ast
from pathlib import Path

APP = Path(__file__).parents[2] / "app"


def test_every_figure_is_told_of() -> None:
    calls = [
        (path.name, node)
        for path in APP.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "parts.figure"
    ]
    assert len(calls) > 10
    silent = [
        f"{name}:{node.lineno}"
        for name, node in calls
        if "told" not in {keyword.arg for keyword in node.keywords}
    ]
    assert silent == []
