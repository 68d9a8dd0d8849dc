"""Studies that other packages bring, in the explorer: it knows none of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import plotly.graph_objects as go
import pytest
import streamlit as st

from app import resources, runs
from experiments.explorer import Page
from experiments.figure import Figure, Telling
from experiments.records import RunRecord
from experiments.registry import find_study
from experiments.reports.code import code as code_of
from experiments.runner import run_study
from tests.app.pages import Open, assert_fine, html, turned_to
from tests.experiments.packages import install, install_dice

FIGURE = 'Figure("pips", "<b>*Pips*", ("dice",), bars, "Pips")'
IMPORTS = "from experiments.explorer import Examples, Figure, Page\n"
TWICE = f"""{IMPORTS}
from dice_figures import bars

def explorer():
    return Page(figures=({FIGURE}, {FIGURE}))
"""
DRAWS = f"""{IMPORTS}
def bars(dice):
    {{}}

def explorer():
    return Page(figures=({FIGURE},))
"""
IN_VAIN = f"""{IMPORTS}
import dataclasses
from dice_study import STUDY as DICE

def measure(model, progress):
    raise KeyError("facts")

def explorer():
    some = dict.fromkeys(field.name for field in dataclasses.fields(Examples))
    return Page(examples=Examples(**{{**some, "one": "throw", "measure": measure}}))

STUDY = dataclasses.replace(DICE, name="asks-in-vain", explorer=explorer)
"""


def plain(text: object) -> str:
    """What is read of a text whose Markdown is escaped."""
    return str(text).replace("\\", "")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose packages are found, with one study in it."""
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(folder))
    st.cache_resource.clear()
    yield install_dice(folder)
    st.cache_resource.clear()


@pytest.fixture
def thrown(packages: Path, tmp_path: Path) -> RunRecord:
    study = find_study("dice")
    return run_study(study, study.configure("quick"), preset="quick", root=tmp_path / "runs")


@pytest.mark.slow
def test_its_run_is_opened_with_its_figures(
    open_page: Open, thrown: RunRecord, tmp_path: Path
) -> None:
    page = open_page(tmp_path / "runs")
    assert_fine(page)
    assert [str(warning.value) for warning in page.warning] == []
    assert "Dice are fair." in html(page)
    (chart,) = page.get("plotly_chart")
    drawn = json.loads(chart.proto.spec)
    assert sum(drawn["data"][0]["y"]) == 12
    assert list(page.dataframe[0].value["pips"]) == list(thrown.table("dice")["pips"])
    # It is of no model, and none is looked for.
    page = turned_to(page, "prompt")
    assert_fine(page)
    assert [str(warning.value) for warning in page.warning] == []
    assert "This run is of no single model" in html(page)


def test_the_code_beside_its_figure_makes_that_figure(
    thrown: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda self: shown.append(self))
    (figure,) = resources.page("dice")[0].figures
    code = code_of(thrown.path, figure, {"dice": "table"})
    assert "from dice_figures import bars" in code
    exec(compile(code, "snippet", "exec"), {})
    assert shown[0] == figure.draw(thrown.table("dice"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def explorer():\n    raise SystemExit(1)\n", "(SystemExit)"),
        ("def explorer():\n    return 3\n", "(TypeError)"),
        ("explorer = 3\n", "(TypeError)"),
        (TWICE, "(ValueError)"),
        (DRAWS.format("1 / 0"), "The figure '<b>*Pips*' could not be drawn (ZeroDivisionError)"),
        (DRAWS.format("return 3"), "The figure '<b>*Pips*' could not be drawn (TypeError)"),
        (
            DRAWS.format(
                "from interp.errors import StatisticsError as E; raise E('No <i>dice</i>.')"
            ),
            "The figure '<b>*Pips*' could not be drawn: No <i>dice</i>.",
        ),
    ],
)
def test_a_page_or_figure_that_fails_is_told_and_all_else_is_shown(
    open_page: Open, packages: Path, tmp_path: Path, code: str, said: str
) -> None:
    points = {"bad-page": "bad_page:STUDY"}
    imported = "import dataclasses\nfrom dice_study import STUDY as DICE\n"
    made = 'STUDY = dataclasses.replace(DICE, name="bad-page", explorer=explorer)\n'
    install(packages, "bad-page", points, {"bad_page": f"{imported}{code}\n{made}"})
    study = find_study("bad-page")
    run_study(study, study.configure("quick"), preset="quick", root=tmp_path / "runs")
    page = open_page(tmp_path / "runs")
    assert_fine(page)
    (warning,) = page.warning
    assert said in plain(warning.value)
    assert "Dice are fair." in html(page)
    assert len(page.dataframe[0].value) == 12
    sys.modules.pop("bad_page")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("[obverse.studies]\ndice = no_such_module:STUDY\n", "cannot be imported"),
        ("", "Unknown study 'dice'"),
    ],
)
def test_a_run_of_a_study_that_is_gone_or_broken_shows_what_is_stored(
    open_page: Open, thrown: RunRecord, packages: Path, tmp_path: Path, points: str, said: str
) -> None:
    (packages / "dice-games-1.0.dist-info" / "entry_points.txt").write_text(points)
    page = open_page(tmp_path / "runs")
    assert_fine(page)
    (warning,) = page.warning
    assert said in plain(warning.value)
    assert "Dice are fair." in html(page)
    assert len(page.dataframe[0].value) == 12


