"""Blank GPT-2 and Llama models, to write weights into by hand.

Hugging Face's models cannot be had without norms, but a norm can be made harmless. Coordinate 0 of
the embedding holds a constant much larger than all else, and nobody writes to it; so the norm
divides by nearly the same number everywhere, and its weights multiply with that number again. What
a norm lets through is then the stream itself, to some 1e-4 relative, with a 1 in coordinate 0. For
GPT-2, whose norm also subtracts the mean, coordinate 1 holds minus the constant, and coordinate 2
minus the sum of whatever else is written; no reader sees these two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.interp.tiny import VOCABULARY

CONSTANT = 300.0
N_CTX = 16
ONE = 0


@dataclass(frozen=True)
class Canvas:
    """A model in the making: all weights are 0 but the norms.

    Attributes:
        hf: the Hugging Face model.
        spaces: coordinates of the residual stream, by what is written there.
        balance: the coordinate that keeps the stream's mean at 0, if the norm needs it.
    """

    hf: Any
    spaces: Mapping[str, slice]
    balance: int | None

    @classmethod
    def blank(
        cls,
        family: Literal["gpt2", "llama"],
        widths: Mapping[str, int],
        *,
        n_layers: int,
        n_heads: int = 4,
        n_key_value_heads: int = 4,
        d_head: int = 40,
        d_mlp: int = 16,
        activation: str = "relu",
    ) -> Canvas:
        """Args: `widths`: how many coordinates each space has."""
        d_model = n_heads * d_head
        at, spaces = 3 if family == "gpt2" else 1, {}
        for name, width in widths.items():
            spaces[name] = slice(at, at + width)
            at += width
        assert at <= d_model
        common = {"bos_token_id": 1, "eos_token_id": 0, "attn_implementation": "eager"}
        if family == "gpt2":
            hf = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=len(VOCABULARY),
                    n_positions=N_CTX,
                    n_embd=d_model,
                    n_layer=n_layers,
                    n_head=n_heads,
                    n_inner=d_mlp,
                    activation_function=activation,
                    tie_word_embeddings=False,
                    **common,
                )
            )
        else:
            hf = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(VOCABULARY),
                    hidden_size=d_model,
                    intermediate_size=d_mlp,
                    num_hidden_layers=n_layers,
                    num_attention_heads=n_heads,
                    num_key_value_heads=n_key_value_heads,
                    max_position_embeddings=N_CTX,
                    hidden_act=activation,
                    # All but the first two coordinate pairs of a head stand still over a prompt.
                    rope_theta=1e12,
                    tie_word_embeddings=False,
                    **common,
                )
            )
        canvas = cls(hf.eval(), spaces, 2 if family == "gpt2" else None)
        canvas._flatten()
        return canvas

    @property
    def d_model(self) -> int:
        return int(self.hf.config.hidden_size)

    @property
    def d_head(self) -> int:
        return self.d_model // int(self.hf.config.num_attention_heads)

    @property
    def grouped(self) -> int:
        """Heads that share a key-value head."""
        heads = int(self.hf.config.num_attention_heads)
        return heads // int(getattr(self.hf.config, "num_key_value_heads", None) or heads)

    def reads(self, entries: Mapping[int, int | tuple[int, float]]) -> Tensor:
        """A matrix [d_model, d_head]: stream coordinate to (head coordinate, weight)."""
        return self.matrix(self.d_head, entries)

    def matrix(self, width: int, entries: Mapping[int, int | tuple[int, float]]) -> Tensor:
        out = torch.zeros(self.d_model, width)
        for source, found in entries.items():
            target, weight = found if isinstance(found, tuple) else (found, 1.0)
            out[source, target] = weight
        return out

    def at(self, name: str, index: int = 0) -> int:
        """A coordinate of the stream."""
        space = self.spaces[name]
        assert 0 <= index < space.stop - space.start
        return space.start + index

    @torch.no_grad()
    def embed(self, tokens: Tensor, positions: Tensor | None = None) -> None:
        """Set the embeddings: [token, d_model], and for GPT-2 [position, d_model]."""
        self.hf.get_input_embeddings().weight += self._balanced(tokens)
        if positions is not None:
            self.hf.transformer.wpe.weight += self._balanced(positions)

    @torch.no_grad()
    def unembed(self, space: str, scale: float) -> None:
        """Let the logits be a space with one coordinate for each token."""
        weight = self.hf.get_output_embeddings().weight
        weight[:, self.spaces[space]] = scale * torch.eye(len(VOCABULARY))

    @torch.no_grad()
    def head(
        self,
        layer: int,
        head: int,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        out: Tensor,
    ) -> None:
        """Set a head: [d_model, d_head] thrice, and what it writes as [d_head, d_model].

        Scores are query times key: the model's own scale is taken out. A head that shares its keys
        and values with others may leave them as they are (None).
        """
        query = query * self.d_head**0.5
        here = slice(head * self.d_head, (head + 1) * self.d_head)
        if self.balance is not None:
            attention = self.hf.transformer.h[layer].attn
            for number, matrix in enumerate((query, key, value)):
                start = number * self.d_model + here.start
                attention.c_attn.weight[:, start : start + self.d_head] = matrix
            attention.c_proj.weight[here] = self._balanced(out)
            return
        attention = self.hf.model.layers[layer].self_attn
        shared = slice(head // self.grouped * self.d_head, (head // self.grouped + 1) * self.d_head)
        attention.q_proj.weight[here] = query.T
        if key is not None and value is not None:
            attention.k_proj.weight[shared] = key.T
            attention.v_proj.weight[shared] = value.T
        attention.o_proj.weight[:, here] = out.T

    @torch.no_grad()
    def mlp(self, layer: int, reads: Tensor, writes: Tensor) -> None:
        """Set neurons: [d_model, neuron] and [neuron, d_model]; the others stay idle."""
        n = reads.shape[1]
        if self.balance is not None:
            mlp = self.hf.transformer.h[layer].mlp
            mlp.c_fc.weight[:, :n] = reads
            mlp.c_proj.weight[:n] = self._balanced(writes)
            return
        mlp = self.hf.model.layers[layer].mlp
        mlp.gate_proj.weight[:n] = reads.T
        mlp.up_proj.weight[:n, ONE] = 1.0
        mlp.down_proj.weight[:, :n] = writes.T

    def _balanced(self, written: Tensor) -> Tensor:
        if self.balance is None:
            return written
        written = written.clone()
        written[..., self.balance] -= written.sum(-1)
        return written

    @torch.no_grad()
    def _flatten(self) -> None:
        """Set everything to 0, and what makes norms harmless."""
        for parameter in self.hf.parameters():
            parameter.zero_()
        d_model = self.d_model
        if self.balance is not None:
            body = self.hf.transformer
            body.wpe.weight[:, ONE] = CONSTANT
            body.wpe.weight[:, 1] = -CONSTANT
            norms = [norm for block in body.h for norm in (block.ln_1, block.ln_2)]
            size, hidden = (2 / d_model) ** 0.5, [1, self.balance]
            norms.append(body.ln_f)
        else:
            body = self.hf.model
            body.embed_tokens.weight[:, ONE] = CONSTANT
            norms = [
                n for b in body.layers for n in (b.input_layernorm, b.post_attention_layernorm)
            ]
            norms.append(body.norm)
            size, hidden = (1 / d_model) ** 0.5, []
        for norm in norms:
            norm.weight[:] = CONSTANT * size
            norm.weight[ONE] = size
            norm.weight[hidden] = 0.0
