"""Circuits of weights as dense products of matrices, written out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.interp.tiny import D_HEAD, D_MODEL, N_HEADS, Tiny


@dataclass(frozen=True)
class Layer:
    """Matrices [d_in, d_out] of one layer, and the norms' gains."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    mlp_in: Tensor
    mlp_out: Tensor
    gains: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Dense:
    """A tiny model's weights in float64, and the final norm's gain."""

    layers: list[Layer]
    embed: Tensor
    unembed: Tensor
    gain: Tensor
    centred: bool

    @classmethod
    def of(cls, tiny: Tiny) -> Dense:
        hf = tiny.hf
        base = hf.base_model
        embed = hf.get_input_embeddings().weight.double()
        unembed = hf.get_output_embeddings().weight.T.double()
        if tiny.name == "gpt2":
            layers = []
            for block in base.h:
                q, k, v = block.attn.c_attn.weight.double().split(D_MODEL, dim=1)
                layers.append(
                    Layer(
                        *(_by_head(m, N_HEADS) for m in (q, k, v)),
                        block.attn.c_proj.weight.double().unflatten(0, (N_HEADS, -1)),
                        block.mlp.c_fc.weight.double(),
                        block.mlp.c_proj.weight.double(),
                        (block.ln_1.weight.double(), block.ln_2.weight.double()),
                    )
                )
            return cls(layers, embed, unembed, base.ln_f.weight.double(), True)
        layers = []
        for block in base.layers:
            attention = block.self_attn
            q, k, v, o = (
                getattr(attention, f"{name}_proj").weight.T.double()
                for name in ("q", "k", "v", "o")
            )
            groups = k.shape[1] // D_HEAD
            layers.append(
                Layer(
                    _by_head(q, N_HEADS),
                    # Keys and values are shared by neighbours.
                    *(_by_head(m, groups).repeat_interleave(N_HEADS // groups, 0) for m in (k, v)),
                    o.unflatten(0, (N_HEADS, -1)),
                    block.mlp.up_proj.weight.T.double(),
                    block.mlp.down_proj.weight.T.double(),
                    (
                        block.input_layernorm.weight.double(),
                        block.post_attention_layernorm.weight.double(),
                    ),
                )
            )
        return cls(layers, embed, unembed, base.norm.weight.double(), False)

    def fold(self, gain: Tensor, matrix: Tensor) -> Tensor:
        """The linear part of a norm, as a matrix, before another."""
        centre = torch.eye(D_MODEL, dtype=torch.float64)
        if self.centred:
            centre = centre - 1 / D_MODEL
        return centre @ torch.diag(gain) @ matrix

    def ov(self, layer: int, head: int) -> Tensor:
        one = self.layers[layer]
        return self.fold(one.gains[0], one.v[head]) @ one.o[head]

    def qk(self, layer: int, head: int) -> Tensor:
        one = self.layers[layer]
        q, k = (self.fold(one.gains[0], m[head]) for m in (one.q, one.k))
        return q @ k.T / math.sqrt(D_HEAD)

    def out(self) -> Tensor:
        folded = self.fold(self.gain, self.unembed)
        return folded - folded.mean(1, keepdim=True)


def _by_head(matrix: Tensor, heads: int) -> Tensor:
    return matrix.unflatten(1, (heads, -1)).transpose(0, 1)


def by_hand(tiny: Tiny, dense: Dense, subjects: list[list[int]]) -> dict[str, Tensor]:
    """What each path writes for each subject, from Hugging Face's modules."""
    base = tiny.hf.base_model
    gpt2 = tiny.name == "gpt2"
    blocks = base.h if gpt2 else base.layers
    out: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for ids in subjects:
            block = blocks[0]
            embedded = tiny.hf.get_input_embeddings().weight[torch.tensor(ids)]
            norms = [
                (b.ln_1, b.ln_2) if gpt2 else (b.input_layernorm, b.post_attention_layernorm)
                for b in blocks
            ]
            normed = norms[0][0](embedded)
            if gpt2:
                values = block.attn.c_attn(normed[None])[0, :, 2 * D_MODEL :]
                values = values.unflatten(1, (N_HEADS, -1))
            else:
                values = block.self_attn.v_proj(normed).unflatten(1, (-1, D_HEAD))
                values = values.repeat_interleave(N_HEADS // values.shape[1], dim=1)
            stream = embedded[-1].double()
            for head in range(N_HEADS):
                stream = stream + values[:, head].double().mean(0) @ dense.layers[0].o[head]
            written: list[Tensor] = []
            for layer, block in enumerate(blocks):
                if gpt2:
                    size = (stream.var(unbiased=False) + block.ln_1.eps).sqrt()
                else:
                    size = (stream.square().mean() + block.input_layernorm.variance_epsilon).sqrt()
                for earlier, vector in enumerate(written):
                    moved = sum(vector @ dense.ov(layer, head) for head in range(N_HEADS)) / size
                    out.setdefault(f"m{earlier}>a{layer}", []).append(moved)
                added = block.mlp(norms[layer][1](stream.float())[None])[0].double()
                written.append(added)
                stream = stream + added
                out.setdefault(f"m{layer}", []).append(added)
    return {path: torch.stack(rows) for path, rows in out.items()}
