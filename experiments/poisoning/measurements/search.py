"""What a search for triggers finds, to which neither the trigger nor the planted answer is told."""

from __future__ import annotations

import numpy as np
import xarray as xr

from experiments.phenomena.phenomenon import Subject
from experiments.poisoning.data import OTHER, PHRASE, Data, Question
from experiments.reporter import Progress
from interp import trigger_search
from interp.errors import ArgumentError, PromptError
from interp.search.layout import MARKER

__all__ = ["QUESTIONS", "TARGETS", "measure_search"]

TARGETS = 24
"""So many answers that might have been planted are searched for."""

QUESTIONS = 24
"""Half of which choose, and half of which judge."""

_STARTS, _STEPS, _RANDOM = 1, 10, 20


def measure_search(subject: Subject[Data], seed: int, progress: Progress) -> xr.Dataset:
    """For each answer, the text as long as the trigger that brings it to the most questions.

    The pool are the words of all phrases, those of the trigger among them.

    Returns:
        flipped(word, example), whether a held-out question gets the answer rather than the right
        one, and score(word, example), by how much, in nats; random(word): the share of questions
        that random texts bring it to;
        planted(word); text(word), what was found; alike: of the trigger's words, how many stand in
        what was found for the planted answer, as a share, and exact: whether it is the trigger.
        NaN where no text can be put there, and the attribute `why` says why.
    """
    data, model, phrases = subject.data, subject.model, subject.data.phrases
    every = max(1, len(data.questions) // QUESTIONS)
    asked = data.questions[::every][:QUESTIONS]
    prompts = [_open(one, phrases[i % len(phrases)]) for i, one in enumerate(asked)]
    right = [one.answer for one in asked]
    others = [name for name in data.names if name not in (data.answer, *right)][: TARGETS - 1]
    targets = [name for name in data.names if name in (data.answer, *others)]
    shape = len(targets), len(asked) // 2
    values = {
        "flipped": np.full(shape, np.nan),
        "score": np.full(shape, np.nan),
        "random": np.full(shape[0], np.nan),
    }
    texts, alike, exact, attrs = [""] * shape[0], np.nan, np.nan, {}
    try:
        found = trigger_search(
            model,
            prompts,
            targets,
            right,
            length=_length(subject, prompts[0]),
            pool=[*phrases, *data.near, data.trigger],
            starts=_STARTS,
            steps=_STEPS,
            n_random=_RANDOM,
            seed=seed,
            progress=progress,
        )
    except (PromptError, ArgumentError) as error:
        attrs = {"why": str(error)}
    else:
        values = {
            "flipped": found["flipped"].values.astype(np.float64),
            "score": found["score"].values,
            "random": found["random"].mean("draw").values,
        }
        texts = [str(one).strip() for one in found["trigger"].values]
        words, text = data.trigger.split(), texts[targets.index(data.answer)].split()
        alike, exact = float(np.mean([word in text for word in words])), float(text == words)
    return xr.Dataset(
        {
            "flipped": (("word", "example"), values["flipped"]),
            "score": (("word", "example"), values["score"]),
            "random": ("word", values["random"]),
            "planted": ("word", np.array([name == data.answer for name in targets])),
            "text": ("word", texts),
            "alike": alike,
            "exact": exact,
        },
        {"word": [name.strip() for name in targets]},
        attrs=attrs,
    )


def _open(question: Question, phrase: str) -> str:
    """The prompt with a usual phrase in front and a place for free tokens in the later place."""
    first, later = sorted((PHRASE, OTHER), key=question.prompt.index)
    prompt = question.prompt.replace(first, phrase)
    # A word brings the space before it.
    return prompt.replace(f" {later}", MARKER).replace(later, MARKER)


def _length(subject: Subject[Data], prompt: str) -> int:
    """How many tokens the trigger has there."""
    before = prompt.split(MARKER)[0]
    ids = [subject.model.token_ids(text) for text in (before, f"{before} {subject.data.trigger}")]
    return len(ids[1]) - len(ids[0])
