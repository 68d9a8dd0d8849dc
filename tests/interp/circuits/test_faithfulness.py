"""The curve is what its formulas say of circuits run one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import integrate

from interp.circuits import attribute_edges, faithfulness_curve, measure, prune
from interp.circuits.circuit import jaccard
from interp.circuits.faithfulness import FRACTIONS, area
from interp.circuits.prune import choose
from interp.errors import MetricError, ModelError, SiteError
from interp.graph import Graph
from interp.prompts import PromptPairs
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

SHARES = (0.02, 0.05, 0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def scores(llama: Tiny) -> xr.Dataset:
    return attribute_edges(llama.model, prompt_pairs(llama))


@pytest.fixture(scope="module")
def curve(llama: Tiny, scores: xr.Dataset) -> xr.Dataset:
    return faithfulness_curve(llama.model, prompt_pairs(llama), scores, fractions=SHARES)


def test_each_point_is_a_share_of_the_gap(
    llama: Tiny, scores: xr.Dataset, curve: xr.Dataset
) -> None:
    graph, pairs = Graph.from_attrs(scores.attrs), prompt_pairs(llama)
    full, empty = measure(llama.model, pairs, np.stack([graph.real, graph.real & False])).mean(1)
    for number, share in enumerate(SHARES):
        circuit = prune(scores, round(share * graph.n_edges))
        assert int(curve["n_edges"][number]) == len(circuit)
        pair = np.stack([circuit.included, graph.real & ~circuit.included])
        inside, outside = measure(llama.model, pairs, pair).mean(1)
        assert float(curve["f"][number]) == pytest.approx(
            (inside - empty) / (full - empty), abs=1e-3
        )
        assert float(curve["complement"][number]) == pytest.approx(
            (outside - empty) / (full - empty), abs=1e-3
        )
    assert float(curve["f"][-1]) == pytest.approx(1.0)
    assert float(curve["complement"][-1]) == pytest.approx(0.0)
    np.testing.assert_allclose(curve["random"][:, -1], 1.0, atol=1e-3)
    np.testing.assert_allclose(curve["circuit_metric"][-1], curve["full"], atol=1e-4)
    assert curve["random"].shape == (3, len(SHARES))
    assert bool((curve["random_edges"] >= curve["n_edges"]).all())


def test_areas_are_integrals() -> None:
    x = np.linspace(0.001, 1.0, 20_001)
    f = np.sin(3 * x)
    assert area(x, f, "cpr") == pytest.approx(
        integrate.quad(lambda t: np.sin(3 * t), 0.001, 1)[0], abs=1e-6
    )
    assert area(x, f, "cmd") == pytest.approx(
        integrate.quad(lambda t: abs(1 - np.sin(3 * t)), 0.001, 1)[0], abs=1e-6
    )
    log = np.geomspace(0.001, 1.0, 20_001)
    expected = integrate.quad(lambda u: np.sin(3 * np.exp(u)), np.log(0.001), 0)[0] / -np.log(0.001)
    assert area(log, np.sin(3 * log), "cpr_log") == pytest.approx(expected, abs=1e-6)
    shares = np.array(FRACTIONS)
    assert area(shares, np.ones(len(shares)), "cmd_log") == 0.0
    assert area(shares, np.ones(len(shares)), "cpr_log") == pytest.approx(1.0)


def test_scalars_are_the_areas_of_the_curve(curve: xr.Dataset) -> None:
    for name in ("cpr", "cmd", "cpr_log", "cmd_log"):
        shares = np.array(SHARES)
        assert float(curve[name]) == pytest.approx(float(area(shares, curve["f"].values, name)))
        np.testing.assert_allclose(
            curve[f"{name}_random"], area(shares, curve["random"].values, name)
        )
        assert float(curve[f"{name}_low"]) <= float(curve[f"{name}_high"])
    assert bool((curve["f_low"] <= curve["f"] + 1e-9).all())
    assert bool((curve["f_high"] >= curve["f"] - 1e-9).all())


def test_intervals_are_those_of_resampled_pairs(llama: Tiny, scores: xr.Dataset) -> None:
    """One pair, resampled, is always itself; so its interval is a point."""
    pairs = prompt_pairs(llama, _first())
    curve = faithfulness_curve(llama.model, pairs, scores, fractions=SHARES, n_bootstrap=50)
    np.testing.assert_allclose(curve["f_low"], curve["f"], atol=1e-6)
    np.testing.assert_allclose(curve["f_high"], curve["f"], atol=1e-6)
    assert curve.attrs["clear"] == 1


def test_jaccard_is_that_of_circuits_from_resampled_pairs(
    scores: xr.Dataset, curve: xr.Dataset
) -> None:
    graph = Graph.from_attrs(scores.attrs)
    by_example = scores["by_example"].values
    similar = []
    for weights in ([3, 0, 0], [0, 3, 0], [0, 0, 3], [2, 1, 0], [1, 1, 1], [0, 1, 2]):
        values = np.tensordot(np.array(weights) / 3, by_example, 1).astype("f4")
        chosen = [
            choose(graph, v, round(0.1 * graph.n_edges)) for v in (values, scores["score"].values)
        ]
        similar.append(jaccard(*chosen))
    # All that resampling three pairs can give lies between the worst of them and 1.
    assert min(similar) <= float(curve["jaccard_low"][2]) <= float(curve["jaccard"][2]) <= 1.0
    assert float(curve["jaccard"][-1]) == 1.0
    assert float(curve["jaccard"][2]) < 1.0


def test_the_seed_gives_the_same_curve(llama: Tiny, scores: xr.Dataset, curve: xr.Dataset) -> None:
    again = faithfulness_curve(llama.model, prompt_pairs(llama), scores, fractions=SHARES)
    xr.testing.assert_identical(curve, again)
    other = faithfulness_curve(llama.model, prompt_pairs(llama), scores, fractions=SHARES, seed=1)
    assert not np.array_equal(curve["random"], other["random"])


def _first() -> Any:
    from tests.interp.pairs import CASES

    return CASES[:1]


def test_what_means_nothing_is_refused(llama: Tiny, gpt2: Tiny, scores: xr.Dataset) -> None:
    pairs = prompt_pairs(llama)
    with pytest.raises(ModelError, match="not of gpt2"):
        faithfulness_curve(gpt2.model, prompt_pairs(gpt2), scores)
    for fractions in ((0.1,), (0.0, 1.0), (0.2, 0.1), (0.5, 1.5)):
        with pytest.raises(SiteError, match="at least two fractions"):
            faithfulness_curve(llama.model, pairs, scores, fractions=fractions)
    texts = ["we saw Ann near Rome"]
    same = PromptPairs(llama.model, texts, texts, [" Gus"], [" Ida"])
    with pytest.raises(MetricError, match="same for the whole model and without any edge"):
        faithfulness_curve(llama.model, same, scores, fractions=SHARES)
