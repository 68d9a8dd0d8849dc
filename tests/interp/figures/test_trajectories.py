"""Lines of a lens from layer to layer: means over prompts, intervals, ranks on their own axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp.errors import PromptError
from interp.figures import lens_heatmap, rank_lines, step_lines, trajectory_lines
from interp.stats import mean_interval
from tests.interp.figures.conftest import HOSTILE, MakeLens, assert_safe, cells, traces

DIMS = ("example", "layer", "position")


def lens(values: np.ndarray, name: str = "kl") -> xr.Dataset:
    return xr.Dataset({name: (DIMS, values)}, coords={"layer": np.arange(values.shape[1])})


def test_every_prompt_counts_once_however_long_it_is() -> None:
    values = np.array([[[1.0, 3.0], [0.0, 0.0]], [[6.0, np.nan], [2.0, np.nan]]])
    fig = trajectory_lines({"logit lens": lens(values)})
    (line,) = traces(fig, "logit lens")
    np.testing.assert_allclose(line.y, [(2 + 6) / 2, (0 + 2) / 2])
    assert "over 2 prompts" in line.text[0]


def test_the_band_is_the_interval_of_the_mean_where_there_is_one() -> None:
    means = np.random.default_rng(0).normal(size=(6, 4))
    means[:, 2] = 0.7  # no spread, no interval
    fig = trajectory_lines({"logit lens": lens(means[:, :, None])})
    (shade,) = traces(fig, "logit lens 95%")
    low, high = np.array([mean_interval(means[:, at]) for at in (0, 1, 3)]).T
    assert shade.x == (0, 1, 1, 0, None, 3, 3)
    expected = [high[0], high[1], low[1], low[0], high[2], low[2]]
    assert [y for y in shade.y if y is not None] == pytest.approx(expected)
    few = trajectory_lines({"logit lens": lens(means[:4, :, None])})
    assert not traces(few, "logit lens 95%")


def test_one_prompt_has_a_line_and_no_band() -> None:
    fig = trajectory_lines({"a": lens(np.array([[[4.0], [1.0]]]), "entropy")}, "entropy")
    assert [trace.name for trace in fig.data] == ["a"]
    assert "entropy (nats): 4.00" in fig.data[0].text[0]


def test_ranks_are_drawn_on_their_own_scale_and_gaps_do_not_count() -> None:
    ranks = np.array([[[9, 0, -1], [0, 0, -1]]])
    fig = trajectory_lines({"tuned": lens(ranks, "final_rank")}, "final_rank")
    np.testing.assert_allclose(fig.data[0].y, [0.5, 0.0])
    axis = fig.layout.yaxis
    assert axis.range[0] > axis.range[1]
    assert axis.ticktext[0] == "1"
    assert axis.tickvals[0] == 0


def test_what_cannot_be_drawn_is_refused(make_lens: MakeLens) -> None:
    several = make_lens().drop_vars("answer")[["answer_rank", "top_prob"]].expand_dims(candidate=2)
    for draw, message in (
        (lambda: trajectory_lines({"x": make_lens()}, "loss"), "Unknown quantity 'loss'"),
        (lambda: trajectory_lines({"x": make_lens()}, "kl"), "has no 'kl'"),
        (lambda: trajectory_lines({"x": several}, "answer_rank"), "several answers"),
        (lambda: rank_lines({"x": several}), "several answers"),
        (lambda: trajectory_lines({"x": lens(np.full((1, 2, 1), np.nan))}), "No prompt"),
    ):
        with pytest.raises(PromptError, match=message):
            draw()


def test_hostile_names_are_text() -> None:
    assert_safe(trajectory_lines({HOSTILE: lens(np.ones((2, 2, 1)))}))


def test_the_lens_hover_tells_every_answer(make_lens: MakeLens) -> None:
    one = make_lens()
    other = one.assign(answer_rank=one["answer_rank"] + 100)
    other = other.assign_coords(answer=("example", [" Brad"]))
    both = xr.concat(
        [part[["answer_rank", "answer_logprob"]] for part in (one, other)], dim="candidate"
    )
    both = both.assign({name: one[name] for name in ("top_token", "top_prob", "entropy")})
    text = cells(lens_heatmap(both))[(2, 1)]
    assert "Mary Lee" in text
    assert "rank 8" in text
    assert "Brad" in text
    assert "rank 108" in text


def along(**columns: object) -> pd.DataFrame:
    rows = {"step": [20, 0, 100] * 2, "way": ["forward"] * 3 + ["reverse"] * 3, "seed": 0}
    return pd.DataFrame(rows | {"score": [1.0, 0.0, 4.0, 0.1, 0.0, -0.2]} | columns)


def test_a_line_for_each_way_over_the_steps_in_their_order() -> None:
    table = along(low=[0.5, -1, 3, np.nan, np.nan, np.nan], high=[1.5, 1, 5, np.nan, 1, 1])
    others = table.assign(seed=3, score=table["score"] + 1)
    fig = step_lines(
        table, "score", by="way", interval=("low", "high"), beside=others, chance=0.0, label="<b>"
    )
    (forward,), (reverse,) = traces(fig, "forward"), traces(fig, "reverse")
    assert (list(forward.x), list(forward.y)) == ([0, 20, 100], [0.0, 1.0, 4.0])
    assert list(reverse.y) == [0.0, 0.1, -0.2]
    assert forward.line.color != reverse.line.color
    assert forward.text[1] == "<b>step 20</b>, forward<br>1.00<br>95%: 0.50 to 1.50"
    assert "95%" not in reverse.text[1]
    assert list(traces(fig, "forward 95%")[0].y) == [1.0, 1.5, 5.0, 3.0, 0.5, -1.0]
    assert traces(fig, "reverse 95%")[0].x is None or not len(traces(fig, "reverse 95%")[0].x)
    (thin,) = traces(fig, "forward, seed 3")
    assert list(thin.y) == [1.0, 2.0, 5.0]
    assert thin.line.width < forward.line.width
    assert [shape.y0 for shape in fig.layout.shapes] == [0.0]
    assert fig.layout.yaxis.title.text == "&lt;b&gt;"


def test_ranks_and_shares_have_axes_of_their_own() -> None:
    ranks = step_lines(along(score=[9.0, 99, 0, 99, 99, 99]), "score", by="way", scale="rank")
    assert list(traces(ranks, "forward")[0].y) == [2.0, 1.0, 0.0]
    assert "rank 10<" in traces(ranks, "forward")[0].text[1] + "<"
    low, high = ranks.layout.yaxis.range
    assert low > high  # rank 1 on top
    shares = step_lines(along(score=[0.5] * 6), "score", by="way", scale="share", chance=0.1)
    assert tuple(shares.layout.yaxis.range) == (-0.04, 1.04)
    assert traces(shares, "forward")[0].text[0].endswith("50%")


def test_tables_without_a_column_or_a_row_are_refused() -> None:
    with pytest.raises(PromptError, match="no column 'margin'"):
        step_lines(along(), "margin", by="way")
    with pytest.raises(PromptError, match="no column 'low'"):
        step_lines(along(), "score", by="way", interval=("low", "high"))
    with pytest.raises(PromptError, match="no rows"):
        step_lines(along().iloc[:0], "score", by="way")


def test_names_of_ways_are_no_markup() -> None:
    assert_safe(step_lines(along(way=HOSTILE), "score", by="way", label=HOSTILE, title=HOSTILE))
