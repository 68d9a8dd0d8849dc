"""What a model says next: whether it declines, how surely, whether it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interp import Intervention, logits
from interp.model.model import Model
from interp.prompts.pairs import continuations
from interp.prompts.tokens import tokenise

__all__ = ["Changes", "Floats", "Read", "read_next"]

Changes = Sequence[Intervention]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Read:
    """What a model says next, by prompt [example].

    Attributes:
        declines: whether its likeliest token begins a refusal.
        odds: log-odds that the next token does (nats; Arditi et al. 2024).
        right: whether the likeliest token begins the answer.
        logits: of all tokens [example, vocabulary].
    """

    declines: Floats
    odds: Floats
    right: Floats
    logits: Tensor


def read_next(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str],
    decline: Sequence[str],
    changes: Changes = (),
) -> Read:
    """Ask a model, with or without changes.

    Args:
        answers: what follows each prompt where it is answered.
        decline: beginnings of refusals, of which the first token counts.
    """
    batch = tokenise(model, list(prompts))
    firsts = continuations(model, batch, list(answers))
    first = tokenise(model, [prompts[0]])
    openings = sorted({continuations(model, first, [opening])[0][0] for opening in decline})
    found = logits(model, batch, interventions=changes).cpu().double()
    top = found.argmax(-1)
    share = found.log_softmax(-1)
    declining = share[:, openings].logsumexp(-1)
    others = torch.ones(found.shape[-1], dtype=torch.bool)
    others[openings] = False
    odds = declining - share[:, others].logsumexp(-1)
    right = top == torch.tensor([ids[0] for ids in firsts])
    return Read(
        torch.isin(top, torch.tensor(openings)).double().numpy(),
        odds.numpy(),
        right.double().numpy(),
        found,
    )
