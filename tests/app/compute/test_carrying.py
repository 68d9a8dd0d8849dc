"""A vector that is carried from one question into another, against a hook written by hand."""

from __future__ import annotations

import pytest
import torch

from app.compute.engine import Engine, ModelSpec
from experiments.explorer import Pair
from interp.prompts.tokens import tokenise
from tests.app.conftest import loaded

FORWARD = Pair("Tom Cruise's mother is", "Dan Frost's mother is", " Mary", " Eva", ("Tom", "Dan"))
REVERSE = Pair("Eva Lane's son is", "Mary Lee's son is", " Dan", " Tom", ("Eva Lane", "Mary Lee"))


def by_hand(spec: ModelSpec, source: str, read: int, written: int, layer: int) -> int:
    """The rank of the answer after the reverse question, with the source's stream put in."""
    model = loaded(spec)
    bridge = model.bridge
    name = f"blocks.{layer}.hook_in"
    (tokens,) = tokenise(model, [source]).ids[:1]
    kept = {}

    def keep(value: torch.Tensor, hook: object) -> torch.Tensor:
        kept["row"] = value[0, read].clone()
        return value

    def put(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        value[:, written] = kept["row"]
        return value

    with torch.no_grad():
        bridge.run_with_hooks(tokens[None], fwd_hooks=[(name, keep)])
        asked = tokenise(model, [REVERSE.clean]).ids[:1]
        logits = bridge.run_with_hooks(asked, fwd_hooks=[(name, put)])[0, -1]
    answer = model.tokenizer(REVERSE.answer, add_special_tokens=False).input_ids[0]
    return int((logits > logits[answer]).sum())


@pytest.mark.slow
def test_a_carried_vector_does_what_a_hook_by_hand_does(engine: Engine, spec: ModelSpec) -> None:
    for layer in (0, 1):
        found = engine.carry(spec, FORWARD, REVERSE, layer, (2, 2), 1)
        assert found.after == by_hand(spec, FORWARD.clean, 2, 1, layer)
        assert found.control == by_hand(spec, FORWARD.corrupt, 2, 1, layer)
        assert set(found.tokens) == {"before", "after"}
        assert all(len(tokens) == 6 for tokens in found.tokens.values())
    assert found.before != found.after or found.tokens["before"] != found.tokens["after"]
