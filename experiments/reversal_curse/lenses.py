"""The tuned and the Jacobian lens of H2, fitted on the study's own sentences.

They read what the model makes of a sentence and never which answer is right: the tuned lens learns
the model's own predictions, and the Jacobian lens learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from experiments.numbers import duration
from experiments.organisms.facts import DIRECTIONS
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from interp.lens.cost import jacobian_seconds, tuned_seconds
from interp.lens.jacobian.fitting import fit_jacobian_lens
from interp.lens.jacobian.lens import JacobianLens
from interp.lens.training import train_tuned_lens
from interp.lens.tuned import TunedLens
from interp.model.model import Model

__all__ = ["KINDS", "Fit", "fits", "seconds", "sentences"]

KINDS = ("tuned", "Jacobian")

Fit: TypeAlias = Callable[[Progress], "TunedLens | JacobianLens"]

# On the bundled organism the mean over so many is known to 13% at the embedding and 4% at the end.
_PROMPTS = 48
_STEPS = 60
_BATCH = 1024
# Questions are short; of each all but BOS is read.
_SKIP = 1


def sentences(subject: Subject) -> list[str]:
    """Every fact in the main template of both directions, with its answer."""
    return [
        prompt + answer + "."
        for direction in DIRECTIONS
        for prompt, answer in zip(
            subject.prompts(direction), subject.answers(direction), strict=True
        )
    ]


def fits(
    subject: Subject, rng: np.random.Generator, most: float, note: Callable[[str], None]
) -> dict[str, Fit]:
    """How to fit each lens, once; nothing where it would take longer than `most` seconds."""
    model, texts = subject.model, sentences(subject)
    chosen = [texts[i] for i in sorted(rng.permutation(len(texts))[:_PROMPTS])]
    taken = _seconds(model, chosen)
    if taken > most:
        note(
            f"A tuned and a Jacobian lens of {model.name} would take about {duration(taken)} to "
            "fit, so H2 is judged under the logit lens alone; the full preset allows for more."
        )
        return {}
    made: dict[str, Fit] = {
        "tuned": lambda progress: train_tuned_lens(
            model, texts, steps=_STEPS, batch_tokens=_BATCH, progress=progress
        ),
        "Jacobian": lambda progress: fit_jacobian_lens(
            model, chosen, skip_first=_SKIP, progress=progress
        ),
    }
    return {kind: _once(fit) for kind, fit in made.items()}


def _once(fit: Fit) -> Fit:
    """The fit, made when first asked for, and with whichever progress it was asked."""
    fitted: list[TunedLens | JacobianLens] = []

    def kept(progress: Progress) -> TunedLens | JacobianLens:
        if not fitted:
            fitted.append(fit(progress))
        return fitted[0]

    return kept


def seconds(subject: Subject) -> float:
    """Roughly, how long both lenses take to fit."""
    return _seconds(subject.model, sentences(subject)[:_PROMPTS])


def _seconds(model: Model, texts: list[str]) -> float:
    tokens = sum(len(ids) for ids, _ in model.encode(texts))
    return jacobian_seconds(model, tokens) + tuned_seconds(model, _STEPS, _BATCH)
