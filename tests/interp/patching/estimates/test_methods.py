"""Each method of an estimate, against derivatives taken by hand in Hugging Face's own model."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from interp import PromptPairs, estimate, sweep
from interp.errors import SiteError
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import D_HEAD, D_MODEL, N_HEADS, N_LAYERS, Tiny

CLEAN, CORRUPT = "we saw Ann near Rome and then", "we saw Bo near Oslo and then"
ANSWER, FOIL = "Gus", "Ida"
SITES = ("resid_pre", "z", "mlp_out", "mlp_act")
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def pairs_of(tiny: Tiny) -> PromptPairs:
    return PromptPairs(tiny.model, [CLEAN], [CORRUPT], [f" {ANSWER}"], [f" {FOIL}"])


class ByHand:
    """Activations of Hugging Face's own model, and derivatives by them.

    Args:
        around: a block's number and what it returns to what is to be returned in its place.
    """

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny
        self.gpt2 = tiny.name == "gpt2"
        self.blocks = tiny.hf.transformer.h if self.gpt2 else tiny.hf.model.layers

    def parts(self, layer: int) -> tuple[Any, Any, Any, Any]:
        """Block, MLP, the matrix that reads head outputs, and the one that reads neurons."""
        block = self.blocks[layer]
        if self.gpt2:
            return block, block.mlp, block.attn.c_proj, block.mlp.c_proj
        return block, block.mlp, block.self_attn.o_proj, block.mlp.down_proj

    def run(
        self,
        text: str,
        *,
        move: dict[tuple[str, int], Tensor] | None = None,
        beside: int | None = None,
    ) -> tuple[Tensor, dict[tuple[str, int], Tensor]]:
        """The logit difference, and the activations at all sites, which it can be derived by.

        Args:
            move: what is added at a site.
            beside: a block that no derivative passes.
        """
        seen: dict[tuple[str, int], Tensor] = {}
        placed = []

        def look(site: str, layer: int, value: Tensor) -> Tensor:
            if move and (site, layer) in move:
                value = value + move[site, layer]
            if not value.requires_grad:
                value = value.requires_grad_()
            seen[site, layer] = value
            return value

        def before(site: str, layer: int) -> Callable[..., Any]:
            return lambda _module, args: (look(site, layer, args[0]), *args[1:])

        def after(layer: int) -> Callable[..., Any]:
            def hook(_module: Any, args: Any, output: Any) -> Any:
                value = output[0] if isinstance(output, tuple) else output
                if beside == layer:
                    value = args[0] + (value - args[0]).detach()
                return (value, *output[1:]) if isinstance(output, tuple) else value

            return hook

        for layer in range(N_LAYERS):
            block, mlp, out_matrix, neurons = self.parts(layer)
            placed += [
                block.register_forward_pre_hook(before("resid_pre", layer)),
                out_matrix.register_forward_pre_hook(before("z", layer)),
                neurons.register_forward_pre_hook(before("mlp_act", layer)),
                mlp.register_forward_hook(
                    lambda _m, _a, out, layer=layer: look("mlp_out", layer, out)
                ),
                block.register_forward_hook(after(layer)),
            ]
        ids = torch.tensor([self.tiny.ids(text)])
        try:
            last = self.tiny.hf(ids, use_cache=False).logits[0, -1]
        finally:
            for handle in placed:
                handle.remove()
        answer, foil = (self.tiny.ids(word)[-1] for word in (ANSWER, FOIL))
        return last[answer] - last[foil], seen

    @functools.cached_property
    def unchanged(self) -> list[dict[tuple[str, int], Tensor]]:
        """The activations of both runs, the clean one first."""
        return [self.run(text)[1] for text in (CLEAN, CORRUPT)]

    def difference(self, site: str, layer: int) -> Tensor:
        clean, corrupt = (seen[site, layer] for seen in self.unchanged)
        return (clean - corrupt).detach()

    def estimate(self, **how: Any) -> dict[str, np.ndarray]:
        """By site, difference times derivative [layer, position]."""
        score, seen = self.run(CORRUPT, **how)
        gradients = torch.autograd.grad(score, [*seen.values()], allow_unused=True)
        moved = {
            at: torch.zeros(seen[at].shape[1])
            if gradient is None
            else (self.difference(*at) * gradient)[0].sum(-1)
            for at, gradient in zip(seen, gradients, strict=True)
        }
        return {
            site: torch.stack([moved[site, layer] for layer in range(N_LAYERS)]).numpy()
            for site in SITES
        }


def change(tiny: Tiny, site: str, method: str, **more: Any) -> np.ndarray:
    by = more.pop("by", "position")
    found = estimate(
        tiny.model,
        pairs_of(tiny),
        site,
        by=by,
        method=method,
        check=0,
        **more,  # type: ignore[arg-type]
    )
    assert found.attrs["instrument"].startswith(f"attribution patching, {method}")
    return (found["patched"] - found["corrupt"]).values[0]


@pytest.fixture(params=["gpt2", "llama"])
def two(request: pytest.FixtureRequest, zoo: Callable[[str], Tiny]) -> Tiny:
    return zoo(request.param)


@pytest.mark.slow
def test_a_gradient_is_the_derivative(two: Tiny) -> None:
    for site, expected in ByHand(two).estimate().items():
        np.testing.assert_allclose(change(two, site, "gradient"), expected, **CLOSE)


@pytest.mark.slow
def test_integrated_gradients_are_means_on_the_way(two: Tiny) -> None:
    hand = ByHand(two)
    for site in SITES:
        expected = []
        for layer in range(N_LAYERS):
            difference, total = hand.difference(site, layer), torch.zeros(())
            for step in range(2):
                move = {(site, layer): (step + 0.5) / 2 * difference}
                score, seen = hand.run(CORRUPT, move=move)
                (gradient,) = torch.autograd.grad(score, seen[site, layer])
                total = total + gradient / 2
            expected.append((difference * total)[0].sum(-1).numpy())
        np.testing.assert_allclose(change(two, site, "integrated", steps=2), expected, **CLOSE)


@pytest.mark.slow
def test_integrated_gradients_add_up_to_what_all_cells_do_together(llama: Tiny) -> None:
    pairs = pairs_of(llama)
    for site in ("resid_pre", "attn_out"):
        together = sweep(llama.model, pairs, site, by="span")  # one span: the whole prompt
        expected = (together["patched"] - together["corrupt"]).values[0].sum(-1)
        found = change(llama, site, "integrated", steps=64).sum(-1)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_graddrop_passes_beside_one_block_after_the_other(two: Tiny) -> None:
    hand = ByHand(two)
    whole = hand.estimate()
    beside = [hand.estimate(beside=layer) for layer in range(N_LAYERS)]
    for site in SITES:
        passing = N_LAYERS - (site != "resid_pre")
        size = np.abs([parts[site] for parts in beside]).sum(0) / passing
        expected = np.sign(whole[site]) * size
        np.testing.assert_allclose(change(two, site, "atp*"), expected, **CLOSE)


def qkv(tiny: Tiny, layer: int, text: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of GPT-2, by head [head, position, d_head]."""
    kept: list[Tensor] = []
    handle = tiny.hf.transformer.h[layer].attn.c_attn.register_forward_hook(
        lambda _module, _args, out: kept.append(out.detach())
    )
    with torch.no_grad():
        tiny.hf(torch.tensor([tiny.ids(text)]), use_cache=False)
    handle.remove()
    parts = kept[0][0].split(D_MODEL, dim=-1)
    q, k, v = (part.unflatten(-1, (N_HEADS, D_HEAD)).transpose(0, 1) for part in parts)
    return q, k, v


