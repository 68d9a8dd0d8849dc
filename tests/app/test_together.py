"""Examples that are chosen together: in links, and on the page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import streamlit as st
import xarray as xr

from app import state
from app.clicks import lassoed
from app.link import from_query, to_query
from app.panels import example_table
from app.screen.shown import Shown
from app.selection import View
from app.together import MOST, from_text, to_text
from experiments.explorer import Examples
from experiments.records import RunRecord
from tests.app.pages import Open, assert_fine, html, root_of


@pytest.mark.parametrize("numbers", [(), (0,), (3, 4, 5), (1, 2, 3, 7, 9, 10), (999_999,)])
def test_links_hold_them(numbers: tuple[int, ...]) -> None:
    assert from_text(to_text(numbers)) == numbers
    view = View(together=numbers)
    assert from_query(to_query(view)) == view


def test_many_take_little_room() -> None:
    chance = np.random.default_rng(0)
    numbers = tuple(sorted(int(n) for n in chance.choice(200, 150, replace=False)))
    assert from_text(to_text(numbers)) == numbers
    assert len(to_text(numbers)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "1." * MOST + "1",
        "x",
        "1-",
        "-1",
        "5-3",
        "1..2",
        "0-999999",
        "1.2.٣",
        "9999999",
        f"0-{MOST}",
    ],
)
def test_what_makes_no_sense_chooses_nothing(text: str) -> None:
    assert from_text(text) == ()


def test_a_lasso_tells_its_points() -> None:
    points = [{"customdata": [4]}, {"customdata": {"0": 2}}, {"customdata": [1, 2]}, {}]
    assert lassoed({"selection": {"points": points}}) == [4, 2]
    assert lassoed(None) == []


def test_a_second_click_on_a_point_lets_go_of_no_lasso(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tell that nothing is selected: a point that is clicked again, and a double-click."""
    session, view = {}, {"together": (), "example": None}
    monkeypatch.setattr(st, "session_state", session)
    monkeypatch.setattr(state, "change", lambda **changed: view.update(changed))
    monkeypatch.setattr(state, "view", lambda: View(together=view["together"]))

    def told(*numbers: int) -> None:
        points = [{"customdata": [number]} for number in numbers]
        session["figure"] = {"selection": {"points": points}}
        example_table.on_point("figure")

    told(4, 2)
    told(3)
    told()
    assert view == {"together": (2, 4), "example": 3, "cell": None}
    told()
    assert view["together"] == ()


def test_one_of_two_that_ask_the_same_is_taken_alone(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mother of two is asked for her child: both facts are one question."""
    monkeypatch.setattr(state, "view", lambda: View(together=(0, 2)))
    table = pd.DataFrame(
        {
            "fact": [0, 1, 2],
            "split": "forward",
            "forward_prompt": ["A's mother is", "B's mother is", "C's mother is"],
            "reverse_prompt": ["M's child is", "M's child is", "N's child is"],
        }
    )
    older = xr.Dataset(coords={"prompt": ("example", table["reverse_prompt"].tolist())})
    lens = older.assign_coords(fact=("example", [0, 1, 2]))
    shown = Shown(examples, table, None, None)
    assert shown.asked_together(0, [lens, lens]).among(lens) == [0, 2]
    # Without their numbers nothing tells them apart.
    assert shown.asked_together(0, [lens, older]).among(older) == [0, 1, 2]


@pytest.mark.slow
def test_means_are_of_those_that_were_chosen(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"together": "0-1.3", "patch-of": "mean"})
    assert_fine(page)
    assert "3 facts were chosen in the figure" in html(page)
    assert len(page.dataframe[0].value) == 3
    assert "[0, 1, 3]" in next(one.value for one in page.code if "table.loc" in one.value)
    stored = record.dataset("patching_forward_resid_pre")
    n = int(np.isin(stored["fact"].values, (0, 1, 3)).sum())
    assert n > 1
    said = [str(one.options) for one in page.button_group]
    assert any(f"Mean of {n} chosen facts" in text for text in said)
    page.button(key="together").click().run()
    assert_fine(page)
    assert "were chosen in the figure" not in html(page)
    assert "together" not in page.query_params
