"""The curve is what its formulas say of circuits run one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import integrate

from interp.circuits import attribute_edges, faithfulness_curve, measure, minimality, prune
from interp.circuits.circuit import jaccard
from interp.circuits.faithfulness import FRACTIONS, area
from interp.circuits.measure import shared_pairs
from interp.circuits.prune import choose
from interp.components.graph import Graph
from interp.errors import MetricError, ModelError, SiteError, StatisticsError
from interp.figures import faithfulness_lines
from interp.prompts.pairs import PromptPairs
from interp.stats import ratio_interval
from tests.interp.pairs import Case, clear_cases, prompt_pairs
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow

SHARES = (0.02, 0.05, 0.1, 0.3, 1.0)


def held_out(llama: Tiny, n: int = 8, seed: int = 0) -> PromptPairs:
    return prompt_pairs(llama, clear_cases(llama, n, seed))


@pytest.fixture(scope="module")
def scores(llama: Tiny) -> xr.Dataset:
    return attribute_edges(llama.model, held_out(llama, seed=3))


@pytest.fixture(scope="module")
def curve(llama: Tiny, scores: xr.Dataset) -> xr.Dataset:
    return faithfulness_curve(llama.model, held_out(llama), scores, fractions=SHARES)


def test_each_point_is_a_share_of_the_gap(
    llama: Tiny, scores: xr.Dataset, curve: xr.Dataset
) -> None:
    graph, pairs = Graph.from_attrs(scores.attrs), held_out(llama)
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


def test_intervals_are_those_of_ratios_of_means(curve: xr.Dataset) -> None:
    empty = curve["empty"].values
    gap = curve["full"].values - empty
    weights = np.array([0.03, 0.08, 0.25, 0.9, 0.7]) / 2  # trapezoids between SHARES
    for name, moved in (
        ("f", (curve["circuit_metric"] - curve["empty"]).values),
        ("cpr", weights @ (curve["circuit_metric"] - curve["empty"]).values),
    ):
        low, high = (np.atleast_1d(curve[f"{name}_{end}"]) for end in ("low", "high"))
        for at, row in enumerate(np.atleast_2d(moved)[:4]):
            assert (low[at], high[at]) == pytest.approx(ratio_interval(row, gap), rel=1e-3)
    # The whole model does what the whole model does.
    assert (float(curve["f_low"][-1]), float(curve["f_high"][-1])) == (1.0, 1.0)
    assert curve.attrs["clear"] == 1
    assert curve.attrs["effect_low"] > 0
    assert curve.attrs["effect"] == pytest.approx(gap.mean(), rel=1e-5)


def test_of_few_pairs_or_a_wrong_sign_there_is_no_share(llama: Tiny, scores: xr.Dataset) -> None:
    cases = clear_cases(llama, 6)
    wrong = tuple(Case(case.pieces, case.foil, case.answer) for case in cases)
    for some, reason in (
        (cases[:1], "no interval: 1 independent pair,"),
        (cases[:4], "at least 5 are needed"),
        (wrong, "wrong sign"),
        (cases[:3] + wrong[3:], "could be none"),
    ):
        pairs = prompt_pairs(llama, some)
        curve = faithfulness_curve(llama.model, pairs, scores, fractions=SHARES, n_random=1)
        assert curve.attrs["clear"] == 0
        assert reason in curve.attrs["reason"]
        for name in ("f", "f_low", "f_high", "complement", "random", "cpr", "cmd_low"):
            assert curve[name].isnull().all(), name
        assert curve["circuit_metric"].notnull().all()


def test_pairs_that_ask_the_same_are_one(llama: Tiny, scores: xr.Dataset) -> None:
    curve = faithfulness_curve(
        llama.model, held_out(llama), scores, fractions=SHARES, clusters=[*"aabbccdd"]
    )
    assert "4 independent pairs" in curve.attrs["reason"]
    three = clear_cases(llama, 3)
    curve = faithfulness_curve(
        llama.model, prompt_pairs(llama, three * 4), scores, fractions=SHARES, n_random=1
    )
    assert "3 independent pairs" in curve.attrs["reason"]


def test_a_curve_and_its_reason_can_be_saved(
    llama: Tiny, scores: xr.Dataset, curve: xr.Dataset, tmp_path: Path
) -> None:
    unclear = faithfulness_curve(llama.model, held_out(llama, 2), scores, fractions=SHARES)
    for number, each in enumerate((curve, unclear)):
        each.to_netcdf(tmp_path / f"{number}.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / f"{number}.nc", engine="h5netcdf") as read:
            assert read.attrs["reason"] == each.attrs["reason"]
            faithfulness_lines(read)


def test_pairs_that_gave_the_scores_are_counted(
    llama: Tiny, scores: xr.Dataset, curve: xr.Dataset
) -> None:
    assert (curve.attrs["pairs"], curve.attrs["shared_pairs"]) == (8, 0)
    found_on = held_out(llama, seed=3)
    assert shared_pairs(found_on, scores["clean_prompt"].values) == 8
    mixed = prompt_pairs(llama, clear_cases(llama, 5) + clear_cases(llama, 8, seed=3)[:3])
    again = faithfulness_curve(llama.model, mixed, scores, fractions=SHARES, n_random=1)
    assert again.attrs["shared_pairs"] == 3
    circuit = prune(scores, 3)
    assert minimality(llama.model, found_on, circuit).attrs["shared_pairs"] == 8
    assert minimality(llama.model, held_out(llama), circuit).attrs["shared_pairs"] == 0


def test_jaccard_is_that_of_circuits_from_resampled_pairs(
    scores: xr.Dataset, curve: xr.Dataset
) -> None:
    graph = Graph.from_attrs(scores.attrs)
    by_example = scores["by_example"].values
    similar = []
    for alone in range(len(by_example)):
        values = by_example[alone]
        chosen = [
            choose(graph, v, round(0.1 * graph.n_edges)) for v in (values, scores["score"].values)
        ]
        similar.append(jaccard(*chosen))
    # A resample of many pairs is closer to all of them than the worst single pair is.
    assert min(similar) <= float(curve["jaccard_low"][2]) <= float(curve["jaccard"][2]) <= 1.0
    assert float(curve["jaccard"][-1]) == 1.0
    assert float(curve["jaccard"][2]) < 1.0


def test_the_seed_gives_the_same_curve(llama: Tiny, scores: xr.Dataset, curve: xr.Dataset) -> None:
    again = faithfulness_curve(llama.model, held_out(llama), scores, fractions=SHARES)
    xr.testing.assert_identical(curve, again)
    other = faithfulness_curve(llama.model, held_out(llama), scores, fractions=SHARES, seed=3)
    assert not np.array_equal(curve["random"], other["random"])


def never(_done: int, _total: int) -> None:
    pytest.fail("circuits were run")


def test_what_means_nothing_is_refused(llama: Tiny, gpt2: Tiny, scores: xr.Dataset) -> None:
    pairs = prompt_pairs(llama)
    with pytest.raises(ModelError, match="not of gpt2"):
        faithfulness_curve(gpt2.model, prompt_pairs(gpt2), scores)
    for fractions in ((0.1,), (0.0, 1.0), (0.2, 0.1), (0.5, 1.5)):
        with pytest.raises(SiteError, match="at least two fractions"):
            faithfulness_curve(llama.model, pairs, scores, fractions=fractions)
    with pytest.raises(SiteError, match="n_resampled is a number from 0, not -1"):
        faithfulness_curve(llama.model, pairs, scores, n_resampled=-1, progress=never)
    with pytest.raises(StatisticsError, match="2 clusters named for 3"):
        faithfulness_curve(llama.model, pairs, scores, clusters=["a", "b"], progress=never)
    texts = ["we saw Ann near Rome"]
    same = PromptPairs(llama.model, texts, texts, [" Gus"], [" Ida"])
    with pytest.raises(MetricError, match="same for the whole model and without any edge"):
        faithfulness_curve(llama.model, same, scores, fractions=SHARES)
