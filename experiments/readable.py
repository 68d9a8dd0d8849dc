"""Whether a model's tokenizer can read what a study is about to ask it.

A word that a tokenizer does not know becomes "<unk>", or nothing, without a word from it; what is
measured then is of another text. `interp` refuses such texts; this says where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.errors import FactsError
from interp.errors import PromptError

if TYPE_CHECKING:
    from interp.model.model import Model

__all__ = ["check_readable"]


def check_readable(
    model: Model, prompts: Sequence[str], answers: Sequence[str], where: Sequence[str]
) -> None:
    """Raise a FactsError unless the model can read each prompt with its answer.

    Args:
        where: for each prompt what to say of it before the reason: "'facts.csv', line 3".

    Raises:
        FactsError: a word or character that the tokenizer does not know or leaves out, an answer
            that melts into its prompt, or a text that is too long; with the place of the first.
    """
    try:
        _read(model, prompts, answers)
    except PromptError:
        for prompt, answer, place in zip(prompts, answers, where, strict=True):
            try:
                _read(model, [prompt], [answer])
            except PromptError as error:
                raise FactsError(f"{place}: {error}") from error
        raise


def _read(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> None:
    import torch

    from interp.prompts.pairs import continuations
    from interp.prompts.tokens import check_length, tokenise

    batch = tokenise(model, prompts)
    ids = continuations(model, batch, answers)
    whole = batch.lengths + torch.tensor([len(one) for one in ids])
    check_length(model, int(whole.max()), "prompts with their answers")
