"""Maps of attention: every number stands where its tokens say, and nothing else is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp.errors import PromptError, SiteError
from interp.figures import head_score_grid, pattern_grid, pattern_map
from tests.interp.figures.conftest import HOSTILE, assert_safe, cells, traces

TOKENS = ("<bos>", " we", HOSTILE, "")


def patterns() -> xr.Dataset:
    """Two prompts, the first of three tokens; only in layer 2, head 1 there is attention."""
    values = np.full((2, 2, 2, 4, 4), np.nan, dtype=np.float32)
    for destination, source in np.ndindex(3, 3):
        weight = 0.01 * (10 * destination + source) if source <= destination else 0.0
        values[0, 1, 1, destination, source] = weight
    tokens = np.array([TOKENS, TOKENS], dtype=object)
    dims = ("example", "layer", "head", "destination", "source")
    return xr.Dataset(
        {"pattern": (dims, values), "moved": (dims, 300 * values)},
        {
            "layer": [0, 2],
            "head": [0, 1],
            "destination_token": (("example", "destination"), tokens),
            "source_token": (("example", "source"), tokens),
        },
    )


def test_a_pattern_reads_from_the_top_down() -> None:
    fig = pattern_map(patterns(), layer=2, head=1)
    heat = traces(fig, "values")[0]
    assert heat.zmin == 0
    assert heat.zmax == 1
    expected = [[0.2, 0.21, 0.22], [0.1, 0.11, np.nan], [0.0, np.nan, np.nan]]
    np.testing.assert_allclose(np.array(heat.z, dtype=float), expected, atol=1e-6)
    hover = cells(fig)
    assert hover[(2, 1)].startswith("<b>0.210</b><br>from 2 ")
    assert hover[(2, 1)].endswith("to 1 ‘·we’")
    assert "later" in hover[(0, 2)]
    assert list(fig.layout.yaxis.ticktext)[-1] == "&lt;bos&gt;"
    assert len(fig.layout.xaxis.ticktext) == 3
    assert_safe(fig)


@pytest.mark.slow
def test_all_heads_of_a_layer_are_drawn_on_one_scale() -> None:
    told = patterns()
    told["pattern"][0, 1, 0] = 2 * told["pattern"][0, 1, 1]
    told["moved"][0, 1, 0] = 2 * told["moved"][0, 1, 1]
    for value, top in (("pattern", 1.0), ("moved", 132.0)):
        fig = pattern_grid(told, 2, value=value)  # type: ignore[arg-type]
        assert [trace.name for trace in fig.data] == ["head 0", "head 1"]
        for head, trace in enumerate(fig.data):
            alone = pattern_map(told, 2, head, value=value)  # type: ignore[arg-type]
            np.testing.assert_array_equal(
                np.array(trace.z, dtype=float), np.array(traces(alone, "values")[0].z, dtype=float)
            )
        assert fig.layout.coloraxis.cmax == pytest.approx(top)
        assert {trace.coloraxis for trace in fig.data} == {"coloraxis"}
        assert next(iter(fig.layout.yaxis.ticktext)) == "&lt;bos&gt;"
        assert next(iter(fig.layout.yaxis.tickvals)) == 2  # on top
        assert_safe(fig)
    # As many beside one another as there is room for.
    assert len({trace.yaxis for trace in pattern_grid(told, 2, width=320).data}) == 2
    with pytest.raises(SiteError, match="in layer 1 among"):
        pattern_grid(told, 1)


def test_moved_lengths_have_a_scale_of_their_own() -> None:
    fig = pattern_map(patterns(), 2, 1, value="moved")
    assert traces(fig, "values")[0].zmax == pytest.approx(66)


def test_patterns_that_are_not_there_are_refused() -> None:
    with pytest.raises(PromptError, match="no example 2"):
        pattern_map(patterns(), 2, 1, 2)
    with pytest.raises(SiteError, match="no head 1 in layer 1"):
        pattern_map(patterns(), 1, 1)
    with pytest.raises(SiteError, match="weighted=True"):
        pattern_map(patterns().drop_vars("moved"), 2, 1, value="moved")


def scores(low: float = 0.0) -> xr.Dataset:
    values = np.linspace(low, 0.5, 12).reshape(2, 2, 3)
    return xr.Dataset(
        {
            "induction": (("example", "layer", "head"), values),
            "induction_even": ("example", [0.04, 0.06]),
            "to_span": (("example", "layer", "head", "span"), values[..., None]),
            "copying": (("layer", "head"), values[0] * 2 - 0.3),
        },
        {"layer": [0, 1], "head": [0, 1, 2], "span": ["who"]},
    )


def test_scores_are_means_over_prompts() -> None:
    fig = head_score_grid(scores(), "induction")
    values = np.array(traces(fig, "values")[0].z, dtype=float)
    np.testing.assert_allclose(values, scores()["induction"].mean("example"))
    assert cells(fig)[(1, 2)].startswith("<b>layer 1, head 2</b><br>induction 0.3")
    assert "evenly scores 0.050" in fig.layout.annotations[0].text
    assert traces(fig, "values")[0].zmin == 0


def test_signed_scores_are_drawn_around_zero() -> None:
    heat = traces(head_score_grid(scores(), "copying"), "values")[0]
    assert heat.zmin == -heat.zmax
    assert len(heat.colorscale) == 17


def test_the_scale_can_be_asked_for() -> None:
    heat = traces(head_score_grid(scores(), "induction", signed=True, limit=0.5), "values")[0]
    assert (heat.zmin, heat.zmax) == (-0.5, 0.5)
    assert len(heat.colorscale) == 17


def test_scores_that_are_no_grid_are_refused() -> None:
    with pytest.raises(SiteError, match="no 'induction_even'"):
        head_score_grid(scores(), "induction_even")
    with pytest.raises(SiteError, match="select one of them"):
        head_score_grid(scores(), "to_span")
    chosen = scores()[["to_span"]].sel(span="who")
    assert cells(head_score_grid(chosen, "to_span"))[(0, 0)].startswith("<b>layer 0, head 0</b>")
