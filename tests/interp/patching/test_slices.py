"""Sweeps that are run in slices: the same numbers and labels, wherever each slice runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import estimate, sweep
from interp.errors import MetricError, PromptError, SiteError
from interp.execute import Executor, Workers
from interp.metrics import Metric, Term, target_logit
from interp.prompts.pairs import PromptPairs
from tests.interp import brute_force
from tests.interp.deadly import deadly
from tests.interp.executing import pids
from tests.interp.pairs import CASES, prompt_pairs, slots
from tests.interp.tiny import D_MODEL, Tiny

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 0, "atol": 1e-5}
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "positions": ("resid_pre", "logit_diff", {}),
    "heads": ("z", "logprob_diff", {"by": ("head", "position"), "direction": "noising"}),
    "neurons": ("mlp_act", "rank", {"by": ("neurons", "span"), "neurons": 12}),
    "patterns": ("pattern", "answer_logprob", {"by": ("destination", "source")}),
    "mean": ("resid_mid", "logit_diff", {"source": "mean", "reference": ["we saw Ann", "so is"]}),
    "zero": ("pattern", "logit_diff", {"source": "zero"}),
    "given": (
        "mlp_out",
        "logit_diff",
        {"source": {1: torch.linspace(-1, 1, D_MODEL)}, "layers": [1], "direction": "denoising"},
    ),
    # The second pair has no token there: its slice has nothing to run.
    "not all pairs": ("resid_post", "logit_diff", {"positions": ["who -2"], "layers": [0, 2]}),
    "some": ("resid_pre", "logit_diff", {"only": 5}),
    "some heads": ("q", "logit_diff", {"only": 3, "by": "head", "direction": "noising"}),
    "none": ("resid_pre", "logit_diff", {"only": 0}),
}


@pytest.fixture(autouse=True)
def a_slice_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.patching.slices.CELLS_PER_SLICE", 1)
    monkeypatch.setattr("interp.patching.slices.OPERATIONS_PER_SLICE", 1)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """A process for all tests of one model; it takes seconds to import what it needs. Several of
    them share units in `tests/interp/execute`, and a study's sweeps in `test_study.py`."""
    with Workers(Executor("processes", 1)) as workers:
        yield workers


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Labels alike, numbers alike but for rounding."""
    numbers = ["patched", "clean", "corrupt"]
    for name in numbers:
        assert found[name].dims == expected[name].dims
        np.testing.assert_allclose(found[name], expected[name], **CLOSE)
    assert found.drop_vars(numbers).identical(expected.drop_vars(numbers))


@pytest.mark.parametrize("name", REQUESTS)
def test_slices_give_what_the_whole_does(tiny: Tiny, name: str) -> None:
    site, metric, options = REQUESTS[name]
    if tiny.parallel and site == "resid_mid":
        pytest.skip("parallel blocks have no such stream")
    pairs = prompt_pairs(tiny)
    expected = sweep(tiny.model, pairs, site, metric, **options)
    assert_same(sweep(tiny.model, pairs, site, metric, **options, executor=Executor()), expected)


def test_slices_give_what_brute_force_does(llama: Tiny) -> None:
    found = sweep(llama.model, prompt_pairs(llama), "resid_mid", executor=Executor())
    expected = brute_force.patched(llama, "resid_mid", "denoising", ("position",))
    np.testing.assert_allclose(found["patched"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", REQUESTS)
def test_processes_give_the_very_same_numbers(gpt2: Tiny, workers: Workers, name: str) -> None:
    site, metric, options = REQUESTS[name]
    pairs = prompt_pairs(gpt2)
    expected = sweep(gpt2.model, pairs, site, metric, **options, executor=Executor())
    found = sweep(gpt2.model, pairs, site, metric, **options, executor=workers)
    assert found.identical(expected)


def test_a_worker_killed_in_the_middle_changes_nothing(
    gpt2: Tiny, workers_at_once: None, tmp_path: Path
) -> None:
    pairs = prompt_pairs(gpt2)
    expected = sweep(gpt2.model, pairs, "resid_pre", executor=Executor())
    found = sweep(
        gpt2.model, pairs, "resid_pre", deadly(tmp_path), executor=Executor("processes", 2)
    )
    assert len(pids(tmp_path)) == 1
    assert found.identical(expected.assign_attrs(metric="deadly"))


def test_progress_counts_every_cell_once(gpt2: Tiny) -> None:
    pairs, seen = prompt_pairs(gpt2), []
    for only in (None, 4):
        found = sweep(
            gpt2.model,
            pairs,
            "resid_pre",
            "logprob_diff",
            only=only,
            executor=Executor(),
            progress=lambda done, total: seen.append((done, total)),
        )
        run = found["exact"].values if only else np.ones(found["patched"].shape[1:], bool)
        total = 2 * int((np.isfinite(found["patched"]) & run).sum().item())
        assert seen[-1] == (total, total)
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})
        assert len(seen) == len(CASES)
        seen.clear()


def test_only_what_was_chosen_is_run(gpt2: Tiny) -> None:
    counts: list[int] = []

    def score(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        counts.append(len(logits))
        return target_logit(logits, targets)

    counting = Metric("counting", "", (Term("prompt", "answer", score),), "the answer's logit")
    found = sweep(gpt2.model, prompt_pairs(gpt2), "resid_pre", counting, only=4)
    here = sum(counts)
    counts.clear()
    sweep(gpt2.model, prompt_pairs(gpt2), "resid_pre", counting, only=4, executor=Executor())
    there = sum(counts)
    counts.clear()
    estimate(gpt2.model, prompt_pairs(gpt2), "resid_pre", counting)
    chosen = np.isfinite(found["patched"].values) & found["exact"].values
    # Beside the estimate, and the cells that it is held against, the two runs of each pair.
    assert here == there == sum(counts) + int(chosen.sum()) + 2 * len(CASES)


def test_how_a_sweep_is_cut_depends_on_its_size(
    gpt2: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full batches, and enough work in each slice; never on the executor."""
    pairs, counts = prompt_pairs(gpt2), []
    cells = 3 * sum(pair is not None for _, at in slots(gpt2) for pair in at)
    for wanted in (1, 10**9, 2 * cells / len(CASES)):
        monkeypatch.setattr("interp.patching.slices.CELLS_PER_SLICE", wanted)
        seen: list[int] = []
        sweep(
            gpt2.model,
            pairs,
            "resid_pre",
            executor=Executor(),
            progress=lambda done, _: seen.append(done),  # noqa: B023
        )
        counts.append(len(seen))
    assert counts == [3, 1, 2]


