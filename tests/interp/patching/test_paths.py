"""Path patching by its definition (Wang et al. 2022), on split runs of Hugging Face's models.

All but the sender and what it may pass through is frozen; what the receivers read then is given to
them in a run of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import ArgumentError, SiteError
from interp.model import memory
from interp.patching import patch_paths
from tests.interp.circuits import by_hand
from tests.interp.circuits.by_hand import Table
from tests.interp.circuits.rewired import settle
from tests.interp.circuits.split import Split
from tests.interp.pairs import CASES, Case, prompt_pairs
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow


def by_definition(
    tiny: Tiny,
    senders: Sequence[str],
    receivers: list[str],
    through: list[str],
    metric: str = "logit_diff",
    cases: tuple[Case, ...] = CASES,
    tokens: Sequence[int] | None = None,
) -> Table:
    """[sender, example]; those that are not passed through themselves run side by side."""
    split = Split(tiny.hf)
    alone = [[sender] for sender in senders if sender in through]
    together = [sender for sender in senders if sender not in through]
    values = np.zeros((len(senders), len(cases)))
    for group in [group for group in (together, *alone) if group]:
        rows = [senders.index(sender) for sender in group]
        for example, case in enumerate(cases):
            for question in by_hand.questions(tiny, case, metric):
                values[rows, example] += _sent(split, question, group, receivers, through, tokens)
    return values


def _sent(
    split: Split,
    question: by_hand.Question,
    senders: Sequence[str],
    receivers: list[str],
    through: list[str],
    tokens: Sequence[int] | None,
) -> Table:
    """By sender the metric where the receivers hear it, and nobody else."""
    clean, change = by_hand.changes(split, question)
    frozen = {
        name: value.repeat(len(senders), 1, 1)
        for name, value in clean.items()
        if name not in through or name in senders
    }
    for row, sender in enumerate(senders):
        kept = slice(None) if tokens is None else list(tokens)
        frozen[sender][row, kept] += change[sender][0, kept]
    with torch.no_grad():
        told = split.run(frozen["input"], instead=frozen).written
    heard = {
        name: sum(told[writer] - clean[writer] for writer in split.reads(name))
        for name in receivers
    }

    def rule(reader: str, written: Any) -> Any:
        if reader not in heard:
            return None
        now = sum(written[writer] - clean[writer] for writer in split.reads(reader))
        return heard[reader] - now

    return question.metric(settle(split, clean["input"], rule).logits).numpy()


CHOICES: list[tuple[list[str], list[str], str]] = [
    (["logits"], [], "logit_diff"),
    (["a2.h1.q"], [], "logit_diff"),
    (["a2.h0.k", "a2.h1.v"], ["m0", "m1"], "logit_diff"),
    (["a1.h1.v", "m2", "a2.h3.q"], ["a1.h0", "m1"], "logit_diff"),
    (["m1", "a2.h0.v"], ["m0", "m1", "m2"], "logprob_diff"),
]


@pytest.mark.parametrize(("receivers", "through", "metric"), CHOICES)
def test_each_path_is_what_the_definition_says(
    tiny: Tiny, receivers: list[str], through: list[str], metric: str
) -> None:
    found = patch_paths(tiny.model, prompt_pairs(tiny), receivers, metric, through=through)
    split = Split(tiny.hf)
    writers = {name for receiver in receivers for name in split.reads(receiver)}
    assert list(found["sender"].values) == [s for s in split.sources() if s in writers]
    senders = [str(sender) for sender in found["sender"].values]
    expected = by_definition(tiny, senders, receivers, through, metric)
    np.testing.assert_allclose(
        found["patched"].transpose("sender", "example"), expected, rtol=0, atol=2e-4
    )
    assert float(np.abs(found["patched"] - found["clean"]).max()) > 0.05


def test_only_the_chosen_positions_of_the_sender_are_replaced(gpt2: Tiny) -> None:
    pairs = prompt_pairs(gpt2, CASES[:1])
    labels = [pairs.positions.index("who -1"), pairs.positions.index("end -1")]
    found = patch_paths(
        gpt2.model, pairs, "a2.h1.v", senders=["a0.h1", "m1"], positions=["who -1", labels[1]]
    )
    whole = patch_paths(gpt2.model, pairs, "a2.h1.v", senders=["a0.h1", "m1"])
    assert float(np.abs(found["patched"] - whole["patched"]).max()) > 1e-3
    senders = ["a0.h1", "m1"]
    tokens = pairs.alignment.clean[0, labels].tolist()
    expected = by_definition(gpt2, senders, ["a2.h1.v"], [], cases=CASES[:1], tokens=tokens)
    ours = found["patched"].sel(sender=senders).transpose("sender", "example")
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-4)


def test_denoising_is_noising_of_the_swapped_pairs(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    found = patch_paths(llama.model, pairs, "logits", direction="denoising")
    everything = found["patched"].sel(sender="input")
    assert float(np.abs(found["patched"] - found["corrupt"]).max()) > 0.05
    # Directly to the logits, changes of all writers add up in the stream, not in the metric; the
    # embedding's alone is what it says.
    split = Split(llama.hf)
    for example, case in enumerate(CASES):
        corrupt = case.ids(llama, "corrupt")
        with torch.no_grad():
            clean_run = split.run(split.embed(case.ids(llama, "clean"))).written["input"]
            base = split.run(split.embed(corrupt))
            change = torch.zeros_like(base.written["input"])
            slots = zip(
                pairs.alignment.corrupt[example], pairs.alignment.clean[example], strict=True
            )
            for here, there in slots:
                if here >= 0:
                    change[:, here] = clean_run[:, there] - base.written["input"][:, here]
            last = split.run(split.embed(corrupt), added={"logits": change}).logits[0, -1]
        answer, foil = (int(pairs.first_tokens(which)[example]) for which in ("answer", "foil"))
        assert float(everything[example]) == pytest.approx(
            float(last[answer] - last[foil]), abs=2e-4
        )


def test_a_head_is_short_for_its_three_readers_and_mlps_for_all(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    short = patch_paths(llama.model, pairs, "a2.h3", through="mlps")
    long = patch_paths(
        llama.model, pairs, ["a2.h3.q", "a2.h1.k", "a2.h1.v"], through=["m0", "m1", "m2"]
    )
    np.testing.assert_array_equal(short["patched"], long["patched"])
    assert short.attrs["receivers"] == "a2.h3.q, a2.h1.k, a2.h1.v"


def test_results_do_not_depend_on_the_batch(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = prompt_pairs(llama)
    seen: list[tuple[int, int]] = []
    together = patch_paths(llama.model, pairs, "a2.h0", through="mlps")
    monkeypatch.setattr(memory, "memory_budget", lambda _: 1)
    alone = patch_paths(
        llama.model, pairs, "a2.h0", through="mlps", progress=lambda *a: seen.append(a)
    )
    np.testing.assert_allclose(alone["patched"], together["patched"], rtol=0, atol=1e-4)
    assert seen[-1] == (together["patched"].size,) * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"receivers": "a9.h0.q"}, "no reader 'a9.h0.q'"),
        ({"receivers": ["logits", "m1"]}, "'logits' alone"),
        ({"receivers": []}, "at least one receiver"),
        ({"receivers": "m1", "senders": ["m2"]}, "'m2' stands behind all receivers"),
        ({"receivers": "m1", "senders": ["h0"]}, "no writer 'h0'"),
        ({"receivers": "m1", "senders": []}, "no senders"),
        ({"receivers": "m1", "through": ["attention"]}, "no writer 'attention'"),
        ({"receivers": "m1", "direction": "up"}, "Unknown direction 'up'"),
    ],
)
def test_what_makes_no_path_is_refused(
    llama: Tiny, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((SiteError, ArgumentError), match=message):
        patch_paths(llama.model, prompt_pairs(llama), **arguments)
