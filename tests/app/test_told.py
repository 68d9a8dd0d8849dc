"""Every figure tells what it is over; nothing is drawn without a word."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from app.panels import both_ways
from app.screen.told import Check, Told, together
from experiments.explorer import Way
from experiments.records import RunRecord

APP = Path(__file__).parents[2] / "app"


@pytest.mark.slow
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


@pytest.mark.slow
def test_each_line_under_a_figure_tells_n_interval_and_control() -> None:
    names = [field.name for field in fields(Told)]
    lines = {}
    for path in (APP / "panels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Told":
                given = {*names[: len(node.args)], *(one.arg for one in node.keywords)}
                if "n" in given:
                    lines[f"{path.name}:{node.lineno}"] = given
    assert len(lines) > 20
    assert [at for at, given in lines.items() if not {"interval", "control"} <= given] == []


def test_what_is_wrong_with_one_is_wrong_with_both() -> None:
    good, bad = Check("Sham near 0", True, "by 0."), Check("Sham near 0", False, "by <b>9.")
    (found,) = together({"A": (good,), "B": (bad,)})
    assert not found.good
    assert found.said == "A: by 0. B: by <b>9."
    assert together({"A": (good,), "B": ()})[0].good


@pytest.mark.slow
def test_a_difference_is_told_of_the_pairs_that_both_have(
    record: RunRecord, ways: dict[str, Way], monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = {way: record.dataset(f"patching_{way}_resid_pre") for way in ways}
    n = maps["forward"].sizes["example"]
    shown: dict[str, Any] = {}
    monkeypatch.setattr(both_ways.parts, "html", lambda text: None)
    monkeypatch.setattr(both_ways.parts, "figure", lambda *given, **named: shown.update(named))
    for kept, words in (
        (n, f"{n} pairs each way"),
        (n - 1, f"{n - 1} pairs each way (of {n} forward and {n - 1} reverse)"),
        (1, "1 pair each way"),
    ):
        some = maps["reverse"].isel(example=slice(0, kept))
        sides = [
            both_ways.Side(ways["forward"], maps["forward"], None),
            both_ways.Side(ways["reverse"], some, None),
        ]
        both_ways.show(None, *sides, key="fact", code="", width=600)
        told, rows = shown["told"], shown["data"]()
        assert isinstance(told, Told)
        assert told.n == words
        assert told.interval.startswith("none" if kept == 1 else "95%")
        assert isinstance(rows, pd.DataFrame)
        assert set(rows["fact"]) == set(some["fact"].values)
