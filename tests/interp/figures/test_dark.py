"""Figures for a dark page say the same in other colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from interp.figures.drawing import bands, dark, grid, marks, theme
from interp.figures.drawing.dark import darkened, swapped


@pytest.fixture
def figure() -> go.Figure:
    """Cells of every value from -1 to 1, half of them estimated, and one beyond the colours."""
    values = np.linspace(-1.2, 1.0, 40).reshape(4, 10)
    text = np.array([[f"{v:.1f}" for v in row] for row in values], dtype=object)
    cells = grid.Grid(
        values=values,
        hover=text,
        texts=(text,),
        elide=False,
        rows=(0, 1, 2, 3),
        row_labels=("0", "1", "2", "3"),
        columns=tuple(map(str, range(10))),
        row_title="layer",
        column_title="token",
        estimated=values > 0,
    )
    bar = theme.colour_bar("logits")
    fig = grid.draw(
        cells,
        scale=theme.DIVERGING,
        limits=(-1.0, 1.0),
        bar=bar,
        title="A map",
        selected=(1, 2),
        width=900,
        notes=["Small print"],
    )
    marks.mark(fig, [(0, 0)])
    return fig


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def colours(value: Any, key: str = "") -> list[str]:
    """Every colour in a figure's JSON."""
    if isinstance(value, dict):
        return [c for k, v in value.items() for c in colours(v, k)]
    if isinstance(value, list | tuple):
        return [c for v in value for c in colours(v, key)]
    return [value] if isinstance(value, str) and "color" in key else []


@pytest.mark.parametrize("at_night", [False, True])
@pytest.mark.parametrize("scale", ["SEQUENTIAL", "DIVERGING"])
def test_text_can_be_read_on_every_colour_of_a_scale(at_night: bool, scale: str) -> None:
    stops = getattr(dark if at_night else theme, scale)
    values = np.linspace(-1, 1, 401)[None]
    white = marks.is_dark(values, stops, (-1.0, 1.0))[0]
    at = np.linspace(0, 1, len(stops))
    cell = np.interp(np.linspace(0, 1, 401), at, [theme.luminance(c) for c in stops])
    assert min(contrast(1.0 if w else 0.0, c) for w, c in zip(white, cell, strict=True)) >= 4.5


def test_ink_and_small_print_can_be_read_on_both_pages() -> None:
    for page in (theme, dark):
        paper = getattr(page, "PAPER", "#ffffff")
        for ink in (page.INK, page.MUTED):
            for below in (paper, page.EMPTY):
                assert contrast(theme.luminance(ink), theme.luminance(below)) >= 4.5


def test_lines_stand_out_from_a_dark_page() -> None:
    paper = theme.luminance(dark.PAPER)
    for colour in theme.OKABE_ITO:
        assert contrast(theme.luminance(swapped(colour)), paper) >= 3


def test_no_light_colour_is_left_and_the_figure_is_not_changed(figure: go.Figure) -> None:
    before = figure.to_json()
    at_night = darkened(figure)
    assert figure.to_json() == before
    light = {theme.INK, theme.MUTED, theme.RULE, theme.EMPTY, *theme.DIVERGING}
    texts = [trace for trace in at_night.data if trace.name == "text"]
    others = [trace for trace in at_night.data if trace.name != "text"]
    left = colours(
        [trace.to_plotly_json() for trace in others] + [at_night.layout.to_plotly_json()]
    )
    assert light & set(left) == set()
    assert "white" not in left
    assert {trace.textfont.color for trace in texts} == {"white", "black"}


def test_every_cell_keeps_its_text_in_the_colour_that_can_be_read(figure: go.Figure) -> None:
    def written(fig: go.Figure) -> dict[str, np.ndarray]:
        return {
            t.textfont.color: np.asarray(t.text, dtype=object) for t in fig.data if t.name == "text"
        }

    by_day, by_night = written(figure), written(darkened(figure))
    together = [np.where(t["white"] != "", t["white"], t["black"]) for t in (by_day, by_night)]
    np.testing.assert_array_equal(*together)
    # The middle is light by day and dark by night.
    assert by_day["black"][2, 1] != ""
    assert by_night["white"][2, 1] != ""


def test_order_numbers_and_names_stay(figure: go.Figure) -> None:
    at_night = darkened(figure)
    assert [trace.name for trace in at_night.data] == [trace.name for trace in figure.data]
    np.testing.assert_array_equal(at_night.data[0].z, figure.data[0].z)
    np.testing.assert_array_equal(at_night.data[1].customdata, figure.data[1].customdata)
    assert at_night.layout.title == figure.layout.title or (
        at_night.layout.title.text == figure.layout.title.text
    )


def test_what_is_near_zero_is_near_the_page_in_both() -> None:
    for page, paper in ((theme, "#ffffff"), (dark, dark.PAPER)):
        away = [contrast(theme.luminance(c), theme.luminance(paper)) for c in page.DIVERGING]
        middle = len(away) // 2
        assert np.argmin(away) == middle
        assert (np.diff(away[middle:]) > 0).all()
        assert (np.diff(away[: middle + 1]) < 0).all()
        away = [contrast(theme.luminance(c), theme.luminance(paper)) for c in page.SEQUENTIAL]
        assert (np.diff(away) > 0).all()


def test_tints_keep_their_hue_and_unknown_colours_stay() -> None:
    shade = bands.band([0.0, 1.0], np.zeros(2), np.ones(2), theme.OKABE_ITO[0], "x")
    assert shade.fillcolor == "rgba(0,114,178,0.16)"
    assert swapped(shade.fillcolor) == "rgba(0,114,178,0.256)"
    assert swapped("rgba(0, 0, 0, 0.1)") == "rgba(244,245,247,0.16)"
    assert swapped("rgba(0,0,0,0)").endswith(",0)")
    assert swapped("hotpink") == "hotpink"
    assert swapped("#123456") == "#123456"


def test_texts_and_data_that_look_like_colours_stay() -> None:
    fig = go.Figure(go.Scatter(x=["white"], y=[1], text=["#1f2430"], marker={"color": ["white"]}))
    at_night = darkened(theme.finish(fig, title="white", height=100))
    assert list(at_night.data[0].x) == ["white"]
    assert list(at_night.data[0].text) == ["#1f2430"]
    assert list(at_night.data[0].marker.color) == [dark.PAPER]
    assert at_night.layout.title.text == "white"
