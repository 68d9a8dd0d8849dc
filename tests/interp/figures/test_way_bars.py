"""Bars of two ways: what is drawn is what was given, and text is text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.figures import way_bars

HOSTILE = "<img src=x onerror=alert(1)>"


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group": ["a", "b", "a", "b", HOSTILE],
            "way": ["there", "there", "back", "back", "back"],
            "value": [0.5, 0.25, 0.1, np.nan, 0.4],
            "low": [0.4, np.nan, 0.05, np.nan, 0.3],
            "high": [0.7, np.nan, 0.15, np.nan, 0.6],
            "n": [10, 11, 12, 13, 14],
        }
    )


def test_bars_and_whiskers_are_the_values_and_their_intervals() -> None:
    there, back = way_bars(rows(), axis="share", share=True, even=0.5).data
    assert (there.name, list(there.x), list(there.y)) == ("there", ["a", "b"], [0.5, 0.25])
    np.testing.assert_allclose(there.error_y.array, [0.2, 0.0])
    np.testing.assert_allclose(there.error_y.arrayminus, [0.1, 0.0])
    assert list(back.y) == [0.1, 0.4]  # no bar where there is no value
    assert "95% interval 40% to 70%" in there.text[0]
    assert "interval" not in there.text[1]  # nor an interval where there is none
    assert "n = 11" in there.text[1]
    assert there.marker.color != back.marker.color


def test_the_line_of_chance_stands_where_it_was_put() -> None:
    (line,) = way_bars(rows(), axis="x", even=0.5).layout.shapes
    assert line.y0 == line.y1 == 0.5
    assert not way_bars(rows(), axis="x").layout.shapes


def test_names_are_text_and_long_ones_are_wrapped() -> None:
    table = rows().replace({"there": HOSTILE, "a": "told the description first of all"})
    text = way_bars(table, axis=HOSTILE).to_json()
    assert "<img" not in text.replace("\\u003c", "<")
    assert "told the<br>description" in text.replace("\\u003c", "<").replace("\\u003e", ">")


@pytest.mark.parametrize("bad", [None, pd.DataFrame({"group": ["a"]}), 3])
def test_other_tables_are_refused_in_a_sentence(bad: Any) -> None:
    from cache.errors import ObverseError

    with pytest.raises((ObverseError, TypeError)):
        way_bars(bad, axis="x")
