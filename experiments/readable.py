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

__all__ = ["check_readable", "check_told_apart"]


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


def check_told_apart(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str],
    unlike: Sequence[Sequence[str]],
    where: Sequence[str],
) -> None:
    """Raise a FactsError where an answer's first token says what another answer's does, too.

    Args:
        unlike: for each prompt the other answers; each must begin with the same token behind all
            prompts, since it is looked for by that token.
        where: as for `check_readable`.
    """
    from interp.prompts.pairs import continuations
    from interp.prompts.tokens import tokenise

    if not prompts:
        return
    batch = tokenise(model, prompts)
    firsts = [ids[0] for ids in continuations(model, batch, answers)]
    for other in dict.fromkeys(one for each in unlike for one in each):
        rows = [row for row, each in enumerate(unlike) if other in each]
        found = continuations(
            model, tokenise(model, [prompts[row] for row in rows]), [other] * len(rows)
        )
        begun = [ids[0] for ids in found]
        for row, token in zip(rows, begun, strict=True):
            if token == firsts[row]:
                raise FactsError(
                    f"{where[row]}: the answer '{answers[row][:40]}' begins with the token with "
                    f"which '{other[:40]}' begins, so that nothing tells them apart; choose others."
                )
            if token != begun[0]:
                raise FactsError(
                    f"{where[row]}: '{other[:40]}' begins with another token behind this prompt "
                    "than behind the first one; end all prompts alike."
                )


def _read(model: Model, prompts: Sequence[str], answers: Sequence[str]) -> None:
    import torch

    from interp.prompts.pairs import continuations
    from interp.prompts.tokens import check_length, tokenise

    batch = tokenise(model, prompts)
    ids = continuations(model, batch, answers)
    whole = batch.lengths + torch.tensor([len(one) for one in ids])
    check_length(model, int(whole.max()), "prompts with their answers")
