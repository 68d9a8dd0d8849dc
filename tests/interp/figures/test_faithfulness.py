"""Faithfulness lines: the numbers of the curve, its controls, and its warning."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from interp.figures import faithfulness_lines
from interp.figures.drawing import theme
from tests.interp.figures.conftest import traces

pytestmark = pytest.mark.slow


def make(
    clear: int = 1, draws: int = 2, f: tuple[float, ...] = (0.2, 0.9, 1.0), shared: int = 0
) -> xr.Dataset:
    random = np.array([[0.0, 0.1, 1.0], [0.1, 0.3, 1.0]])[:draws]
    values = np.array(f)
    scalars = {"cpr": 0.9, "cmd": 0.1, "cpr_log": 0.6, "cmd_log": 0.4}
    variables: dict[str, Any] = {
        "f": ("fraction", values),
        "f_low": ("fraction", values - 0.1),
        "f_high": ("fraction", values + 0.1),
        "complement": ("fraction", [0.8, 0.1, 0.0]),
        "random": (("draw", "fraction"), random),
        "n_edges": ("fraction", [3, 26, 260]),
        "jaccard": ("fraction", [0.5, 0.75, 1.0]),
        "jaccard_low": ("fraction", [0.25, 0.6, 1.0]),
    }
    for name, value in scalars.items():
        variables |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
        variables[f"{name}_random"] = ("draw", np.full(draws, value / 2))
    coords = {"fraction": [0.01, 0.1, 1.0]}
    found = xr.Dataset(variables, coords=coords)
    attrs = {"pairs": 8, "shared_pairs": shared}
    if clear:
        return found.assign_attrs(clear=1, reason="", **attrs)
    reason = "No share can be told: the effect, 0.85 [−0.04, 1.74] logits, could be none."
    nothing = [name for name in found if name not in ("n_edges", "jaccard", "jaccard_low")]
    return found.assign({name: found[name] * np.nan for name in nothing}).assign_attrs(
        clear=0, reason=reason, **attrs
    )


def notes(fig: go.Figure) -> str:
    return " ".join(note.text for note in fig.layout.annotations)


def test_lines_are_the_circuits_their_complements_and_random_ones() -> None:
    fig = faithfulness_lines(make())
    np.testing.assert_allclose(traces(fig, "circuit")[0].y, [0.2, 0.9, 1.0])
    np.testing.assert_allclose(traces(fig, "circuit")[0].x, [0.01, 0.1, 1.0])
    np.testing.assert_allclose(traces(fig, "all other edges")[0].y, [0.8, 0.1, 0.0])
    mean = traces(fig, "random edges, mean of 2")[0]
    np.testing.assert_allclose(mean.y, [0.05, 0.2, 1.0])
    assert [list(draw.y) for draw in traces(fig, "random draw")] == [
        [0.0, 0.1, 1.0],
        [0.1, 0.3, 1.0],
    ]
    band = traces(fig, "interval")[0]
    np.testing.assert_allclose(band.y, [0.3, 1.0, 1.1, 0.9, 0.8, 0.1])
    assert sorted(shape.y0 for shape in fig.layout.shapes) == [0, 1]
    assert fig.layout.xaxis.type == "log"


def test_hovers_tell_the_size_the_interval_and_the_overlap() -> None:
    text = traces(faithfulness_lines(make()), "circuit")[0].text[1]
    assert "circuit of 26 edges</b> (10% asked for)" in text
    assert "faithfulness <b>0.90</b>, interval 0.80 to 1.00" in text
    assert "all other edges 0.10" in text
    assert "75%, at least 60%" in text


@pytest.mark.parametrize(("log", "cpr", "cmd"), [(True, "0.60", "0.40"), (False, "0.90", "0.10")])
def test_the_areas_are_those_of_the_axis_that_is_drawn(log: bool, cpr: str, cmd: str) -> None:
    fig = faithfulness_lines(make(), log=log)
    low = f"{float(cpr) - 0.05:.2f}"
    assert f"CPR (area under the line) {cpr}, interval {low}" in notes(fig)
    assert f"random {float(cpr) / 2:.2f}" in notes(fig)
    assert f"CMD (area between line and 1) {cmd}" in notes(fig)
    assert ("log axis" in notes(fig)) is log
    assert fig.layout.xaxis.type == ("log" if log else "linear")


def test_of_a_gap_that_is_not_clear_only_the_reason_is_drawn() -> None:
    assert "⚠" not in notes(faithfulness_lines(make()))
    fig = faithfulness_lines(make(0))
    assert "⚠ No share can be told: the effect, 0.85 [−0.04, 1.74] logits, could be none." in notes(
        fig
    )
    assert "CPR" not in notes(fig)
    drawn = [y for trace in fig.data for y in trace.y if y is not None and np.isfinite(y)]
    assert not drawn
    assert fig.layout.plot_bgcolor == theme.EMPTY


def test_it_says_whether_the_pairs_are_held_out() -> None:
    assert "Measured on 8 pairs that the edges were not scored on." in notes(
        faithfulness_lines(make())
    )
    all_of_them = notes(faithfulness_lines(make(shared=8)))
    assert "⚠ Measured on the pairs that the edges were scored on" in all_of_them
    assert "⚠ Measured on 8 pairs, 3 of them those" in notes(faithfulness_lines(make(shared=3)))


def test_values_out_of_all_proportion_leave_the_axis_and_are_counted() -> None:
    fig = faithfulness_lines(make(f=(0.2, 40.0, 1.0)))
    assert fig.layout.yaxis.range[1] == 2.0
    assert "▲ 3 values" in notes(fig)  # the point and both ends of its interval
    assert "▲" not in notes(faithfulness_lines(make()))


def test_a_curve_without_random_circuits_has_no_such_line() -> None:
    fig = faithfulness_lines(make(draws=0))
    assert not [trace for trace in fig.data if "random" in trace.name]
    assert "random" not in notes(fig)
