"""Rank lines, accuracy bars and the scatter of directions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp.errors import MetricError, PromptError
from interp.figures import accuracy_bars, direction_scatter, rank_lines
from interp.figures.drawing.numbers import place, rank
from interp.figures.ranks import last_ranks
from interp.stats import median_interval
from tests.interp.figures.conftest import HOSTILE, MakeLens


def ranked(ranks: list[list[int]]) -> xr.Dataset:
    return xr.Dataset(
        {"answer_rank": (("example", "layer"), np.array(ranks))},
        coords={"layer": np.arange(len(ranks[0]))},
    )


def test_lines_are_medians_on_a_log_scale_with_ranks_as_labels() -> None:
    fig = rank_lines({"forward": ranked([[99, 0], [9, 0], [999, 4]])})
    line = next(trace for trace in fig.data if trace.name == "forward")
    np.testing.assert_allclose(line.y, np.log10([100, 1]))
    axis = fig.layout.yaxis
    for at, label in zip(axis.tickvals, axis.ticktext, strict=True):
        assert at == pytest.approx(np.log10(int(label.replace(",", ""))))
    assert axis.range[0] > axis.range[1]  # the first choice on top
    assert axis.ticktext[0] == "1"
    assert "median rank 100 over 3 facts" in line.text[0]


def test_people_count_ranks_from_one_and_results_from_zero() -> None:
    assert [rank(0), rank(106), rank(1233), rank(2.5)] == ["1", "107", "1,234", "3.5"]
    assert [rank(-1), rank(np.nan)] == ["–", "–"]
    assert place(0, 512) == "the model’s first choice"
    assert place(106, 50257) == "at rank 107 of 50,257"


def test_the_band_is_the_interval_of_the_median() -> None:
    ranks = [[int(i * i)] for i in range(20)]
    fig = rank_lines({"reverse": ranked(ranks)})
    band = next(trace for trace in fig.data if trace.fill == "toself")
    low, high = median_interval([float(r[0]) for r in ranks])
    np.testing.assert_allclose(band.y, np.log10([1 + high, 1 + low]))


def test_one_fact_has_a_line_and_no_band() -> None:
    fig = rank_lines({"forward": ranked([[7, 3, 0]])})
    assert [trace.fill for trace in fig.data] == [None]
    np.testing.assert_allclose(fig.data[0].y, np.log10([8, 4, 1]))


def test_ranks_of_all_positions_are_read_at_each_prompts_end(make_lens: MakeLens) -> None:
    lens = make_lens(examples=2)
    lens["answer_rank"][1, :, 2] = -1  # the second prompt is one token shorter
    expected = lens["answer_rank"].values
    np.testing.assert_array_equal(last_ranks(lens)[0], expected[0, :, 2])
    np.testing.assert_array_equal(last_ranks(lens)[1], expected[1, :, 1])


def test_missing_ranks_leave_a_gap() -> None:
    fig = rank_lines({"forward": ranked([[-1, 3]])})
    assert np.isnan(fig.data[0].y[0])
    assert np.isfinite(fig.data[0].y[1])


def test_chance_is_the_median_of_a_random_guess() -> None:
    fig = rank_lines({"forward": ranked([[7]])}, chance=1001)
    assert fig.layout.shapes[0].y0 == pytest.approx(np.log10(501))


def test_a_lens_without_answers_has_no_ranks(make_lens: MakeLens) -> None:
    with pytest.raises(PromptError, match="answers"):
        rank_lines({"x": make_lens().drop_vars("answer_rank")})


def accuracy() -> pd.DataFrame:
    rows = [
        ("forward", "forward", "trained", 9, 10, 0.9, 0.6, 0.98),
        ("forward", "reverse", "trained", 0, 10, 0.0, 0.0, 0.28),
        ("held_out", "forward", "held_out", 0, 0, np.nan, 0.0, 1.0),
    ]
    names = ["split", "direction", "templates", "correct", "total", "rate", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def test_bars_are_rates_and_their_errors_reach_the_intervals_ends() -> None:
    fig = accuracy_bars(accuracy())
    bar = next(t for t in fig.data if t.name == "asked forward" and t.x[0] == "forward")
    assert bar.y[0] == 0.9
    assert bar.y[0] + bar.error_y.array[0] == pytest.approx(0.98)
    assert bar.y[0] - bar.error_y.arrayminus[0] == pytest.approx(0.6)
    assert "9 of 10" in bar.text[0]
    never = next(t for t in fig.data if t.name == "asked reverse")
    assert never.y[0] == 0
    assert never.error_y.array[0] == pytest.approx(0.28)


def test_a_split_without_facts_has_no_bar() -> None:
    fig = accuracy_bars(accuracy())
    bar = next(t for t in fig.data if t.x[0] == "held out")
    assert np.isnan(bar.y[0])


def facts() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "fact": [4, 7, 9],
            "subject": ["Tom Cruise", HOSTILE, "Ann"],
            "object": ["Mary Lee Pfeiffer", "<b>", "Bea"],
            "split": ["forward", "forward", "held_out"],
            "forward_margin": [9.0, 8.0, np.nan],
            "reverse_margin": [0.5, -1.0, 0.0],
        }
    )


def test_each_fact_is_a_point_of_its_split_that_can_be_clicked() -> None:
    fig = direction_scatter(facts(), selected=7)
    trained = fig.data[0]
    assert list(trained.x) == [9.0, 8.0]
    assert list(trained.y) == [0.5, -1.0]
    assert [list(c) for c in trained.customdata] == [[4], [7]]
    assert [t.name for t in fig.data[:2]] == ["forward", "held out"]
    assert list(fig.data[-1].x) == [8.0]  # the ring


def test_facts_can_be_drawn_by_their_log_probabilities() -> None:
    told = facts().assign(forward_logprob=[-0.1, -0.2, -9.0], reverse_logprob=[-8.0, -7.0, -6.0])
    fig = direction_scatter(told, value="logprob", selected=9)
    assert list(fig.data[0].x) == [-0.1, -0.2]
    assert list(fig.data[0].y) == [-8.0, -7.0]
    assert (list(fig.data[-1].x), list(fig.data[-1].y)) == ([-9.0], [-6.0])
    assert "forward -0.10 nats, reverse -8.00 nats" in fig.data[0].text[0]
    assert fig.layout.xaxis.title.text == "log-probability asked forward (nats)"
    with pytest.raises(MetricError, match="no 'forward_logprob'"):
        direction_scatter(facts(), value="logprob")


def test_no_band_lies_over_a_line() -> None:
    rng = np.random.default_rng(0)
    lenses = {name: ranked(rng.integers(0, 50, (20, 3)).tolist()) for name in ("forward", "both")}
    areas = [trace.fill == "toself" for trace in rank_lines(lenses).data]
    assert areas == [True, True, False, False]


def test_hostile_names_are_text() -> None:
    text = json.dumps([t.to_plotly_json() for t in direction_scatter(facts()).data], default=list)
    assert "<img" not in text
    assert "&lt;img" in text
    bars = accuracy().assign(split=HOSTILE)
    text = json.dumps([t.to_plotly_json() for t in accuracy_bars(bars).data], default=list)
    assert "<img" not in text
    assert "&lt;img" in text
    text = json.dumps(
        [t.to_plotly_json() for t in rank_lines({HOSTILE: ranked([[1], [2]])}).data], default=list
    )
    assert "<img" not in text
    assert "&lt;img" in text


def test_no_facts_make_an_empty_figure() -> None:
    assert len(direction_scatter(facts().iloc[:0]).data) == 0


def test_margins_of_a_model_that_knows_nothing_lie_near_the_middle() -> None:
    weak = facts().assign(forward_margin=[0.02, -0.01, 0.0], reverse_margin=[0.01, 0.03, -0.02])
    for axis in (direction_scatter(weak).layout.xaxis, direction_scatter(weak).layout.yaxis):
        low, high = axis.range
        assert low < -0.9
        assert high > 0.9