def test_a_metric_that_cannot_be_sent_is_refused(gpt2: Tiny) -> None:
    """By workers only: here it may be anything."""
    by_hand = Metric(
        "by hand",
        "logits",
        (Term("prompt", "answer", lambda logits, targets: target_logit(logits, targets)),),
        "the answer's logit",
    )
    of_the_script = replace(by_hand, terms=(replace(by_hand.terms[0], score=here()),))
    for metric in (by_hand, of_the_script):
        sweep(gpt2.model, prompt_pairs(gpt2), "resid_pre", metric, executor=Executor())
        for kind in ("processes", "ray"):
            with pytest.raises(MetricError, match="The metric 'by hand' cannot be sent to workers"):
                sweep(
                    gpt2.model, prompt_pairs(gpt2), "resid_pre", metric, executor=Executor(kind, 2)
                )


def here() -> Any:
    """A function as a notebook has it."""
    import __main__

    exec("def score(logits, targets): return logits[:, 0, 0]", __main__.__dict__)
    return __main__.score


def test_what_cannot_be_swept_is_refused_before_any_worker_starts(gpt2: Tiny) -> None:
    pairs = prompt_pairs(gpt2)
    nobody = Executor("ray", 2, "127.0.0.1:1")
    with pytest.raises(SiteError, match="no heads"):
        sweep(gpt2.model, pairs, "resid_pre", by="head", executor=nobody)
    with pytest.raises(PromptError, match="out of range"):
        sweep(gpt2.model, pairs, "resid_pre", positions=[99], executor=nobody)
    with pytest.raises(SiteError, match="no gradient"):
        sweep(gpt2.model, pairs, "resid_pre", "rank", only=2, executor=nobody)
    with pytest.raises(SiteError, match="-1 cells"):
        sweep(gpt2.model, pairs, "resid_pre", only=-1, executor=nobody)


@pytest.mark.parametrize("examples", [range(1, 3), range(0, 1), [2, 0]])
def test_some_of_the_pairs_stay_on_the_axis_of_all(tiny: Tiny, examples: range | list[int]) -> None:
    pairs = prompt_pairs(tiny)
    some = pairs.subset(examples)
    chosen = [CASES[i] for i in examples]
    alone: PromptPairs = prompt_pairs(tiny, chosen)
    assert len(some) == len(chosen)
    assert some.positions == pairs.positions
    assert (some.answer_ids, some.foil_ids) == (alone.answer_ids, alone.foil_ids)
    assert (some.answers, some.foils) == (alone.answers, alone.foils)
    for run in ("clean", "corrupt"):
        mine, own = some.prompts(run), alone.prompts(run)
        assert torch.equal(mine.ids, own.ids)
        assert torch.equal(mine.lengths, own.lengths)
        assert (mine.texts, mine.offsets) == (own.texts, own.offsets)
        index = getattr(some.alignment, run)
        for slot, (_, at) in enumerate(slots(tiny)):
            side = ("clean", "corrupt").index(run)
            expected = [-1 if at[i] is None else at[i][side] for i in examples]
            assert list(index[:, slot]) == expected
    assert len(pairs) == len(CASES)


def test_pairs_without_foils_have_subsets_too(gpt2: Tiny) -> None:
    pairs = PromptPairs(gpt2.model, ["we saw", "so is"], ["so saw", "we is"], [" Ann", " Bo"])
    assert pairs.subset([1]).answers == ("Bo",)
    assert pairs.subset([1]).foils is None
    found = sweep(gpt2.model, pairs, "resid_pre", "answer_logprob", executor=Executor())
    assert_same(found, sweep(gpt2.model, pairs, "resid_pre", "answer_logprob"))
