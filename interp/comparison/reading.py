"""What both models are asked: prompts with answers, as pairs of which the clean one is read."""

from __future__ import annotations

from interp.comparison.pair import ModelPair
from interp.errors import PromptError
from interp.prompts.pairs import Answers, PromptPairs
from interp.prompts.tokens import Prompts, check_length, check_vocabulary

__all__ = ["readable"]


def readable(
    pair: ModelPair,
    prompts: PromptPairs | Prompts,
    answers: Answers | None,
    foils: Answers | None,
) -> PromptPairs:
    """The prompts with their answers.

    Raises:
        PromptError: answers given twice or not at all, or prompts that do not fit both models.
    """
    if isinstance(prompts, PromptPairs):
        if answers is not None or foils is not None:
            raise PromptError("Pairs have their answers; leave answers and foils out.")
        found = prompts
    elif answers is None:
        raise PromptError("The metric looks for answers; give answers=…, or prompt pairs.")
    else:
        found = PromptPairs(pair.base, prompts, prompts, answers, foils)
    longest = max(len(ids) for ids in (*found.answer_ids, *(found.foil_ids or ())))
    length = int(found.clean.lengths.max()) + longest - 1
    used = [int(found.clean.ids.max())]
    for model in (pair.base, pair.tuned):
        check_vocabulary(model, used, "prompts")
        check_length(model, length, "prompts with their answers")
    return found
