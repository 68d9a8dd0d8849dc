"""A report in all its forms: what is written is what was stored, and text stays text."""

from __future__ import annotations

import io
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import markdown as markdown_library
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from markdown_it import MarkdownIt

from experiments.figure import Figure
from experiments.records import RunRecord
from experiments.reports.code import code
from experiments.reports.data import csv, drawn
from experiments.reports.html import interval
from experiments.reports.images import svg
from experiments.reports.markdown import escaped, markdown
from experiments.reports.paper import (
    Card,
    Cards,
    Figures,
    Hypothesis,
    Paper,
    Section,
    Table,
    Text,
    Way,
)
from experiments.study import Verdict
from interp.figures import accuracy_bars
from interp.figures.drawing.theme import escape
from tests.app.material import HOSTILE, run_once

FIGURE = Figure(
    "bars",
    "Bars",
    ("accuracy",),
    accuracy_bars,
    f"Bars {HOSTILE}",
    f"See {HOSTILE}",
    shows=f"Bars {HOSTILE}",
    n=f"7 {HOSTILE}",
)


def verdict(**changes: Any) -> Verdict:
    given: dict[str, Any] = {
        "id": "H1",
        "claim": f"A claim {HOSTILE}",
        "outcome": "supported",
        "statement": f"A *finding* [x](javascript:alert(1)) {HOSTILE}",
        "estimate": 0.5,
        "low": 0.25,
        "high": 0.75,
        "unit": "share of pairs",
        "n": 7,
        "control": f"None | {HOSTILE}",
    }
    return Verdict(**{**given, **changes})


def hostile_paper() -> Paper:
    card = Card(HOSTILE, [Way(HOSTILE, HOSTILE, True, HOSTILE)])
    parts = [
        Text([HOSTILE, "# no heading", "1. no list", "<b>no tag</b>"]),
        Text([HOSTILE], bullets=True),
        Cards([card]),
        Table([HOSTILE, "b|c"], [[HOSTILE, "`|`"]], note=HOSTILE),
        Figures([FIGURE], HOSTILE),
        Hypothesis([verdict()]),
    ]
    return Paper(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        [HOSTILE],
        HOSTILE,
        [Section(HOSTILE, parts, HOSTILE)],
        {HOSTILE: HOSTILE},
    )


def test_nothing_in_markdown_becomes_markup() -> None:
    text = markdown(hostile_paper(), {"bars": FIGURE.telling()}, {"bars": "print()\n"}, ["bars"])
    page = markdown_library.markdown(text, extensions=["tables", "fenced_code"])
    assert "<img" not in page.replace('<img alt="Bars', "")
    assert set(re.findall(r'href="([^"]*)"', page)) == {"figures/bars.csv"}
    assert page.count("<table>") == 3
    assert "<b>" not in page
    # What was meant to be read is read.
    assert HOSTILE in unescape(re.sub(r"<[^>]*>", "", page))


def test_special_characters_are_what_they_were() -> None:
    text = "a*b_c`d`[e](f)<g>#h|i~j$k&l!m\\n\n# o"
    meant = "a*b_c`d`[e](f)<g>#h|i~j$k&l!m\\n # o"
    for page in (markdown_library.markdown(escaped(text)), MarkdownIt().render(escaped(text))):
        assert unescape(page.strip()) == f"<p>{meant}</p>"


@pytest.mark.parametrize("text", ["1. one", "- one", "+ one", "# one", "1) one", "-5 nats", "* a"])
def test_a_sentence_is_no_list(text: str) -> None:
    for page in (markdown_library.markdown(escaped(text)), MarkdownIt().render(escaped(text))):
        assert unescape(page.strip()) == f"<p>{text}</p>"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "50% [25%, 75%]"),
        ({"unit": "nats", "estimate": -0.123}, "−0.123 [0.25, 0.75]"),
        ({"estimate": None, "low": None, "high": None}, "–"),
        ({"low": None, "high": None}, "50%"),
        ({"high": None}, "50% [25%, –]"),
        ({"confidence": 0.9}, "50% [25%, 75%] (90%)"),
        ({"high": 0.0, "low": None, "estimate": 0.0}, "0% [–, 0%]"),
    ],
)
def test_an_interval_is_a_cell(changes: dict[str, Any], expected: str) -> None:
    assert interval(verdict(**changes)) == expected


def test_two_figures_of_one_name_are_refused() -> None:
    section = Section("s", [Figures([FIGURE]), Hypothesis([], [FIGURE])])
    with pytest.raises(ValueError, match="'bars'"):
        Paper("t", "m", "q", [], "", [section]).figures()


