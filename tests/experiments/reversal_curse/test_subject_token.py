"""H1 is calibrated: it rarely supports or rejects what is at the edge, with few pairs too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from experiments.organisms.bundled import reversal_curse
from experiments.organisms.training.checkpoint import ORGANISM_FILE, planted_bottleneck
from experiments.reversal_curse.hypotheses import subject_token
from experiments.reversal_curse.report.methods import limits
from experiments.study import Verdict

LABELS = ["start -1", "subject -2", "subject -1", "end -2", "end -1"]
RUNS = 100


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of a tenth of the resamples: noisier ends, and as often right."""
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 199)


def sweep_like(shares: np.ndarray, gap: float = 10.0, labels: list[str] = LABELS) -> xr.Dataset:
    """A sweep in which patching moves the metric by these shares [example, layer, position]."""
    n = len(shares)
    gaps = gap + np.sin(np.arange(n))
    clean = np.full(n, gap / 2)
    corrupt = clean - gaps
    moved = gaps[:, None, None] * shares
    return xr.Dataset(
        {
            "patched": (("example", "layer", "position"), corrupt[:, None, None] + moved),
            "clean": ("example", clean),
            "corrupt": ("example", corrupt),
        },
        coords={"position_label": ("position", labels)},
    )


def verdict_on(
    shares: np.ndarray,
    sham: np.ndarray | None = None,
    seed: int = 0,
    questions: Sequence[int] | None = None,
) -> Verdict:
    if sham is None:
        sham = np.random.default_rng(seed + 1000).normal(size=shares.shape) * 0.05
    parts = {"mlp_out": sweep_like(shares), "attn_out": sweep_like(shares)}
    known = np.ones(len(shares), dtype=bool)
    clean = np.full(len(shares), 5.0)
    return subject_token.judge(
        sweep_like(shares), sweep_like(sham), clean, known, parts, seed, questions
    )


def planted(
    seed: int, n: int = 30, at: int = 2, mean: float = 0.9, sd: float = 0.1, n_layers: int = 2
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shares = rng.normal(size=(n, n_layers, 5)) * sd
    shares[:, 1:, at] += mean
    return shares


def test_a_fact_read_at_the_subject_is_supported() -> None:
    found = verdict_on(planted(0))
    assert found.outcome == "supported"
    assert found.n == 15
    assert "into block 1 " in found.statement


def test_a_fact_read_elsewhere_is_rejected() -> None:
    assert verdict_on(planted(0, at=1)).outcome == "rejected"


@pytest.mark.slow
def test_a_planted_reading_is_mostly_seen_with_the_least_pairs() -> None:
    least = subject_token.LEAST_PAIRS
    seen = [
        verdict_on(planted(seed, least, mean=0.9, sd=0.3), seed=seed).outcome == "supported"
        for seed in range(60)
    ]
    assert np.mean(seen) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 30])
