"""Forward passes in which each reader of the residual stream has an input of its own.

Written for GPT-2, Llama and GPT-NeoX from their papers, on Hugging Face's weights; only MLPs and
layer norms are Hugging Face's modules. `test_split.py` holds it against Hugging Face's logits.
TransformerLens and `interp` play no part, so that edges can be checked against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SplitRun:
    """Some sequences, run at once.

    Attributes:
        logits: [row, position, vocabulary].
        written: by name of the writer, what it adds to the stream [row, position, d_model].
    """

    logits: Tensor
    written: dict[str, Tensor]


@dataclass(frozen=True)
class _Block:
    """One layer's modules, and its attention's matrices as [out, in]."""

    norm: Any
    mlp_norm: Any
    mlp: Any
    matrices: dict[str, tuple[Tensor, Tensor]]
    out_matrix: Tensor
    out_bias: Tensor


class Split:
    """A model taken apart.

    Args:
        hf: a GPT2LMHeadModel, LlamaForCausalLM or GPTNeoXForCausalLM.
    """

    def __init__(self, hf: Any) -> None:
        config = hf.config
        self.hf = hf
        self.kind = str(config.model_type)
        self.n_layers = int(config.num_hidden_layers)
        self.n_heads = int(config.num_attention_heads)
        self.n_kv = int(getattr(config, "num_key_value_heads", None) or self.n_heads)
        self.d_head = int(config.hidden_size) // self.n_heads
        self.parallel = self.kind == "gpt_neox"
        self.blocks = [self._block(layer) for layer in range(self.n_layers)]

    def sources(self) -> list[str]:
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"m{layer}"]
        return names

    def destinations(self) -> list[str]:
        names = []
        for layer in range(self.n_layers):
            for kind, count in (("q", self.n_heads), ("k", self.n_kv), ("v", self.n_kv)):
                names += [f"a{layer}.h{head}.{kind}" for head in range(count)]
            names.append(f"m{layer}")
        return [*names, "logits"]

    def reads(self, destination: str) -> list[str]:
        """The writers that stand before a reader."""
        sources = self.sources()
        if destination == "logits":
            return sources
        layer = int(destination[1:].split(".")[0])
        if destination[0] == "m" and not self.parallel:
            return sources[: sources.index(destination)]
        return sources[: sources.index(f"a{layer}.h0")]

    def embed(self, ids: Sequence[int]) -> Tensor:
        """[1, position, d_model]"""
        tokens = torch.tensor([list(ids)])
        out: Tensor = self.hf.get_input_embeddings()(tokens)
        if self.kind == "gpt2":
            out = out + self.hf.transformer.wpe(torch.arange(len(ids)))
        return out

    def run(
        self,
        embedding: Tensor,
        *,
        added: Mapping[str, Tensor] | None = None,
        instead: Mapping[str, Tensor] | None = None,
    ) -> SplitRun:
        """Run all layers.

        Args:
            embedding: [row, position, d_model].
            added: by name of the reader, what it alone reads besides the stream.
            instead: by name of the writer, what it writes whatever it reads.
        """
        added, instead = added or {}, instead or {}
        written = {"input": embedding}
        stream = embedding
        for layer, block in enumerate(self.blocks):
            z = self._attend(layer, block, stream, added)
            mid = stream + block.out_bias
            for head in range(self.n_heads):
                columns = slice(head * self.d_head, (head + 1) * self.d_head)
                name = f"a{layer}.h{head}"
                wrote = instead.get(name, z[..., head, :] @ block.out_matrix[:, columns].T)
                written[name] = wrote
                mid = mid + wrote
            name = f"m{layer}"
            read = (stream if self.parallel else mid) + added.get(name, 0.0)
            written[name] = instead.get(name, block.mlp(block.mlp_norm(read)))
            stream = mid + written[name]
        return SplitRun(self._logits(stream + added.get("logits", 0.0)), written)

    def _attend(
        self, layer: int, block: _Block, stream: Tensor, added: Mapping[str, Tensor]
    ) -> Tensor:
        """z [row, position, head, d_head]"""
        made = {}
        for kind, count in (("q", self.n_heads), ("k", self.n_kv), ("v", self.n_kv)):
            heads = []
            for head in range(count):
                matrix, bias = block.matrices[kind]
                rows = slice(head * self.d_head, (head + 1) * self.d_head)
                read = block.norm(stream + added.get(f"a{layer}.h{head}.{kind}", 0.0))
                heads.append(read @ matrix[rows].T + bias[rows])
            heads = list(torch.broadcast_tensors(*heads))
            if kind in "qk" and self.kind != "gpt2":
                heads = self._rotated(heads)
            made[kind] = heads
        length = stream.shape[1]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        out = []
        for head in range(self.n_heads):
            shared = head // (self.n_heads // self.n_kv)
            scores = made["q"][head] @ made["k"][shared].transpose(-1, -2) / self.d_head**0.5
            pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
            out.append(pattern @ made["v"][shared])
        return torch.stack(out, dim=-2)

    def _rotated(self, heads: list[Tensor]) -> list[Tensor]:
        """Su et al. 2021, in halves: coordinate i turns with coordinate i + r/2."""
        settings = self.hf.config.rope_parameters
        width = int(self.d_head * settings.get("partial_rotary_factor", 1.0))
        speeds = settings["rope_theta"] ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(heads[0].shape[1])[:, None] * speeds
        cos, sin = angles.cos().to(heads[0]), angles.sin().to(heads[0])
        turned = []
        for value in heads:
            first, second = value[..., : width // 2], value[..., width // 2 : width]
            rotated = [first * cos - second * sin, second * cos + first * sin]
            turned.append(torch.cat([*rotated, value[..., width:]], dim=-1))
        return turned

    def _logits(self, stream: Tensor) -> Tensor:
        if self.kind == "gpt2":
            norm = self.hf.transformer.ln_f
        else:
            llama = self.kind == "llama"
            norm = _rms_norm(self.hf.model.norm) if llama else self.hf.gpt_neox.final_layer_norm
        logits: Tensor = self.hf.get_output_embeddings()(norm(stream))
        return logits

    def _block(self, layer: int) -> _Block:
        if self.kind == "gpt2":
            block = self.hf.transformer.h[layer]
            fused = block.attn.c_attn
            pieces = zip(fused.weight.T.chunk(3), fused.bias.chunk(3), strict=True)
            matrices = dict(zip("qkv", pieces, strict=True))
            out = block.attn.c_proj.weight.T, block.attn.c_proj.bias
            return _Block(block.ln_1, block.ln_2, block.mlp, matrices, *out)
        if self.kind == "llama":
            block = self.hf.model.layers[layer]
            parts = {kind: getattr(block.self_attn, f"{kind}_proj").weight for kind in "qkv"}
            matrices = {kind: (part, part.new_zeros(len(part))) for kind, part in parts.items()}
            out = block.self_attn.o_proj.weight, torch.zeros(len(block.self_attn.o_proj.weight))
            norms = map(_rms_norm, (block.input_layernorm, block.post_attention_layernorm))
            return _Block(*norms, block.mlp, matrices, *out)
        block = self.hf.gpt_neox.layers[layer]
        # Head by head its query, key and value.
        fused, by_head = block.attention.query_key_value, (self.n_heads, 3, self.d_head)
        weight, bias = (value.unflatten(0, by_head) for value in (fused.weight, fused.bias))
        matrices = {
            kind: (weight[:, i].flatten(0, 1), bias[:, i].flatten()) for i, kind in enumerate("qkv")
        }
        norms = block.input_layernorm, block.post_attention_layernorm
        dense = block.attention.dense
        return _Block(*norms, block.mlp, matrices, dense.weight, dense.bias)


def _rms_norm(module: Any) -> Callable[[Tensor], Tensor]:
    """Zhang & Sennrich 2019; Hugging Face's rounds to single precision on the way."""

    def norm(stream: Tensor) -> Tensor:
        mean_square = stream.square().mean(-1, keepdim=True)
        scaled: Tensor = module.weight * stream * (mean_square + module.variance_epsilon).rsqrt()
        return scaled

    return norm
