"""An answer against a foil: their first tokens, and the whole names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.model.model import Model


@dataclass(frozen=True)
class Reading:
    """What a model makes of one answer.

    Attributes:
        text: the answer.
        first: its first token.
        n_tokens: of all of it.
        logit: of the first token.
        rank: of the first token, from 0.
        logprob: of the first token, in nats.
        whole: log-probability of all tokens, in nats.
    """

    text: str
    first: str
    n_tokens: int
    logit: float
    rank: int
    logprob: float
    whole: float


def readings(model: Model, prompt: str, texts: tuple[str, ...]) -> tuple[Reading, ...]:
    """Each of the answers after a prompt. Raises PromptError where one cannot be read there."""
    from interp.generation.answers import score_answers
    from interp.generation.logits import logits
    from interp.prompts.pairs import continuations
    from interp.prompts.tokens import tokenise

    ids = continuations(model, tokenise(model, [prompt] * len(texts)), list(texts))
    first = [int(one[0]) for one in ids]
    own = logits(model, [prompt])[0, first].tolist()
    names = model.token_strings(first)
    scores = score_answers(model, [prompt] * len(texts), list(texts))
    return tuple(
        Reading(
            text,
            names[i],
            int(scores["n_tokens"][i]),
            float(own[i]),
            int(scores["rank"][i]),
            float(scores["first_logprob"][i]),
            float(scores["logprob"][i]),
        )
        for i, text in enumerate(texts)
    )
