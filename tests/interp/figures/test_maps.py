"""The lens heatmap and the patching map: their numbers, clicks, and hostile text."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from interp.errors import ArgumentError, PromptError, SiteError
from interp.figures import lens_heatmap, patching_map
from interp.figures.drawing.numbers import plain
from interp.figures.patching import Value
from interp.stats import mean_interval
from tests.interp.figures.conftest import HOSTILE, MakeLens, MakeSweep, assert_safe, cells, traces


def test_the_lens_shows_the_top_probability_with_layer_0_at_the_bottom(
    make_lens: MakeLens,
) -> None:
    lens = make_lens(examples=2)
    fig = lens_heatmap(lens, 1)
    values = traces(fig, "values")[0]
    np.testing.assert_array_equal(values.z, lens["top_prob"].values[1, :, :, 0])
    assert (values.zmin, values.zmax) == (0.0, 1.0)
    assert list(values.y) == [0, 1, 2]
    assert fig.layout.yaxis.range[0] < fig.layout.yaxis.range[1]
    assert list(fig.layout.xaxis.ticktext) == ["·Tom", "·Cruise", "'s"]


def test_the_lens_hover_tells_the_cells_own_numbers(make_lens: MakeLens) -> None:
    lens = make_lens()
    text = cells(lens_heatmap(lens))[(2, 1)]
    assert "after 2 blocks" in text
    assert "50.7%" in text
    assert "0.7%" in text
    assert "rank 8, −7.00 nats" in text  # 7 tokens are likelier
    assert "entropy 0.70 nats" in text


def test_a_lens_without_answers_speaks_of_none(make_lens: MakeLens) -> None:
    lens = make_lens().drop_vars(["answer_rank", "answer_logprob", "answer"])
    assert not any("rank" in text for text in cells(lens_heatmap(lens)).values())


def test_padding_is_left_out_of_the_lens(make_lens: MakeLens) -> None:
    lens = make_lens(tokens=(" Tom", "'s", ""))
    lens["top_prob"][:, :, 2] = np.nan
    fig = lens_heatmap(lens)
    assert np.asarray(traces(fig, "values")[0].z).shape == (3, 2)
    assert len(cells(fig)) == 6


def test_every_lens_cell_can_be_clicked(make_lens: MakeLens) -> None:
    fig = lens_heatmap(make_lens())
    target = traces(fig, "cells")[0]
    for x, y, (layer, position) in zip(target.x, target.y, target.customdata, strict=True):
        assert (y, x) == (layer, position)
    assert len(cells(fig)) == 9


@pytest.mark.slow
def test_a_lens_of_many_tokens_and_layers_drops_text_and_grows(make_lens: MakeLens) -> None:
    fig = lens_heatmap(make_lens(tokens=(" word",) * 120, n_layers=48))
    assert not traces(fig, "text")
    assert fig.layout.width > 120 * 12
    assert fig.layout.height < 900
    assert lens_heatmap(make_lens()).layout.width is None


def test_the_chosen_cell_is_outlined(make_lens: MakeLens) -> None:
    fig = lens_heatmap(make_lens(), selected=(2, 1))
    shape = fig.layout.shapes[-1]
    assert (shape.x0, shape.x1, shape.y0, shape.y1) == (0.5, 1.5, 1.5, 2.5)
    assert not lens_heatmap(make_lens(), selected=(9, 1)).layout.shapes


def test_an_unknown_example_is_refused(make_lens: MakeLens) -> None:
    with pytest.raises(PromptError, match="no example 3"):
        lens_heatmap(make_lens(), 3)


def test_hostile_tokens_are_text_in_the_lens(make_lens: MakeLens) -> None:
    lens = make_lens(tokens=(HOSTILE, "<b>", "&lt;"), top=HOSTILE)
    lens = lens.assign_coords(answer=("example", ["<a href='javascript:x'>"]))
    assert_safe(lens_heatmap(lens, title=f"{HOSTILE}<b>"))


def test_text_contrasts_with_its_cell(make_lens: MakeLens) -> None:
    lens = make_lens()
    lens["top_prob"][0, :, :, 0] = np.array([[0.0, 0.1, 0.2], [0.3, 0.5, 0.6], [0.8, 0.9, 1.0]])
    fig = lens_heatmap(lens)
    written_white = {t.textfont.color: np.isfinite(t.z) for t in traces(fig, "text")}["white"]
    np.testing.assert_array_equal(
        written_white, [[False, False, False], [False, False, False], [True, True, True]]
    )


def test_the_map_shows_the_mean_share_over_pairs(make_sweep: MakeSweep) -> None:
    share = np.array([[[0.0, 0.2], [1.0, 0.5]], [[0.0, 0.4], [0.5, -0.5]]])
    fig = patching_map(make_sweep(share, times=3))
    values = traces(fig, "values")[0]
    np.testing.assert_allclose(values.z, [[0.0, 0.3], [0.75, 0.0]], atol=1e-6)
    assert (values.zmin, values.zmax) == (-1, 1)
    text = cells(fig)[(1, 0)]
    assert "0.75" in text
    assert "patched 3.00 logits" in text
    assert "clean 5.00, corrupted −3.00" in text
    assert "6 pairs" in text


def test_the_map_of_one_pair_names_its_tokens(make_sweep: MakeSweep) -> None:
    share = np.array([[[0.0, 0.2]], [[0.4, 0.6]]])
    fig = patching_map(make_sweep(share, tokens=(" Tom", "'s"), times=3), example=1)
    np.testing.assert_allclose(traces(fig, "values")[0].z, [[0.4, 0.6]], atol=1e-6)
    assert list(fig.layout.xaxis.ticktext) == ["·Tom", "'s"]
    assert "1 pair" in cells(fig)[(0, 0)]


def test_the_raw_map_is_centred_at_zero(make_sweep: MakeSweep) -> None:
    fig = patching_map(make_sweep(np.array([[[0.0, 1.5]]])), value="raw")
    values = traces(fig, "values")[0]
    np.testing.assert_allclose(values.z, [[-3.0, 9.0]])
    assert (values.zmin, values.zmax) == (-9.0, 9.0)


def test_changes_count_from_the_corrupted_run_and_can_share_a_scale(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[0.0, 0.5]], [[0.25, 0.5]]]))
    values = traces(patching_map(result, value="change"), "values")[0]
    np.testing.assert_allclose(values.z, [[1, 4]])
    assert (values.zmin, values.zmax) == (-4.0, 4.0)
    fig = patching_map(result, value="change", limit=2.0)
    values = traces(fig, "values")[0]
    assert (values.zmin, values.zmax) == (-2.0, 2.0)
    assert "1 cell lies beyond ±2" in fig.layout.annotations[0].text


def test_values_beyond_the_colours_are_flagged(make_sweep: MakeSweep) -> None:
    fig = patching_map(make_sweep(np.array([[[0.0, 1.4], [-1.2, 1.0]]]), times=5))
    hover = cells(fig)
    assert "beyond" in hover[(0, 1)]
    assert "beyond" in hover[(1, 0)]
    assert "beyond" not in hover[(0, 0)]
    assert "beyond" not in hover[(1, 1)]
    assert "2 cells lie beyond" in fig.layout.annotations[0].text
    assert "up to 1.40" in fig.layout.annotations[0].text
    assert not patching_map(make_sweep(np.array([[[0.0, 1.0]]]), times=5)).layout.annotations


def test_tokens_that_some_pairs_lack_count_only_where_they_are(make_sweep: MakeSweep) -> None:
    share = np.array([[[np.nan, 0.2]], [[0.5, 0.6]]])
    result = make_sweep(share)
    hover = cells(patching_map(result))
    assert "1 pair" in hover[(0, 0)]
    assert "2 pairs" in hover[(0, 1)]
    # For the pair without it the column is grey, and clicks still name the result's columns.
    of_one = cells(patching_map(result, example=0))
    assert "no token stands for it" in of_one[(0, 0)]
    assert "no token stands for it" not in of_one[(0, 1)]
    assert patching_map(result, example=0, selected=(0, 1)).layout.shapes[-1].x0 == 0.5


@pytest.mark.slow
def test_pairs_without_an_effect_have_no_share(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[0.5]]] * 6), times=2)
    for clean in (result["corrupt"][0], result["corrupt"][0] - 5):
        result["clean"][0] = clean
        fig = patching_map(result, example=0, value="normalised")
        assert np.isnan(traces(fig, "values")[0].z).all()
        assert "none can be told" in cells(fig)[(0, 0)]
        assert "this pair's clean and corrupted runs hardly differ" in notes(fig)
        fig = patching_map(result)
        np.testing.assert_allclose(traces(fig, "values")[0].z, [[0.5]])
        assert "0.50</b>, of 11 pairs with an effect" in cells(fig)[(0, 0)]


def notes(fig: go.Figure) -> str:
    return " ".join(note.text for note in fig.layout.annotations)


@pytest.mark.slow
def test_without_a_clear_effect_the_map_shows_changes_and_says_why(make_sweep: MakeSweep) -> None:
    one = make_sweep(np.array([[[0.0, 0.5]]]))
    fig = patching_map(one, example=0)
    np.testing.assert_allclose(traces(fig, "values")[0].z, [[0.0, 4.0]])
    assert "No share can be told: the effect is 8.00 logits, no interval: 1 indep" in notes(fig)
    asked = patching_map(one, example=0, value="normalised")
    assert np.isnan(traces(asked, "values")[0].z).all()
    assert "No share can be told" in notes(asked)
    assert "No share" not in notes(patching_map(one, value="raw"))
    wrong = make_sweep(np.array([[[0.0, 0.5]]]), times=6)
    wrong["clean"], wrong["corrupt"] = wrong["corrupt"], wrong["clean"]
    assert "wrong sign, −8.00 logits" in notes(patching_map(wrong, value="normalised"))
    clear = patching_map(make_sweep(np.array([[[0.0, 0.5]]]), times=6))
    np.testing.assert_allclose(traces(clear, "values")[0].z, [[0.0, 0.5]])
    assert not notes(clear)


@pytest.mark.parametrize(("axis", "labels"), [("head", None), ("span", ("start", "subject"))])
def test_heads_and_spans_have_maps_too(
    make_sweep: MakeSweep, axis: str, labels: tuple[str, ...] | None
) -> None:
    fig = patching_map(make_sweep(np.array([[[0.1, 0.9]]]), axis=axis, labels=labels, times=5))
    np.testing.assert_allclose(traces(fig, "values")[0].z, [[0.1, 0.9]], atol=1e-6)
    assert list(fig.layout.xaxis.ticktext) == list(labels or ("0", "1"))


def test_a_sweep_of_two_axes_is_refused_with_what_to_do(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.zeros((1, 1, 2))).expand_dims(head=2)
    with pytest.raises(SiteError, match="sel"):
        patching_map(result)
    assert patching_map(result.isel(head=0)) is not None


def test_unknown_values_and_pairs_are_refused(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.zeros((1, 1, 1)))
    with pytest.raises(ArgumentError, match="normalised"):
        patching_map(result, value="shiny")  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="no pair 1"):
        patching_map(result, example=1)


def shown_texts(fig: go.Figure) -> set[str]:
    return {text for trace in traces(fig, "text") for row in trace.text for text in row if text}


def test_numbers_are_rounded_or_left_out_but_never_cut(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[-0.0001, -1.337, 0.25, 0.5]]]))
    kwargs: dict[str, Any] = {"value": "change"}
    assert shown_texts(patching_map(result, **kwargs)) == {"0.00", "−10.70", "2.00", "4.00"}
    narrow = patching_map(result, width=330, **kwargs)
    assert shown_texts(narrow) == {"0.0", "−10.7", "2.0", "4.0"}
    assert not traces(patching_map(result, width=250, **kwargs), "text")


def test_long_tokens_are_cut_with_an_ellipsis(make_lens: MakeLens) -> None:
    fig = lens_heatmap(make_lens(top=" internationalisation"), width=400)
    assert all(text.endswith("…") for text in shown_texts(fig))


@pytest.mark.slow
def test_hostile_tokens_are_text_in_the_map(make_sweep: MakeSweep) -> None:
    result = make_sweep(
        np.full((2, 1, 2), 1.5), tokens=(HOSTILE, "<b>"), labels=(f"{HOSTILE} -1", "end -1")
    )
    result.attrs |= {"metric": HOSTILE, "unit": "<b>"}
    for example in (None, 0):
        for value in ("normalised", "raw"):
            assert_safe(patching_map(result, example=example, value=value, title=HOSTILE))


@pytest.mark.parametrize(("unit", "least"), [("logits", 1.0), ("probability", 0.1), ("", 0.004)])
def test_a_map_of_next_to_nothing_is_not_stretched_until_it_looks_like_a_signal(
    make_sweep: MakeSweep, unit: str, least: float
) -> None:
    result = make_sweep(np.array([[[0.0, 0.0005]], [[0.0002, 0.0]]]))
    result = result.isel(example=[0]).assign_attrs(unit=unit)
    values = traces(patching_map(result, value="change"), "values")[0]
    assert (values.zmin, values.zmax) == pytest.approx((-least, least), rel=1e-3)


def spread_out() -> np.ndarray:
    """Shares of twelve pairs: clear in one cell, about as large but all over the place in another,
    next to nothing elsewhere."""
    share = np.random.default_rng(0).normal(0.0, 1e-3, (12, 2, 3))
    share[:, 0, 0] += np.linspace(0.5, 0.7, 12)
    share[:, 1, 1] += np.where(np.arange(12) % 2, 3.0, -2.2)
    share[3, 0, 0] = np.nan
    return share


def test_a_cell_of_a_mean_tells_its_interval_over_the_pairs_that_have_it(
    make_sweep: MakeSweep,
) -> None:
    result = make_sweep(spread_out())
    hover = cells(patching_map(result, value="change"))
    change = (result["patched"] - result["corrupt"]).values.astype(float)
    for layer, column in ((0, 0), (1, 1)):
        values = change[:, layer, column]
        values = values[np.isfinite(values)]
        low, high = (plain(end) for end in mean_interval(values))
        told = f"moved by {plain(values.mean())} logits, 95% interval {low} to {high}"
        assert told in hover[layer, column]
    assert "11 pairs" in hover[0, 0]
    assert not any("interval" in text for text in cells(patching_map(result, example=0)).values())


@pytest.mark.parametrize("value", ["change", "normalised", "raw"])
def test_cells_whose_colour_could_be_of_nothing_are_counted(
    make_sweep: MakeSweep, value: Value
) -> None:
    result = make_sweep(spread_out())
    result["clean"][:] += np.linspace(-0.5, 0.5, 12)  # so that there are shares
    told = "1 of 2 cells with a colour holds 0"
    assert (told in notes(patching_map(result, value=value))) == (value != "raw")
    clear = result.copy(deep=True)
    clear["patched"][:, 1, 1] = result["corrupt"] + 4.0
    for fig in (patching_map(clear, value=value), patching_map(result, example=0, value=value)):
        assert "with a colour" not in notes(fig)


def test_pairs_that_ask_the_same_are_one_for_the_interval(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.repeat(np.linspace(0.2, 1.2, 12)[:, None, None], 2, axis=0))
    apart = cells(patching_map(result, value="change"))[0, 0]
    prompts = [f"prompt {number // 2}" for number in range(24)]
    together = cells(
        patching_map(result.assign_coords(clean_prompt=("example", prompts)), value="change")
    )[0, 0]
    assert apart != together
    low, high = (plain(end) for end in mean_interval(np.linspace(1.6, 9.6, 12)))
    assert f"95% interval {low} to {high}" in together