@pytest.mark.parametrize("kind", ["normal", "binary", "outliers"])
def test_half_of_the_effect_is_rarely_supported_or_rejected(n: int, kind: str) -> None:
    outcomes = []
    for seed in range(RUNS // 2):
        rng = np.random.default_rng(seed)
        shares = rng.normal(size=(n, 2, 5)) * 0.05
        if kind == "normal":
            half = 0.5 + 0.3 * rng.normal(size=n)
        elif kind == "binary":
            half = (rng.random(n) < 0.5).astype(float)
        else:
            half = 0.5 + 0.2 * rng.standard_t(3, size=n)
        shares[:, 1, 2] += half
        outcomes.append(verdict_on(shares, seed=seed).outcome)
    assert outcomes.count("supported") <= 0.07 * len(outcomes)
    assert outcomes.count("rejected") <= 0.07 * len(outcomes)


@pytest.mark.slow
def test_noise_alone_is_rarely_called_reading() -> None:
    outcomes = [
        verdict_on(planted(seed, 20, mean=0.0, sd=0.6), seed=seed).outcome for seed in range(RUNS)
    ]
    assert outcomes.count("supported") <= 0.02 * RUNS


@pytest.mark.slow
def test_equal_effects_everywhere_are_rarely_called_reading_at_the_subject() -> None:
    outcomes = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        outcomes.append(verdict_on(0.8 + rng.normal(size=(20, 2, 5)) * 0.3, seed=seed).outcome)
    assert outcomes.count("supported") <= 0.05 * RUNS
    assert outcomes.count("rejected") <= 0.05 * RUNS


def test_a_sham_that_moves_the_answer_leaves_it_undecided() -> None:
    assert verdict_on(planted(0), sham=planted(5)).outcome == "undecided"


@pytest.mark.slow
def test_a_sham_at_its_limit_rarely_passes() -> None:
    passed = [
        verdict_on(
            planted(seed, 20), sham=planted(seed + 500, 20, mean=0.25, sd=0.2), seed=seed
        ).outcome
        == "supported"
        for seed in range(RUNS // 2)
    ]
    assert np.mean(passed) <= 0.05


@pytest.mark.parametrize("missing", ["all", "some", "label"])
def test_a_control_without_numbers_is_none(missing: str) -> None:
    shares = planted(0)
    sham = np.random.default_rng(1).normal(size=shares.shape) * 0.05
    result, parts = (
        sweep_like(shares),
        {name: sweep_like(shares) for name in ("mlp_out", "attn_out")},
    )
    known, clean = np.ones(30, dtype=bool), np.full(30, 5.0)
    labels = LABELS
    if missing == "all":
        sham[:] = np.nan
    elif missing == "some":
        sham[: 30 - subject_token.LEAST_PAIRS + 1, 1, 2] = np.nan
    else:
        labels = ["start -1", "subject+ 0", "subject+ 1", "end -2", "end -1"]
    control = sweep_like(sham, labels=labels)
    found = subject_token.judge(result, control, clean, known, parts, 0)
    assert found.outcome == "undecided"
    assert str(subject_token.LEAST_PAIRS) in found.statement


def test_few_known_facts_leave_reading_undecided() -> None:
    shares = planted(0)
    known = np.arange(30) < 5
    parts = {"mlp_out": sweep_like(shares), "attn_out": sweep_like(shares)}
    nothing = sweep_like(shares)
    verdict = subject_token.judge(nothing, nothing, np.full(30, 5.0), known, parts, 0)
    assert verdict.outcome == "undecided"
    assert "5 of the patched pairs" in verdict.statement


def test_pairs_that_ask_the_same_count_once() -> None:
    one = planted(0, n=12)
    assert verdict_on(np.repeat(one, 3, axis=0)).outcome == "supported"
    asks = np.repeat(np.arange(12), 3).tolist()
    assert verdict_on(np.repeat(one, 3, axis=0), questions=asks).outcome == "undecided"
    many = np.repeat(planted(0, n=30), 3, axis=0)
    assert verdict_on(many, questions=np.repeat(np.arange(30), 3).tolist()).n == 15


def test_no_effect_has_no_shares() -> None:
    rng = np.random.default_rng(0)
    result = sweep_like(planted(0))
    flat = result.assign(clean=("example", result["corrupt"].values + rng.normal(size=30)))
    parts = {"mlp_out": flat, "attn_out": flat}
    found = subject_token.judge(
        flat, sweep_like(planted(3, mean=0)), np.full(30, 5.0), np.ones(30, dtype=bool), parts, 0
    )
    assert found.outcome == "undecided"
    assert "%" not in found.statement


def test_an_effect_that_only_the_judging_pairs_have_is_undecided() -> None:
    shares = planted(0)
    halves = np.random.default_rng(0).permutation(30)
    sign = np.ones(30)
    sign[halves[::2]] = -1
    result = sweep_like(shares)
    mixed = result.assign(
        clean=("example", result["corrupt"].values + sign * (10 + np.sin(np.arange(30))))
    )
    parts = {"mlp_out": mixed, "attn_out": mixed}
    sham = sweep_like(np.zeros((30, 2, 5)))
    found = subject_token.judge(mixed, sham, np.full(30, 5.0), np.ones(30, dtype=bool), parts, 0)
    assert found.outcome == "undecided"
    assert "nothing to bring back" in found.statement


def test_what_training_planted_is_said_to_be_planted() -> None:
    shares = planted(0)
    parts = {"mlp_out": sweep_like(shares), "attn_out": sweep_like(shares)}
    sham = sweep_like(np.random.default_rng(1).normal(size=shares.shape) * 0.05)
    known, clean = np.ones(30, dtype=bool), np.full(30, 5.0)
    bare, told = (
        subject_token.judge(sweep_like(shares), sham, clean, known, parts, 0, planted=share)
        for share in (0.0, 0.85)
    )
    assert bare.outcome == told.outcome == "supported"
    assert "planted" not in bare.statement
    assert told.statement.endswith(
        ": the training planted this (bottleneck in 85% of its sentences)."
    )


@pytest.mark.parametrize(
    ("record", "share"),
    [
        ('{"config": {"name_bottleneck": 0.85}}', 0.85),
        ('{"config": {"name_bottleneck": 0.0}}', 0.0),
        ('{"config": {"name_bottleneck": 85}}', 0.0),
        ('{"config": {"name_bottleneck": NaN}}', 0.0),
        ('{"config": {"name_bottleneck": true}}', 0.0),
        ('{"config": {"name_bottleneck": "<b>"}}', 0.0),
        ('{"config": ["name_bottleneck"]}', 0.0),
        ("[]", 0.0),
        ("{", 0.0),
        ("[" * 100_000, 0.0),
        ('{"config": {"name_bottleneck": ' + "9" * 5000 + "}}", 0.0),
        (None, 0.0),
    ],
)
def test_the_record_of_an_organism_is_not_taken_on_trust(
    tmp_path: Path, record: str | None, share: float
) -> None:
    if record is not None:
        (tmp_path / ORGANISM_FILE).write_text(record)
    assert planted_bottleneck(tmp_path) == share
    assert planted_bottleneck(tmp_path / "steps" / "200") == share


def test_the_report_takes_it_from_the_record_and_not_from_the_name(tmp_path: Path) -> None:
    def said(name: str) -> str:
        model: Any = SimpleNamespace(name=name, path=tmp_path)
        return " ".join(limits(SimpleNamespace(model=model)))  # type: ignore[arg-type]

    assert "planted" not in said("reversal-curse")
    (tmp_path / ORGANISM_FILE).write_text('{"config": {"name_bottleneck": 0.5}}')
    assert "50% of its sentences, so that H1 is planted" in said("mine")
    assert planted_bottleneck(None) == 0
    assert planted_bottleneck(reversal_curse()) == 0.85