def test_a_study_whose_page_cannot_be_made_is_told_and_its_tables_are_shown(
    open_page: Open, packages: Path, tmp_path: Path
) -> None:
    code = (packages / "dice_study.py").read_text().replace("from dice_figures", "from no_figures")
    code = code.replace('"dice",\n', '"loaded-dice",\n')
    points = {"loaded-dice": "loaded_dice:STUDY"}
    install(packages, "loaded-dice", points, {"loaded_dice": code})
    study = find_study("loaded-dice")
    run_study(study, study.configure("quick"), preset="quick", root=tmp_path / "runs")
    page = open_page(tmp_path / "runs")
    assert_fine(page)
    (warning,) = page.warning
    assert "ModuleNotFoundError" in str(warning.value)
    assert len(page.dataframe[0].value) == 12


@pytest.mark.slow
def test_a_broken_study_does_not_hide_what_a_model_brings_along(
    open_page: Open, model_folder: Path, packages: Path, tmp_path: Path
) -> None:
    points = {"a-broken-one": "no_such_module:STUDY", "asks-in-vain": "in_vain:STUDY"}
    install(packages, "broken-things", points, {"in_vain": IN_VAIN})
    page = open_page(tmp_path / "none", query={"model": str(model_folder), "example": "4"})
    assert_fine(page)
    assert "Finn Grove  ·  Gia Hale" in html(page)
    (warning,) = page.warning
    assert "'asks-in-vain' asks could not be asked (KeyError)" in plain(warning.value)


@pytest.mark.slow
def test_links_from_before_studies_were_found_open_the_same_example(
    open_page: Open, model_folder: Path, tmp_path: Path
) -> None:
    page = open_page(tmp_path / "none", query={"model": str(model_folder), "fact": "4"})
    assert_fine(page)
    assert "Finn Grove  ·  Gia Hale" in html(page)
    assert page.query_params["example"] == "4"
    assert "fact" not in page.query_params


def test_a_figure_that_no_code_could_import_is_refused() -> None:
    def inner(table: Any) -> go.Figure:
        return go.Figure()

    for draw in (inner, lambda table: go.Figure()):
        with pytest.raises(ValueError, match="no function of a module"):
            Page(figures=(Figure("f", "F", ("facts",), draw, ""),))


def test_a_figure_of_a_run_is_built_once_and_the_last_ones_are_kept() -> None:
    run = runs.Run(cast(RunRecord, SimpleNamespace()))
    built: list[int] = []

    def build(number: int) -> int:
        built.append(number)
        return number

    for number in range(runs.DRAWN):
        assert run.drawn(number, lambda number=number: build(number)) == number
    assert run.drawn(0, lambda: build(-1)) == 0
    assert run.drawn("one more", lambda: build(-2)) == -2  # in the place of the second
    assert run.drawn(0, lambda: build(-3)) == 0
    assert run.drawn(1, lambda: build(-4)) == -4
    assert built == [*range(runs.DRAWN), -2, -4]
    with pytest.raises(ZeroDivisionError):
        run.drawn("fails", lambda: 1 // 0)
    assert run.drawn("fails", lambda: build(-5)) == -5


def test_a_study_figure_is_drawn_once_for_many_visits(
    open_page: Open, thrown: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    telling = Figure.telling

    def counted(figure: Figure, *results: Any) -> Telling:
        drawn.append(figure.name)
        return telling(figure, *results)

    monkeypatch.setattr(Figure, "telling", counted)
    root = thrown.path.parent.parent
    for _ in range(2):
        page = open_page(root, query={"page": "study"})
        assert_fine(page)
        assert len(page.get("plotly_chart")) == 1
    assert drawn == ["pips"]
