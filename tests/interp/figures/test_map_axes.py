"""Maps of neurons, attention patterns and estimates: which axes they have and what is hatched."""

from __future__ import annotations

import itertools

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp.errors import SiteError
from interp.figures import patching_map
from tests.interp.figures.conftest import HOSTILE, MakeSweep, assert_safe, cells, traces

LABELS = ("start -1", "subject -1", "end -1")


def make_pattern(
    axes: tuple[str, ...] = ("destination", "source"), n_layers: int = 2
) -> xr.Dataset:
    """A sweep of attention patterns: cell (…, d, s) moves the metric by 10 d + s, of 8 logits."""
    sizes = {"layer": 2, "head": 2, "destination": 3, "source": 3}
    dims = ("example", "layer", *axes)
    patched = np.zeros((1, *(sizes[name] for name in dims[1:])))
    for index in np.ndindex(patched.shape):
        at = dict(zip(dims, index, strict=True))
        d, s = at.get("destination", 2), at.get("source", 0)
        patched[index] = 10 * d + s + 100 * at["layer"] + 1000 * at.get("head", 0) - 3
        if s > d:
            patched[index] = np.nan
    coords: dict[str, object] = {"layer": np.arange(2)}
    for name in axes:
        coords[name] = np.arange(sizes[name])
        if name != "head":
            coords[f"{name}_label"] = (name, list(LABELS))
    return xr.Dataset(
        {"patched": (dims, patched), "clean": ("example", [5.0]), "corrupt": ("example", [-3.0])},
        coords=coords,
        attrs={"site": "pattern", "metric": "logit_diff", "unit": "logits"},
    )


def hatched(fig: go.Figure) -> set[tuple[int, int]]:
    """(row, column) of the cells that have strokes in them."""
    found = set()
    for trace in traces(fig, "estimated"):
        ends = np.column_stack([trace.x, trace.y]).reshape(-1, 3, 2)
        assert np.isnan(ends[:, 2]).all()
        for column, row in ends[:, :2].mean(1):
            found.add((round(float(row)), round(float(column))))
    return found


def test_a_pattern_at_one_layer_is_read_from_the_top_down() -> None:
    fig = patching_map(make_pattern().sel(layer=1), value="change")
    values = np.asarray(traces(fig, "values")[0].z)
    expected = [[120.0, 121.0, 122.0], [110.0, 111.0, np.nan], [100.0, np.nan, np.nan]]
    np.testing.assert_allclose(values, expected)
    assert list(fig.layout.yaxis.ticktext) == list(LABELS[::-1])
    assert list(fig.layout.xaxis.ticktext) == list(LABELS)
    assert (fig.layout.yaxis.title.text, fig.layout.xaxis.title.text) == (
        "attending",
        "attended to",
    )
    hover = cells(fig)
    assert hover[2, 1].startswith(
        "<b>attention pattern of block 1</b>, from ‘end -1’, to ‘subject -1’<br>"
    )
    assert "patched 118.00 logits" in hover[2, 1]
    assert "no token stands for it in the other prompt" in hover[0, 2]


def test_a_pattern_of_one_pair_and_head_can_be_chosen() -> None:
    result = make_pattern(("head", "destination", "source")).sel(layer=0, head=1)
    fig = patching_map(result, example=0, value="change")
    assert np.asarray(traces(fig, "values")[0].z)[0, 0] == 1020
    with pytest.raises(SiteError, match="layer, head, destination, source; choose one"):
        patching_map(make_pattern(("head", "destination", "source")))


def test_a_pattern_by_head_or_by_what_attends_has_layers() -> None:
    fig = patching_map(make_pattern(("head",)), value="change")
    np.testing.assert_allclose(traces(fig, "values")[0].z, [[20, 1020], [120, 1120]])
    assert "pattern of block 1</b>, head 1" in cells(fig)[1, 1]
    fig = patching_map(make_pattern(("destination",)), value="change")
    np.testing.assert_allclose(traces(fig, "values")[0].z, [[0, 10, 20], [100, 110, 120]])
    assert "pattern of block 0</b>, from ‘subject -1’" in cells(fig)[0, 1]


def test_groups_of_neurons_have_their_names(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[0.5, 1.0]]]), axis="neurons").assign_coords(
        neurons=["0-95", "96-191"]
    )
    result.attrs["site"] = "mlp_act"
    fig = patching_map(result)
    assert list(fig.layout.xaxis.ticktext) == ["0-95", "96-191"]
    assert cells(fig)[0, 1].startswith("<b>MLP neurons of block 0</b>, neurons 96-191")


def test_streams_say_where_they_are(make_sweep: MakeSweep) -> None:
    titles = {}
    for site in ("resid_pre", "resid_mid", "resid_post", "mlp_out"):
        result = make_sweep(np.zeros((1, 1, 1)))
        result.attrs["site"] = site
        titles[site] = patching_map(result).layout.yaxis.title.text
    assert titles == {
        "resid_pre": "into block",
        "resid_mid": "in block",
        "resid_post": "after block",
        "mlp_out": "block",
    }


