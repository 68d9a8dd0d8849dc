"""Verdicts are calibrated: where the effect is absent by construction they rarely claim it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from experiments.reversal_curse.hypotheses import absence, subject_token

LABELS = ["start -1", "subject -2", "subject -1", "end -2", "end -1"]
RUNS = 200


def layers_of(
    rng: np.random.Generator, means: list[float], n: int = 60, sd: float = 1.0
) -> np.ndarray:
    """Preferences [layer, fact] around the given means."""
    return rng.normal(size=(len(means), n)) * sd + np.array(means)[:, None]


def test_a_reverse_preference_at_the_margin_is_rarely_called_absent() -> None:
    rng = np.random.default_rng(0)
    known = np.full((3, 60), 8.0) + rng.normal(size=(3, 60))
    supported = [
        absence.judge(layers_of(rng, [0, absence.MARGIN, 0]), known, None).outcome == "supported"
        for _ in range(RUNS)
    ]
    assert np.mean(supported) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)


def test_a_true_absence_is_rarely_rejected_and_mostly_seen() -> None:
    rng = np.random.default_rng(1)
    known = np.full((3, 60), 8.0) + rng.normal(size=(3, 60))
    outcomes = [absence.judge(layers_of(rng, [0, 0, 0]), known, None).outcome for _ in range(RUNS)]
    assert outcomes.count("rejected") <= 0.05 * RUNS + 2 * np.sqrt(RUNS * 0.05 * 0.95)
    assert outcomes.count("supported") >= 0.8 * RUNS


def test_a_suppressed_answer_in_a_middle_layer_is_rejected() -> None:
    rng = np.random.default_rng(2)
    known = np.full((4, 60), 8.0) + rng.normal(size=(4, 60))
    verdict = absence.judge(layers_of(rng, [0, 3, 3, 0]), known, None)
    assert verdict.outcome == "rejected"
    assert verdict.low is not None
    assert verdict.low > absence.MARGIN


def test_no_absence_is_claimed_where_the_lens_misses_what_is_known() -> None:
    rng = np.random.default_rng(3)
    blind = layers_of(rng, [0, 0, 0])
    assert absence.judge(layers_of(rng, [0, 0, 0]), blind, None).outcome == "undecided"


def test_too_few_known_facts_leave_it_undecided() -> None:
    nothing = np.zeros((3, 4))
    assert absence.judge(nothing, nothing, None).outcome == "undecided"


def test_preferences_find_a_planted_pair_and_ignore_popular_names() -> None:
    rng = np.random.default_rng(4)
    n = 40
    scores = rng.normal(size=(n, 2, n)) * 0.1 + 5 * rng.normal(size=(1, 1, n))
    scores[:, 1] += 3 * np.eye(n)
    names = xr.Dataset(
        {"logprob": (("example", "layer", "name"), scores)},
        coords={"name": np.arange(n), "first_token": ("name", np.arange(n))},
    )
    alone = [{i} for i in range(n)]
    found = absence.preferences(names, np.arange(n), alone, ["son"] * n)
    assert found.shape == (2, n)
    assert np.mean(found[0]) == pytest.approx(0, abs=0.15)
    assert np.mean(found[1]) == pytest.approx(3, abs=0.15)


def test_knowing_whether_a_son_or_a_daughter_is_asked_for_is_no_preference() -> None:
    rng = np.random.default_rng(5)
    n = 40
    words = ["son", "daughter"] * (n // 2)
    fits = np.array([[a == b for b in words] for a in words])
    scores = rng.normal(size=(n, 1, n)) * 0.1 + 6.0 * fits[:, None, :]
    names = xr.Dataset(
        {"logprob": (("example", "layer", "name"), scores)},
        coords={"name": np.arange(n), "first_token": ("name", np.arange(n))},
    )
    found = absence.preferences(names, np.arange(n), [{i} for i in range(n)], words)
    assert np.mean(found) == pytest.approx(0, abs=0.1)


def sweep_like(shares: np.ndarray, gap: float = 10.0, labels: list[str] = LABELS) -> xr.Dataset:
    """A sweep in which patching moves the metric by these shares [example, layer, position]."""
    n = len(shares)
    corrupt, clean = np.full(n, -gap / 2), np.full(n, gap / 2)
    return xr.Dataset(
        {
            "patched": (("example", "layer", "position"), corrupt[:, None, None] + gap * shares),
            "clean": ("example", clean),
            "corrupt": ("example", corrupt),
        },
        coords={"position_label": ("position", labels)},
    )


def judge_shares(shares: np.ndarray, sham: np.ndarray | None = None, seed: int = 0) -> str:
    nothing = np.zeros_like(shares)
    parts = {"mlp_out": sweep_like(shares), "attn_out": sweep_like(shares)}
    sham_result = sweep_like(nothing if sham is None else sham)
    known, clean = np.ones(len(shares), dtype=bool), np.full(len(shares), 5.0)
    verdict = subject_token.judge(sweep_like(shares), sham_result, clean, known, parts, seed)
    return verdict.outcome


def test_a_fact_read_at_the_subject_is_supported() -> None:
    shares = np.zeros((30, 4, 5))
    shares[:, 1:3, 2] = 0.9
    shares += np.random.default_rng(0).normal(size=shares.shape) * 0.1
    assert judge_shares(shares) == "supported"


def test_a_fact_read_elsewhere_is_rejected() -> None:
    shares = np.zeros((30, 4, 5))
    shares[:, 1:3, 1] = 0.9
    shares += np.random.default_rng(0).normal(size=shares.shape) * 0.1
    assert judge_shares(shares) == "rejected"


def test_noise_alone_is_rarely_called_reading() -> None:
    supported = [
        judge_shares(np.random.default_rng(seed).normal(size=(30, 4, 5)) * 0.6, seed=seed)
        == "supported"
        for seed in range(RUNS)
    ]
    assert np.mean(supported) <= 0.05


def test_equal_effects_everywhere_are_rarely_called_reading_at_the_subject() -> None:
    supported = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        supported.append(judge_shares(0.8 + rng.normal(size=(30, 4, 5)) * 0.3, seed=seed))
    assert np.mean([outcome == "supported" for outcome in supported]) <= 0.05


def test_a_sham_that_moves_the_answer_leaves_it_undecided() -> None:
    shares = np.zeros((30, 4, 5))
    shares[:, 1:3, 2] = 0.9
    assert judge_shares(shares, sham=shares) == "undecided"


def test_few_known_facts_leave_reading_undecided() -> None:
    shares = np.zeros((30, 4, 5))
    known = np.arange(30) < 5
    parts = {"mlp_out": sweep_like(shares), "attn_out": sweep_like(shares)}
    nothing = sweep_like(shares)
    verdict = subject_token.judge(nothing, nothing, np.full(30, 5.0), known, parts, 0)
    assert verdict.outcome == "undecided"
    assert "5 of the patched pairs" in verdict.statement
