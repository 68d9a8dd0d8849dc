"""Ablations: constants in the place of an activation, against a full forward for each cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp import PromptPairs, capture, load_model, sweep
from interp.errors import ArgumentError, SiteError
from interp.model.model import Model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import Tiny, build_tokenizer

pytestmark = pytest.mark.slow

REFERENCE = [case.text(run) for case in CASES for run in ("clean", "corrupt")]


def brute_force(
    model: Model,
    pairs: PromptPairs,
    example: int,
    hook: str,
    value: torch.Tensor,
    where: tuple[int, ...],
) -> float:
    """Logit difference of one clean prompt, run alone, with one entry replaced."""
    ids = torch.tensor([pairs.clean.row(example)])

    def replace(activation: torch.Tensor, hook: object) -> torch.Tensor:
        activation = activation.clone()
        activation[(slice(None), *where)] = value
        return activation

    with torch.no_grad():
        logits = model.bridge.run_with_hooks(ids, fwd_hooks=[(hook, replace)], use_cache=False)
    answer, foil = (pairs.first_tokens(which)[example] for which in ("answer", "foil"))
    return float(logits[0, -1, answer] - logits[0, -1, foil])


@pytest.mark.parametrize("source", ["zero", "mean"])
def test_one_token_of_an_mlp_is_ablated(source: str, tiny: Tiny) -> None:
    model, pairs = tiny.model, prompt_pairs(tiny)
    result = sweep(model, pairs, "mlp_out", by="position", source=source, reference=REFERENCE)  # type: ignore[arg-type]
    assert result.attrs["direction"] == "noising"
    assert result.attrs["source"] == source
    for layer in range(model.n_layers):
        name = f"mlp_out.{layer}"
        value = torch.zeros(model.d_model)
        if source == "mean":
            rows = [capture(model, [text], name)[name][0, len(tiny.bos) :] for text in REFERENCE]
            value = torch.cat(rows).mean(0)
        for example, slots in enumerate(pairs.alignment.clean):
            for slot in np.nonzero(slots >= 0)[0]:
                hook = f"blocks.{layer}.mlp.hook_out"
                where = (int(slots[slot]),)
                expected = brute_force(model, pairs, example, hook, value, where)
                got = float(result["patched"][example, layer, slot])
                assert got == pytest.approx(expected, abs=1e-4)


def test_one_head_is_silenced(tiny: Tiny) -> None:
    model, pairs = tiny.model, prompt_pairs(tiny)
    result = sweep(model, pairs, "z", by=("head", "position"), source="zero")
    slot = len(pairs.alignment) - 1
    position = int(pairs.alignment.clean[0, slot])
    for layer in range(model.n_layers):
        for head in range(model.n_heads):
            hook, nothing = f"blocks.{layer}.attn.hook_z", torch.tensor(0.0)
            expected = brute_force(model, pairs, 0, hook, nothing, (position, head))
            got = float(result["patched"][0, layer, slot, head])
            assert got == pytest.approx(expected, abs=1e-4)


def test_given_values_of_the_other_run_do_what_the_other_run_does(tiny: Tiny) -> None:
    model, pairs = tiny.model, prompt_pairs(tiny, CASES[:1])
    slot = len(pairs.alignment) - 1
    found = capture(model, [CASES[0].text("corrupt")], "resid_post", positions="last")
    given = {layer: found[f"resid_post.{layer}"][0] for layer in range(model.n_layers)}
    ours = sweep(model, pairs, "resid_post", source=given, positions=[slot])
    other = sweep(model, pairs, "resid_post", direction="noising", positions=[slot])
    np.testing.assert_allclose(ours["patched"], other["patched"], atol=1e-4)
    assert ours.attrs["source"] == "given"


def test_bad_sources_are_refused(llama: Tiny) -> None:
    model, pairs = llama.model, prompt_pairs(llama)
    with pytest.raises(SiteError, match="reference"):
        sweep(model, pairs, "mlp_out", source="mean")
    with pytest.raises(ArgumentError, match="Unknown source"):
        sweep(model, pairs, "mlp_out", source="median")  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="shape"):
        sweep(model, pairs, "mlp_out", source={0: torch.zeros(3)})
    with pytest.raises(SiteError, match="finite"):
        sweep(model, pairs, "mlp_out", layers=[0], source={0: torch.ones(model.d_model) * 1j})


def test_values_that_half_precision_cannot_hold_are_refused() -> None:
    """One for all tokens, or one for each of them."""
    hf = ARCHITECTURES["Llama"].build().to(torch.float16)
    model = load_model(hf, tokenizer=build_tokenizer())
    pairs = PromptPairs(model, ["we saw Ann"], ["we saw Bo"], [" Ann"], [" Bo"])
    shape = pairs.clean.ids.shape
    for value in (torch.full((32,), 1e6), torch.full((*shape, 32), 1e6)):
        with pytest.raises(SiteError, match="too large"):
            sweep(model, pairs, "mlp_out", layers=[0], source={0: value})
