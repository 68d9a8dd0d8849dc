"""Models in which it is known which subspace carries the variable, because they are made by hand.

A prompt is an entity and a word ("e7 is"). The entity's embedding holds a point on a sphere in a
hidden three-dimensional subspace, and noise of its own in others. One head, which attends evenly to
all tokens, carries the point to another subspace, and the answer whose own point is nearest is
read from there at the last token. Entities that were never trained on follow the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp.loading.load import load_model
from interp.model.model import Model
from interp.prompts.pairs import PromptPairs

N = 60
"""Entities; each has one of the opposite point, N / 2 further on."""
D_MODEL, D_HEAD = 32, 8
CONSTANT = 300.0
"""Much larger than all else, so that norms divide by the same everywhere."""
ENTITY, LAST = 1, 2
"""Positions: the first token is BOS."""
SPECIAL = ["<bos>", "<unk>", "is"]
WORDS = [*SPECIAL, *(f"e{i}" for i in range(N)), *(f"a{i}" for i in range(N))]
Kind = Literal["variable", "nothing", "illusion"]


@dataclass(frozen=True)
class Planted:
    """A model with a known subspace.

    Attributes:
        hf: the model, with two blocks of which the second does nothing.
        before, after: the subspaces that the head reads and writes [3, d_model].
        code: the subspace in which entities have their points [3, d_model].
    """

    hf: Any
    model: Model
    before: torch.Tensor
    after: torch.Tensor
    code: torch.Tensor

    def pairs(self, n: int = N) -> PromptPairs:
        """Each entity with its opposite; the answer is that of the clean one."""
        other = [(i + N // 2) % N for i in range(n)]
        return PromptPairs(
            self.model,
            [f"e{i} is" for i in range(n)],
            [f"e{i} is" for i in other],
            [f" a{i}" for i in range(n)],
            [f" a{i}" for i in other],
        )


def planted(kind: Kind = "variable", dtype: torch.dtype = torch.float32) -> Planted:
    """Of "variable" the head reads where entities have their points, of "illusion" a subspace in
    which all are the same (Makelov et al. 2024), of "nothing" it writes where nobody reads."""
    rng = np.random.default_rng(0)
    frame = np.zeros((D_MODEL, D_MODEL - 1))
    frame[1:] = np.linalg.qr(rng.standard_normal((D_MODEL - 1, D_MODEL - 1)))[0]
    read, other, after, unread = (frame[:, 3 * i : 3 * i + 3].T for i in range(4))
    noise = frame[:, 12:20].T
    points = sphere()
    code = other if kind == "illusion" else read
    hf = blank().to(torch.float64)
    with torch.no_grad():
        embedding = hf.model.embed_tokens.weight
        embedding[:, 0] = CONSTANT
        of_entities = points @ code + 0.3 * rng.standard_normal((N, 8)) @ noise
        embedding[len(SPECIAL) : len(SPECIAL) + N] += torch.from_numpy(of_entities)
        attention = hf.model.layers[0].self_attn
        attention.v_proj.weight[:3] = torch.from_numpy(read)
        written = unread if kind == "nothing" else after
        # Evenly attended to, one of three tokens is a third.
        attention.o_proj.weight[:, :3] = 3.0 * torch.from_numpy(written.T)
        hf.lm_head.weight[len(SPECIAL) + N :] = 20.0 * torch.from_numpy(points @ after)
        # Nothing but answers is ever said.
        hf.lm_head.weight[: len(SPECIAL) + N, 0] = -20.0
    model = load_model(hf.to(dtype), tokenizer=tokenizer())
    return Planted(hf, model, *(torch.from_numpy(s).to(dtype) for s in (read, after, code)))


def sphere() -> np.ndarray[Any, Any]:
    """Points spread over half a sphere, and their opposites [N, 3]."""
    half = N // 2
    z = (np.arange(half) + 0.5) / half
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(half)
    across = np.sqrt(1 - z**2)
    points = np.stack([across * np.cos(turn), across * np.sin(turn), z], axis=1)
    return np.concatenate([points, -points])


def blank() -> Any:
    """A Llama of zeros whose norms do nothing."""
    hf = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=D_MODEL,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=D_MODEL // D_HEAD,
            num_key_value_heads=D_MODEL // D_HEAD,
            max_position_embeddings=8,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        norms = [hf.model.norm]
        for block in hf.model.layers:
            norms += [block.input_layernorm, block.post_attention_layernorm]
        for norm in norms:
            norm.weight[1:] = CONSTANT / D_MODEL**0.5
            norm.weight[0] = 1 / D_MODEL**0.5
    return hf


def tokenizer() -> Any:
    from tokenizers.processors import TemplateProcessing

    found = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    found.pre_tokenizer = WhitespaceSplit()
    found.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<bos>", unk_token="<unk>")


def cosines(one: torch.Tensor, other: torch.Tensor) -> np.ndarray[Any, Any]:
    """Of the principal angles between two subspaces of orthonormal rows."""
    return torch.linalg.svdvals(one.double() @ other.double().T).numpy()
