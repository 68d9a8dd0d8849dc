"""What is placed on a model is taken away again, and two threads do not meet on it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp import Site, capture, logit_lens, record, resume, sweep
from interp.forward.access import changing
from interp.forward.hooks import hooked
from interp.forward.passes import readout
from interp.generation.answers import complete, score_answers
from interp.metrics import Metric, Term
from interp.patching.single import patch_once
from interp.prompts.tokens import tokenise
from interp.sites import hook_points
from tests.interp import reference
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import N_LAYERS, Tiny

pytestmark = pytest.mark.slow

PROMPTS = ["we saw Ann near Rome and then", "so Fay is"]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def traces(tiny: Tiny) -> dict[str, list[Any]]:
    """Every hook on every module and hook point of the model."""
    found: dict[str, list[Any]] = {}
    for name, module in tiny.model.bridge.named_modules():
        for kind in HOOKS:
            found[f"{name}.{kind}"] = list(getattr(module, kind).items())
        for kind in ("fwd_hooks", "bwd_hooks"):
            found[f"{name}.{kind}"] = list(getattr(module, kind, []))
        found[f"{name}.forward"] = [module.__dict__.get("forward")]
    for name, point in tiny.model.bridge.hook_dict.items():
        found[f"point {name}"] = [*point.fwd_hooks, *point.bwd_hooks, *point._forward_hooks]
    return found


def same_logits(tiny: Tiny) -> None:
    ids = tiny.ids(PROMPTS[0])
    with torch.no_grad():
        found = tiny.model.bridge(torch.tensor([ids]), use_cache=False)
    np.testing.assert_allclose(found[0], reference.logits(tiny, ids), rtol=0, atol=1e-5)


USES: dict[str, Callable[[Tiny], object]] = {
    "capture": lambda tiny: capture(tiny.model, PROMPTS, ["resid_pre", "z", "pattern"]),
    "sweep": lambda tiny: sweep(tiny.model, prompt_pairs(tiny), "z", by=("head", "position")),
    "patch_once": lambda tiny: patch_once(tiny.model, prompt_pairs(tiny), "v", 1, head=1),
    "logit_lens": lambda tiny: logit_lens(tiny.model, PROMPTS),
    "score_answers": lambda tiny: score_answers(tiny.model, PROMPTS, [" Ann Bo", " Cy"]),
    "complete": lambda tiny: complete(tiny.model, PROMPTS, 2),
}


@pytest.mark.parametrize("use", USES)
def test_nothing_stays_on_the_model_after_success(tiny: Tiny, use: str) -> None:
    before = traces(tiny)
    assert any("hook_resid_pre" in name for name in before)
    USES[use](tiny)
    assert traces(tiny) == before
    same_logits(tiny)


class Broken(Exception):
    """Raised inside a hook."""


def broken(*_args: object) -> Any:
    raise Broken


def fails_in_a_hook(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record(tiny.model, tokenise(tiny.model, PROMPTS).ids, [Site("resid_pre", 0)])
    changes = [(Site("mlp_out", 1), torch.zeros_like), (Site("attn_out", 1), broken)]
    with changing(tiny.model, changes):
        resume(tiny.model, recording, recording[Site("resid_pre", 0)], torch.arange(2), start=0)


def fails_while_patching(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.patching.table.Edit.write", broken)
    sweep(tiny.model, prompt_pairs(tiny), "k")


def fails_in_the_metric(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric("broken", "", (Term("prompt", "answer", broken),), "")
    sweep(tiny.model, prompt_pairs(tiny), "mlp_out", metric)


def fails_while_recording(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.forward.recording.block_call", broken)
    record(tiny.model, tokenise(tiny.model, PROMPTS[:1]).ids, [Site("q", 1)])


def fails_while_placing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unwilling:
        add_hook = staticmethod(broken)

    (point,) = hook_points(tiny.model, [Site("attn_out", 1)]).values()
    with hooked([(point, torch.zeros_like), (Unwilling(), torch.zeros_like)]):
        pass


def fails_in_progress(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(tiny.model, prompt_pairs(tiny), "k", progress=broken)


FAILURES = (
    fails_in_a_hook,
    fails_while_patching,
    fails_in_the_metric,
    fails_while_recording,
    fails_while_placing,
    fails_in_progress,
)


@pytest.mark.parametrize("failure", FAILURES)
def test_nothing_stays_on_the_model_after_an_exception(
    tiny: Tiny,
    failure: Callable[[Tiny, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = traces(tiny)
    with pytest.raises(Broken):
        failure(tiny, monkeypatch)
    monkeypatch.undo()
    assert traces(tiny) == before
    assert torch.is_grad_enabled()
    same_logits(tiny)
    released = threading.Thread(target=capture, args=(tiny.model, PROMPTS, "resid_pre"))
    released.start()
    released.join(timeout=60)
    assert not released.is_alive(), "the lock was kept"


def test_token_ids_that_the_embedding_lacks_leave_nothing_behind(tiny: Tiny) -> None:
    before = traces(tiny)
    with pytest.raises(IndexError):
        record(tiny.model, torch.tensor([[10_000]]), [Site("resid_pre", 0)])
    assert traces(tiny) == before
    same_logits(tiny)


def test_the_users_own_hooks_stay_and_fire(tiny: Tiny) -> None:
    seen: list[int] = []
    (point,) = hook_points(tiny.model, [Site("resid_pre", 1)]).values()

    def mine(value: torch.Tensor, hook: object) -> None:
        seen.append(len(value))

    handle = point.add_hook(mine)
    try:
        before = traces(tiny)
        capture(tiny.model, PROMPTS, "resid_pre")
        assert seen == [2]
        assert traces(tiny) == before
    finally:
        handle.hook.remove()
        point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]


def test_a_hook_replaces_or_only_looks(tiny: Tiny) -> None:
    ids = torch.tensor([tiny.ids(PROMPTS[0])])
    recording = record(tiny.model, ids, [Site("resid_pre", 0)])
    row = torch.zeros(1, dtype=torch.long)
    (point,) = hook_points(tiny.model, [Site("attn_out", 0)]).values()

    def logits(hook: Callable[[torch.Tensor], torch.Tensor | None]) -> torch.Tensor:
        with hooked([(point, hook)]):
            final = resume(tiny.model, recording, recording[Site("resid_pre", 0)], row, start=0)
        return readout(tiny.model, final)[0]

    untouched = reference.logits(tiny, tiny.ids(PROMPTS[0]))
    np.testing.assert_allclose(logits(lambda value: None), untouched, rtol=0, atol=1e-4)
    with reference.intervened(tiny, "attn_out", 0, lambda value: value.zero_()):
        silenced = reference.logits(tiny, tiny.ids(PROMPTS[0]))
    np.testing.assert_allclose(logits(torch.zeros_like), silenced, rtol=0, atol=1e-4)


def test_threads_on_one_model_get_the_answers_of_one_after_the_other(tiny: Tiny) -> None:
    pairs = prompt_pairs(tiny)
    work: list[Callable[[], Any]] = [
        lambda: sweep(tiny.model, pairs, "z", "logprob_diff")["patched"].values,
        lambda: sweep(tiny.model, pairs, "attn_out", direction="noising")["patched"].values,
        lambda: capture(tiny.model, PROMPTS, "resid_post")[f"resid_post.{N_LAYERS - 1}"].numpy(),
        lambda: logit_lens(tiny.model, PROMPTS)["entropy"].values,
    ]
    serial = [one() for one in work]
    found: dict[tuple[int, int], Any] = {}

    def run(number: int) -> None:
        for turn in range(5):
            found[number, turn] = work[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 5 * len(work)
    for (number, _), values in found.items():
        np.testing.assert_allclose(values, serial[number], rtol=0, atol=1e-5)