def test_cells_that_were_not_run_are_hatched(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[0.1, 0.3, 0.2], [1.0, np.nan, 0.3]]]), times=5)
    exact = np.array([[True, False, True], [False, False, True]])
    fig = patching_map(result.assign(exact=(("layer", "position"), exact)))
    assert hatched(fig) == {(0, 1), (1, 0)}  # there is nothing to estimate at (1, 1)
    assert "2 of 5 cells (hatched) are estimates" in fig.layout.annotations[0].text
    hover = cells(fig)
    assert {key for key, text in hover.items() if "an estimate" in text} == {(0, 1), (1, 0)}
    colours = {trace.line.color for trace in traces(fig, "estimated")}
    assert len(colours) == 2  # light strokes on dark cells


def test_a_pattern_is_hatched_where_it_stands() -> None:
    result = make_pattern()
    exact = np.ones((2, 3, 3), dtype=bool)
    exact[1, 2, 0] = False
    result = result.assign(exact=(("layer", "destination", "source"), exact))
    fig = patching_map(result.sel(layer=1))
    assert hatched(fig) == {(0, 0)}  # the last token attends in the lowest row
    assert list(traces(fig, "cells")[0].y) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert not hatched(patching_map(result.sel(layer=0)))


def test_a_whole_estimate_is_hatched_and_a_sweep_is_not(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[0.1, 0.9]]]), times=5)
    assert not hatched(patching_map(result))
    result.attrs["instrument"] = "attribution patching, first order"
    fig = patching_map(result)
    assert hatched(fig) == {(0, 0), (0, 1)}
    assert "All cells (hatched)" in fig.layout.annotations[0].text


def test_hatching_and_clipping_are_both_noted(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[0.1, 1.9]]]), times=5)
    fig = patching_map(result.assign(exact=(("layer", "position"), [[False, True]])))
    texts = [note.text for note in fig.layout.annotations]
    assert ["hatched" in text for text in texts] == [True, False]
    assert "beyond" in texts[1]
    shifts = [note.yshift for note in fig.layout.annotations]
    assert shifts[0] - shifts[1] >= 15
    assert fig.layout.margin.b >= -shifts[1] + 15


def test_many_hatched_cells_are_few_traces(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.random.default_rng(0).normal(size=(1, 24, 60)))
    fig = patching_map(result.assign(exact=(("layer", "position"), np.zeros((24, 60), bool))))
    assert len(hatched(fig)) == 24 * 60
    assert len(fig.data) <= 6
    assert not fig.layout.shapes
    assert sum(len(trace.x) for trace in traces(fig, "estimated")) < 10_000


def test_strokes_of_neighbouring_cells_meet(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.zeros((1, 2, 2)))
    fig = patching_map(result.assign(exact=(("layer", "position"), np.zeros((2, 2), bool))))
    ends = np.concatenate(
        [np.column_stack([t.x, t.y]).reshape(-1, 3, 2)[:, :2] for t in traces(fig, "estimated")]
    )
    slopes = (ends[:, 1, 1] - ends[:, 0, 1]) / (ends[:, 1, 0] - ends[:, 0, 0])
    np.testing.assert_allclose(slopes, slopes[0], rtol=0.02)
    starts = {tuple(np.round(point, 2)) for point in ends[:, 0]}
    crossing = [tuple(np.round(p, 2)) for p in ends[:, 1] if p[0] < 1.4 and p[1] < 1.4]
    assert crossing
    assert all(point in starts for point in crossing)


def test_hostile_labels_are_text() -> None:
    result = make_pattern().sel(layer=0)
    labels = [HOSTILE, "<b>", f"{HOSTILE} -1"]
    result = result.assign_coords(
        destination_label=("destination", labels), source_label=("source", labels)
    )
    for example, value in itertools.product((None, 0), ("raw", "change")):
        assert_safe(patching_map(result, example=example, value=value))  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_estimate_is_drawn_with_its_agreement(make_sweep: MakeSweep) -> None:
    result = make_sweep(np.array([[[0.1, 0.9]]]), times=5)
    result.attrs["instrument"] = "attribution patching, gradient"

    def notes(**attrs: float) -> str:
        fig = patching_map(result.assign_attrs(attrs), width=2000)
        return " ".join(note.text for note in fig.layout.annotations)

    assert "How well they agree with runs was not measured." in notes()
    said = notes(
        agreement_cells=32,
        agreement_large=16,
        agreement_correlation=0.971,
        agreement_correlation_low=0.93,
        agreement_correlation_high=0.99,
        agreement_wrong_signs=0.0625,
        agreement_wrong_signs_low=0.01,
        agreement_wrong_signs_high=0.28,
    )
    assert (
        "By 32 single pairs' cells that were run: correlation 0.97 (95% interval 0.93 to 0.99)"
        in said
    )
    assert "largest estimates 6% (95% interval 1% to 28%)." in said
    assert "not measured" in notes(agreement_cells=4, agreement_large=2)
    swept = make_sweep(np.array([[[0.1, 0.9]]]), times=5).assign_attrs(agreement_cells=32)
    assert "agree" not in " ".join(n.text for n in patching_map(swept).layout.annotations)
