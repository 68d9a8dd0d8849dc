"""Prompts with free tokens, and their scores by a whole pass of Hugging Face's model for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from interp import Model, load_model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import N_SPECIAL, VOCABULARY, build_tokenizer
from tests.interp.vectors.whole_passes import Built

# Of unequal length, with free tokens at other places; the last has them at its end.
PROMPTS = [
    "we saw Ann near{suffix} and then",
    "so Fay Jo is near home{suffix} so is the",
    "{suffix} is the friend",
    "the friend",
]
# Of one token and of several.
ANSWERS = [" Rome Oslo", " Lima", " Bonn Cork Riga", " Oslo"]
FOILS = [" Ann", " Bo Cy", " Ida", " Hal"]
POOL = list(range(N_SPECIAL, len(VOCABULARY)))


def text(tokens: Iterable[int]) -> str:
    return " " + " ".join(VOCABULARY[i] for i in tokens)


def put(prompt: str, tokens: Iterable[int]) -> str:
    """A prompt with these words in place of its mark."""
    marked = prompt if "{suffix}" in prompt else prompt + "{suffix}"
    return marked.replace("{suffix}", text(tokens)).strip()


def whole_passes(
    built: Built,
    many: Sequence[Sequence[int]],
    prompts: Sequence[str] = PROMPTS,
    answers: Sequence[str] = ANSWERS,
    foils: Sequence[str] | None = FOILS,
) -> npt.NDArray[np.float64]:
    """Log-probability of each answer, minus that of its foil [suffix, example]."""
    out = np.zeros((len(many), len(prompts)))
    for i, tokens in enumerate(many):
        for e, prompt in enumerate(prompts):
            whole = put(prompt, tokens)
            out[i, e] = built.logprob("resid_pre", whole, answers[e].strip(), [])
            if foils is not None:
                out[i, e] -= built.logprob("resid_pre", whole, foils[e].strip(), [])
    return out


def swaps(tokens: Sequence[int], pool: Sequence[int] = POOL) -> list[list[int]]:
    """All suffixes that differ in one token."""
    return [
        [*tokens[:slot], new, *tokens[slot + 1 :]]
        for slot in range(len(tokens))
        for new in pool
        if new != tokens[slot]
    ]


def planted(trigger: str | None) -> Model:
    """A GPT-2 in which one token, if any, makes every later one answer Rome."""
    hf = ARCHITECTURES["GPT-2"].build()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(0.01)
        for block in hf.transformer.h:
            block.ln_1.weight.fill_(1.0)
        hf.transformer.ln_f.weight.fill_(1.0)
        hf.transformer.wpe.weight.zero_()
        embedding = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
        rows = embedding.Q
        hf.transformer.wte.weight.copy_(rows.repeat(2, 1)[: len(VOCABULARY)])
        hf.lm_head.weight = torch.nn.Parameter(0.3 * rows.repeat(2, 1)[: len(VOCABULARY)].clone())
        hf.config.tie_word_embeddings = False
        if trigger is not None:
            # Attention is even; the value of the trigger is the direction that Rome is read by.
            attn = hf.transformer.h[0].attn
            attn.c_attn.weight.zero_()
            attn.c_attn.bias.zero_()
            source = rows[VOCABULARY.index(trigger) % 32]
            target = rows[VOCABULARY.index("Rome") % 32]
            attn.c_attn.weight[:, 64:] = 40 * torch.outer(source, target)
            attn.c_proj.weight.copy_(torch.eye(32))
            attn.c_proj.bias.zero_()
    return load_model(hf, tokenizer=build_tokenizer())
