"""Random tokens that read back as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from interp.errors import ArgumentError, PromptError
from interp.model.model import Model
from interp.prompts.tokens import check_length
from interp.search.layout import Layout, split

Indices = npt.NDArray[np.int64]

_TRIES = 200


def drawn(
    model: Model, prompts: Sequence[str], pool: Indices, length: int, seed: int | Sequence[int]
) -> str:
    """Text of so many tokens, drawn from the pool, that reads as them in every prompt.

    Raises:
        PromptError: none was found.
        ArgumentError: fewer than one token.
    """
    if length < 1:
        raise ArgumentError(f"A suffix has at least one token, not {length}.")
    before, _ = split(prompts)
    rng = np.random.default_rng(seed)
    head = model.encode([before[0]])[0][0]
    check_length(model, len(head) + length, "prompts with a suffix")
    shown = model.decode(head)
    for _ in range(_TRIES):
        tokens = tuple(int(i) for i in rng.choice(pool, length))
        whole = model.decode([*head, *tokens])
        text = whole[len(shown) :] if whole.startswith(shown) else model.decode(tokens)
        try:
            layout, read = Layout.of(model, prompts, text)
        except PromptError as error:
            wrong = error
            continue
        if read == tokens and layout.reads_back(tokens):
            return text
        wrong = PromptError("it reads as other tokens")
    raise PromptError(
        f"Of {_TRIES} random choices of {length} tokens of the pool none reads back as itself in "
        f"all prompts (the last: {wrong}) Give another pool, or the text to begin with."
    )