@pytest.mark.slow
@pytest.mark.parametrize("site", ["q", "k"])
def test_the_softmax_is_computed_anew_for_queries_and_keys(gpt2: Tiny, site: str) -> None:
    hand = ByHand(gpt2)
    n = len(gpt2.ids(CORRUPT))
    later = torch.ones(n, n).triu(1).bool()

    def heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(D_HEAD)
        return scores.masked_fill(later, -math.inf).softmax(-1) @ v  # [head, position, d_head]

    expected = np.zeros((N_LAYERS, n, N_HEADS))
    for layer in range(N_LAYERS):
        gradients = []
        for beside in (None, *range(N_LAYERS)):
            score, seen = hand.run(CORRUPT, beside=beside)
            (gradient,) = torch.autograd.grad(score, seen["z", layer], allow_unused=True)
            gradients.append(torch.zeros(n, D_MODEL) if gradient is None else gradient[0])
        clean, (q, k, v) = qkv(gpt2, layer, CLEAN), qkv(gpt2, layer, CORRUPT)
        for position in range(n):
            for head in range(N_HEADS):
                new = {"q": q.clone(), "k": k.clone()}
                source = clean[0] if site == "q" else clean[1]
                new[site][head, position] = source[head, position]
                moved = heads(new["q"], new["k"], v) - heads(q, k, v)
                flat = moved.transpose(0, 1).flatten(1)
                whole, *parts = (float((flat * gradient).sum()) for gradient in gradients)
                size = sum(map(abs, parts)) / (N_LAYERS - 1)
                expected[layer, position, head] = np.sign(whole) * size
    assert np.abs(expected).max() > 0.05
    found = change(gpt2, site, "atp*", by=("head", "position"))
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=2e-5)


