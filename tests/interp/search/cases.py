"""Prompts with free tokens, and their scores by a whole pass of Hugging Face's model for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tests.interp.tiny import N_SPECIAL, VOCABULARY
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
