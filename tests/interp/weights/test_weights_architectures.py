"""Folded weights of models with norms behind attention and MLP, scales and soft caps.

Dense products of Hugging Face's matrices, taken from its modules by name, in float64.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import load_model
from interp.weights.association import association_matrix
from interp.weights.scores import composition_scores, singular_tokens
from interp.weights.weights import Weights
from tests.interp import surgery
from tests.interp.architectures import ARCHITECTURES, D_HEAD, D_MODEL, N_HEADS
from tests.interp.tiny import VOCABULARY, build_tokenizer

pytestmark = pytest.mark.slow

NAMES = ("Gemma 2", "Gemma 3", "OLMo 2", "Granite", "OPT", "BLOOM")
RMS = NAMES[:4]
# By architecture: the norms before attention and behind attention and MLP.
NORMS = {
    "Gemma 2": ("input_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"),
    "Gemma 3": ("input_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"),
    "OLMo 2": (None, "post_attention_layernorm", "post_feedforward_layernorm"),
    "Granite": ("input_layernorm", None, None),
    "OPT": ("self_attn_layer_norm", None, None),
    "BLOOM": ("input_layernorm", None, None),
}
EMBEDDED = {"Gemma 2": D_MODEL**0.5, "Gemma 3": D_MODEL**0.5, "Granite": 2.0}
FINAL = {"OPT": "decoder.final_layer_norm", "BLOOM": "ln_f"}


class Hand:
    """An architecture's matrices, folded by hand."""

    def __init__(self, name: str) -> None:
        self.name, self.layout = name, ARCHITECTURES[name].layout
        self.hf = ARCHITECTURES[name].build()
        self.model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
        self.blocks = self.hf.get_submodule(self.layout.blocks)

    def fold(self, norm: Any) -> Tensor:
        """The linear part of a norm [d_model, d_model]."""
        if norm is None:
            return torch.eye(D_MODEL).double()
        gain = norm.weight + 1 if type(norm).__name__.startswith("Gemma") else norm.weight
        centred = isinstance(norm, torch.nn.LayerNorm)
        return (torch.eye(D_MODEL).double() - centred / D_MODEL) @ torch.diag(gain.double())

    def norm(self, layer: int, which: int) -> Any:
        name = NORMS[self.name][which]
        return None if name is None else self.blocks[layer].get_submodule(name)

    def matrix(self, layer: int, kind: str, head: int) -> Tensor:
        """[d_model, d_head], from what is read behind the norm."""
        block, which = self.blocks[layer], "qkv".index(kind)
        if self.layout.fused == "by head":
            fused = block.get_submodule(self.layout.qkv[0]).weight
            return fused.unflatten(0, (N_HEADS, 3, D_HEAD))[head, which].T.double()
        weight = block.get_submodule(self.layout.qkv[which]).weight.unflatten(0, (-1, D_HEAD))
        return weight[head * len(weight) // N_HEADS].T.double()

    def ov(self, layer: int, head: int) -> Tensor:
        out = self.blocks[layer].get_submodule(self.layout.out_matrix).weight.T
        out = out.unflatten(0, (N_HEADS, D_HEAD))[head].double()
        read = self.fold(self.norm(layer, 0)) @ self.matrix(layer, "v", head)
        return self.layout.scale * read @ out @ self.behind(self.norm(layer, 1))

    def behind(self, norm: Any) -> Tensor:
        """The linear part of a norm of what is written: these are all RMS norms."""
        return self.fold(norm)

    def qk(self, layer: int, head: int) -> Tensor:
        sides = []
        for kind in "qk":
            gain = torch.ones(D_HEAD)
            norm = getattr(
                self.blocks[layer].get_submodule(self.layout.attention), f"{kind}_norm", 0
            )
            if self.name == "Gemma 3":
                gain = norm.weight + 1
            elif self.name == "OLMo 2":
                rows = norm.weight.unflatten(0, (-1, D_HEAD))
                gain = rows[head * len(rows) // N_HEADS]
            matrix = self.fold(self.norm(layer, 0)) @ self.matrix(layer, kind, head)
            sides.append(matrix * gain.double())
        scale = 1.0 if self.name == "Granite" else D_HEAD**-0.5
        return scale * sides[0] @ sides[1].T

    def embed(self) -> Tensor:
        table = self.hf.get_input_embeddings().weight
        if self.name == "BLOOM":
            table = self.hf.transformer.word_embeddings_layernorm(table)
        return table.double() * EMBEDDED.get(self.name, 1.0)

    def out(self) -> Tensor:
        final = self.hf.base_model.get_submodule(FINAL.get(self.name, "norm"))
        logits = self.fold(final) @ self.hf.get_output_embeddings().weight.T.double()
        logits = logits / (3.0 if self.name == "Granite" else 1.0)
        return logits - logits.mean(1, keepdim=True)


@pytest.fixture(scope="module")
def hand() -> Any:
    return functools.cache(Hand)


def close(ours: Any, theirs: Tensor, within: float = 5e-5) -> None:
    theirs = theirs.detach()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within * float(theirs.abs().max()))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_circuits_are_dense_products(hand: Any, name: str) -> None:
    one = hand(name)
    weights = Weights(one.model)
    close(weights.embed(torch.arange(len(VOCABULARY))), one.embed())
    for layer, head in ((0, 3), (1, 1)):
        close(weights.ov(layer, head).AB, one.ov(layer, head))
        # The scale is found by trying, to a thousandth; a cap of 2 bends even small scores.
        close(weights.qk(layer, head, content=True).AB, one.qk(layer, head), within=2e-3)
        close(weights.token_ov(layer, head).AB, one.embed() @ one.ov(layer, head) @ one.out())
    close(weights.round_trip(), one.out() @ one.embed())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_neurons_write_through_what_stands_behind_them(hand: Any, name: str) -> None:
    one = hand(name)
    found = singular_tokens(one.model, "mlp_out", 1, n=3)["singular_value"]
    matrix = one.blocks[1].get_submodule(one.layout.neurons).weight.T.double()
    matrix = one.layout.scale * matrix @ one.behind(one.norm(1, 2))
    close(found, torch.linalg.svdvals(matrix)[:3])


@pytest.mark.parametrize("name", ["Gemma 2", "OLMo 2"])
@torch.no_grad()
def test_composition_is_that_of_dense_circuits(hand: Any, name: str) -> None:
    one = hand(name)
    found = composition_scores(one.model)
    left_out = {"Gemma 2": "soft cap", "OLMo 2": "sizes of queries and keys"}
    assert found.attrs["qk_without"] == left_out[name]
    assert found.attrs["qk"] == "content part, at distance 0"
    first, last = one.ov(0, 2), {"q": one.qk(1, 1), "k": one.qk(1, 1).T, "v": one.ov(1, 1)}
    here = found["score"].sel(source_layer=0, source_head=2, layer=1, head=1)
    for kind, second in last.items():
        expected = (first @ second).norm() / (first.norm() * second.norm())
        assert float(here.sel(kind=kind)) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("name", RMS)
@torch.no_grad()
def test_associations_of_single_tokens_are_runs_of_single_tokens(hand: Any, name: str) -> None:
    """A subject of one token attends to itself, as a prompt of one token does."""
    one = hand(name)
    objects = ["Rome", "Oslo", "Lima"]
    said = [VOCABULARY.index(word) for word in objects]
    found = association_matrix(one.model, ["Ann", "Gus"], objects)["raw"]
    for subject in ("Ann", "Gus"):
        ids = [VOCABULARY.index(subject)]

        def seen(site: str, layer: int, ids: list[int] = ids) -> Tensor:
            return surgery.activation(one.hf, one.layout, site, layer, ids)[0].double()

        told, stream = seen("mlp_out", 0), seen("resid_pre", 1)
        close(found.sel(subject=subject, path="m0"), (told @ one.out())[said], within=1e-3)
        size = (stream.square().mean() + 1e-6).sqrt() if one.norm(1, 0) else 1.0
        moved = sum(told @ one.ov(1, head) for head in range(N_HEADS)) / size
        if one.norm(1, 1):
            whole = one.blocks[1].get_submodule(one.layout.out_matrix)(
                seen("z", 1).float().flatten()[None]
            )
            moved = moved / (whole.double().square().mean() + 1e-6).sqrt()
        close(found.sel(subject=subject, path="m0>a1"), (moved @ one.out())[said], within=2e-3)