@contextlib.contextmanager
def relevance_rules(tiny: Tiny) -> Iterator[None]:
    """Hugging Face's own modules, with their derivatives by the rules of RelP."""
    patches, placed = [], []
    modules = list(tiny.hf.modules())
    if tiny.name == "llama":

        def norm(self: Any, x: Tensor) -> Tensor:
            scale = (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
            return self.weight * (x * scale.detach())

        def mlp(self: Any, x: Tensor) -> Tensor:
            gate, up = self.gate_proj(x), self.up_proj(x)
            gated = gate * torch.sigmoid(gate).detach()
            half = 0.5 * (gated * up.detach() + gated.detach() * up)
            return self.down_proj(half + (gated * up - half).detach())

        for module in modules:
            name = type(module).__name__
            if name == "LlamaRMSNorm":
                patches.append(mock.patch.object(module, "forward", norm.__get__(module)))
            elif name == "LlamaMLP":
                patches.append(mock.patch.object(module, "forward", mlp.__get__(module)))
            elif name == "LlamaAttention":
                for made in (module.q_proj, module.k_proj):
                    placed.append(made.register_forward_hook(lambda _m, _a, out: out.detach()))
    else:

        def layer_norm(self: Any, x: Tensor) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            scale = (centred.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
            return self.weight * centred * scale.detach() + self.bias

        def dense(self: Any, x: Tensor) -> Tensor:
            into = self.c_fc(x)
            ratio = functional.gelu(into, approximate="tanh") / into
            return self.c_proj(into * ratio.detach())

        def patterns(_module: Any, _args: Any, out: Tensor) -> Tensor:
            q, k, v = out.split(D_MODEL, dim=-1)
            return torch.cat([q.detach(), k.detach(), v], -1)

        for module in modules:
            name = type(module).__name__
            if name == "LayerNorm":
                patches.append(mock.patch.object(module, "forward", layer_norm.__get__(module)))
            elif name == "GPT2MLP":
                patches.append(mock.patch.object(module, "forward", dense.__get__(module)))
            elif name == "GPT2Attention":
                placed.append(module.c_attn.register_forward_hook(patterns))
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        for handle in placed:
            stack.callback(handle.remove)
        yield


@pytest.mark.slow
def test_relevance_rules_are_those_of_the_paper(two: Tiny) -> None:
    hand = ByHand(two)
    plain = hand.estimate()
    with relevance_rules(two):
        by_rules = hand.estimate()
    for site, expected in by_rules.items():
        assert np.abs(expected - plain[site]).max() > 0.05
        np.testing.assert_allclose(change(two, site, "relp"), expected, rtol=5e-3, atol=1e-4)


def test_only_a_known_method_with_its_own_settings_is_taken(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    with pytest.raises(SiteError, match="says nothing to the method 'gradient'"):
        estimate(llama.model, pairs, "z", method="gradient", steps=3)
    with pytest.raises(SiteError, match="says nothing to the method 'relp'"):
        estimate(llama.model, pairs, "z", method="relp", columns=3)
    with pytest.raises(SiteError, match="from 1"):
        estimate(llama.model, pairs, "z", method="columns", columns=0)
    with pytest.raises(SiteError, match="gives 'q' no effect"):
        estimate(llama.model, pairs, "q", method="relp")
