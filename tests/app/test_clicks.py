"""Clicks are read whatever Streamlit makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import streamlit as st

from app import state
from app.clicks import (
    clicked,
    clicked_one,
    column_of,
    filters_of,
    lassoed,
    picked,
    picked_column,
    sorted_by,
)
from app.screen import follow
from app.selection import Cell, View


def event(data: object) -> dict[str, object]:
    return {"selection": {"points": [{"customdata": data}], "point_indices": [0]}}


def test_a_click_tells_figure_layer_and_column() -> None:
    assert clicked({"figure": "lens-forward", "cell": [2, 5]}) == ("lens-forward", (2, 5))
    assert clicked({"figure": "lens-forward", "cell": [2.0, 5.0]}) == ("lens-forward", (2, 5))


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        *("ab", [], {}, {"figure": "x"}, {"cell": [1, 2]}, {"figure": 3, "cell": [1, 2]}),
        *({"figure": "x", "cell": cell} for cell in ([1], [1, 2, 3], ["1", 2], [-1, 2], "12")),
        *({"figure": "x", "cell": [1, n]} for n in (float("nan"), float("inf"), 1e300, None, True)),
    ],
)
def test_a_click_that_makes_no_sense_selects_nothing(nonsense: object) -> None:
    assert clicked(nonsense) is None


def test_a_point_tells_its_fact() -> None:
    assert clicked_one(event([7])) == 7
    assert clicked_one(event({"0": 7})) == 7
    assert clicked_one(event([7, 1])) is None
    assert clicked_one({}) is None


def test_a_row_tells_the_fact_that_stands_there_now() -> None:
    assert picked({"selection": {"rows": [1]}}, [4, 9]) == 9
    assert picked({"selection": {"rows": []}}, [4, 9]) is None
    # A row number from before the search was changed.
    assert picked({"selection": {"rows": [5]}}, [4, 9]) is None


def test_a_heading_sorts_up_then_down_then_not() -> None:
    assert picked_column({"selection": {"rows": [1], "columns": ["rank"]}}) == "rank"
    assert picked_column({"selection": {"rows": [1], "columns": []}}) is None
    assert picked_column(None) is None
    sorts = [""]
    for _ in range(3):
        sorts.append(sorted_by(sorts[-1], "rank"))
    assert sorts == ["", "rank", "-rank", ""]
    assert sorted_by("-rank", "margin") == "margin"


def test_a_token_is_found_on_an_axis_that_lacks_some() -> None:
    labels = ["start -1", "subject -1", "end -1"]
    slots = {"start -1": 0, "subject -1": 2, "end -1": 3}
    assert column_of(labels, slots, 2) == 1
    assert column_of(labels, slots, 1) is None


def test_filters_of_a_drawing_are_read_with_suspicion() -> None:
    told = {"circuit-strongest": 12.0, "circuit-paths": "through", "circuit-heads": "apart"}
    assert filters_of(told) == told | {"circuit-strongest": "12"}
    for nonsense in (None, [], "x", {"circuit-paths": ["through"]}, {"circuit-strongest": True}):
        assert filters_of(nonsense) == {}
    for number in (-1, float("nan"), float("inf"), 1e9, "3"):
        assert filters_of({"circuit-strongest": number}) == {}


def test_a_click_is_heard_while_the_same_page_is_drawn_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(st, "session_state", {"view": View(example=1)})
    monkeypatch.setattr(st, "fragment", lambda wait: lambda: None)
    monkeypatch.setattr(st, "html", lambda text: None)

    def heard() -> set[str]:
        followers: follow.Followers = st.session_state["follow"]
        return set(followers.choices)

    follow.start()
    follow.cells("map", lambda: None, lambda place: None)
    state.change(cell=Cell("forward", 1, 2))
    follow.start()  # and no further: something else has it drawn once more
    assert heard() == {"map"}
    state.change(example=2)
    follow.start()
    assert heard() == set()


@pytest.mark.parametrize(
    "selection",
    [
        {"rows": ["x"], "points": ["x"]},
        {"rows": [1.5], "points": [{"customdata": ["x"]}]},
        {"rows": [-1], "points": [{"customdata": {"a": "1"}}]},
        {"rows": [None], "points": [{"customdata": [float("nan")]}]},
        {"rows": [3], "points": [{"customdata": [1e30]}, {"customdata": [-1]}, {}]},
        {"rows": [[]], "points": [{"customdata": "4"}, {"customdata": [True]}, None]},
    ],
)
def test_a_selection_that_is_none_selects_nothing(selection: dict[str, Any]) -> None:
    """A browser can tell anything; nothing of it may go wrong in what answers it."""
    assert lassoed({"selection": selection}) == []
    assert clicked_one({"selection": selection}) is None
    assert picked({"selection": selection}, (7, 8, 9)) is None
