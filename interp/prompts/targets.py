"""Which tokens are looked for after each prompt, where the first of each answer is enough."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.model import Model
from interp.model.vocabulary import quoted
from interp.prompts.pairs import continuations
from interp.prompts.tokens import TokenBatch, check_vocabulary

__all__ = ["Answers", "first_tokens"]

Answers = Sequence[str] | Sequence[Sequence[str]] | Int[Tensor, "example ..."] | str
"""For each prompt one text or several, or token ids [example] or [example, candidate]."""


def first_tokens(
    model: Model, batch: TokenBatch, answers: Answers | None, what: str = "answers"
) -> Int[Tensor, "example ..."] | None:
    """The first token of each answer; `candidate` is an axis where several are given for each.

    Args:
        what: what to call them in an error.

    Raises:
        PromptError: not as many as there are prompts, or one without tokens of its own.
    """
    if answers is None:
        return None
    if isinstance(answers, str):
        answers = [answers]
    if len(answers) != len(batch):
        raise PromptError(
            f"There are {len(answers)} {what} for {len(batch)} prompts; give one for each, or a "
            "list of several for each."
        )
    if isinstance(answers, Tensor):
        if answers.ndim not in (1, 2) or answers.is_floating_point() or answers.numel() == 0:
            raise PromptError(
                f"Token ids of {what} must be integers of shape [example] or [example, candidate]."
            )
        check_vocabulary(model, [int(answers.min()), int(answers.max())], what)
        return answers.cpu().long()
    lists = [isinstance(one, list | tuple) for one in answers]
    several = [list(one) if many else [one] for one, many in zip(answers, lists, strict=True)]
    counts = {len(one) for one in several}
    if len(counts) > 1 or 0 in counts or len(set(lists)) > 1:
        raise PromptError(f"Give every prompt equally many {what}, one or more.")
    columns = [continuations(model, batch, column, what) for column in zip(*several, strict=True)]
    ids = torch.tensor([[ids[0] for ids in column] for column in columns]).T
    _check_distinct(ids, several, what)
    return ids if lists[0] else ids[:, 0]


def _check_distinct(
    ids: Int[Tensor, "example candidate"], texts: Sequence[Sequence[object]], what: str
) -> None:
    """Two candidates of one first token would have the same numbers, whatever follows it."""
    for number, row in enumerate(ids.tolist()):
        first: dict[int, object] = {}
        for token, text in zip(row, texts[number], strict=True):
            if token in first:
                alike = f"{quoted(str(first[token]))} and {quoted(str(text))}"
                raise PromptError(
                    f"The {what} {alike} of prompt {number} begin with the same token, and only "
                    "first tokens are read here; leave one out."
                )
            first[token] = text