def test_csv_holds_names_as_they_are_read_and_no_formula() -> None:
    names = ["R&D <b>", "&lt;", "=1+1", "\n=1", "＝1", "－5", "a=b"]
    figure = go.Figure(go.Scatter(x=[escape(name) for name in names], y=list(range(len(names)))))
    table = drawn(figure)
    assert list(table["x"]) == names
    label = f"<b>who</b>: {escape('<b>R&D')}<br>n"
    told = drawn(go.Figure(go.Scatter(x=[0], y=[0], text=[label])))
    assert list(told["label"]) == ["who: <b>R&D; n"]
    assert csv(pd.DataFrame({"=1+1": [1], "b": [2]})).decode("utf-8-sig") == "'=1+1,b\n1,2\n"
    written = pd.read_csv(io.BytesIO(csv(table)), encoding="utf-8-sig", keep_default_na=False)
    assert list(written["x"]) == ["R&D <b>", "&lt;", "'=1+1", "'\n=1", "'＝1", "'－5", "a=b"]


@pytest.mark.parametrize("address", ["http://a.bc/d", "HTTPS://a.bc", "www.a.bc", "ftp://a.bc"])
def test_an_address_is_no_link(address: str) -> None:
    text = escaped(f"See {address} there")
    # What GitHub looks for in the text as it is written.
    assert "://" not in text
    assert "www." not in text
    assert unescape(MarkdownIt().render(text).strip()) == f"<p>See {address} there</p>"


def test_csv_holds_what_is_drawn() -> None:
    bars = {"type": "data", "array": [0.5, 1.0], "arrayminus": [0.25, 0.5]}
    fig = go.Figure(
        [
            go.Scatter(x=[1, 2], y=[3.0, 4.0], name="a", error_y=bars, text=["=1", "two"]),
            go.Heatmap(z=[[1.0, 2.0], [3.0, np.nan]], x=["p", "q"], y=[0, 1]),
            go.Scatter(x=[], y=[]),
        ]
    )
    table = drawn(fig)
    assert list(table["trace"]) == ["a", "a", "2", "2", "2", "2"]
    assert list(table["low"][:2]) == [2.75, 3.5]
    assert list(table["high"][:2]) == [3.5, 5.0]
    cells = table[table["trace"] == "2"]
    assert list(cells["x"]) == ["p", "q", "p", "q"]
    assert list(cells["y"]) == [0, 0, 1, 1]
    np.testing.assert_array_equal(cells["value"].to_numpy(float), [1, 2, 3, np.nan])
    assert b"'=1" in csv(table)
    assert list(drawn(go.Figure()).columns) == ["trace", "x", "y"]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run_once(tmp_path_factory)


@pytest.mark.slow
def test_the_python_below_each_figure_draws_it(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda self: shown.append(self))
    text = record.document("report.md").decode()
    snippets = re.findall(r"````python\n(.*?)````", text, re.DOTALL)
    names = re.findall(r"\(figures/([\w-]+)\.csv\)", text)
    assert len(snippets) == len(names) > 10
    for name, snippet in zip(names, snippets, strict=True):
        exec(compile(snippet, name, "exec"), {})
        assert csv(drawn(shown[-1])) == record.document(f"{name}.csv"), name
    # The page has the same figures with the same lines.
    page = record.document("report.html").decode()
    assert page.count("RunRecord.open(") == len(snippets)
    for name in names:
        assert f'data-figure="{name}"' in page
        assert (record.path / "figures" / f"{name}.csv").is_file()


@pytest.mark.slow
def test_figures_belong_to_the_run(record: RunRecord, tmp_path: Path) -> None:
    assert not record.damage()
    copy = RunRecord.open(Path(shutil.copytree(record.path, tmp_path / "run")))
    with next((copy.path / "figures").glob("*.csv")).open("ab") as file:
        file.write(b"1")
    assert len(copy.damage()) == 1
    table = pd.read_csv(record.path / "figures" / "margins.csv")
    np.testing.assert_allclose(
        np.sort(table["x"].dropna()), np.sort(record.table("facts")["forward_margin"].dropna())
    )


def test_code_names_options_and_kinds() -> None:
    figure = Figure("f", "F", ("a", "b"), accuracy_bars, "", options={"title": "it's"})
    text = code(Path("some run"), figure, {"a": "table", "b": "dataset"})
    assert "accuracy_bars(run.table('a'), run.dataset('b'), title=\"it's\").show()" in text
    assert "from interp.figures import accuracy_bars" in text


@pytest.mark.browser
def test_figures_are_drawn_as_svg(chromium: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", chromium)
    images, reason = svg({"one": go.Figure(go.Scatter(y=[1, 2], name=HOSTILE))})
    assert not reason
    assert images["one"].lstrip().startswith(b"<svg")
    assert b"<img" not in images["one"]


def test_without_a_browser_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import kaleido

    def fails(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("no Chrome here\nmore")

    monkeypatch.setattr(kaleido, "start_sync_server", fails)
    images, reason = svg({"one": go.Figure()})
    assert images == {}
    assert "no Chrome here" in reason
    assert "more" not in reason
