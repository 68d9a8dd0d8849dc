"""What all hypotheses of the study share: reading refusals, finding and choosing directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.declining.reading import Changes, Read, read_next
from experiments.phenomena.phenomenon import Subject
from experiments.refusal.requests import Request, Requests
from interp import Intervention, ablate_everywhere, clamp_to_mean, mean_directions
from interp.prompts.masks import Positions
from interp.steering.directions import Controls, control_directions
from interp.steering.finding import last_activations

__all__ = [
    "DRAWS",
    "Candidate",
    "Changes",
    "Read",
    "candidates",
    "chosen",
    "declining_gap",
    "halves",
    "read",
    "rivals",
]

DRAWS = 20
"""Random directions beside each: one that does more than all of them does so by luck once in 21."""


def read(subject: Subject[Requests], requests: Sequence[Request], changes: Changes = ()) -> Read:
    """Ask the model, with or without changes."""
    prompts, answers = [one.prompt for one in requests], [one.answer for one in requests]
    return read_next(subject.model, prompts, answers, subject.data.decline, changes)


@dataclass(frozen=True)
class Candidate:
    """A direction of the stream after a layer, at a token counted from the end."""

    layer: int
    position: int
    vector: Tensor


def halves(data: Requests, form: str, *, harmful: bool) -> tuple[list[Request], list[Request]]:
    """Told requests of one kind: those that find directions, and those that choose among them."""
    told = data.some(form, harmful=harmful, split="told")
    return told[0::2], told[1::2]


def declining_gap(subject: Subject[Requests]) -> float:
    """By which share more held-out harmful requests are declined than harmless ones.

    Of a model that declines both alike no direction is one of declining: what is taken for one may
    only be whatever its one answer hangs on.
    """
    shares = [
        float(
            read(
                subject, subject.data.some("request", harmful=which, split="held out")
            ).declines.mean()
        )
        for which in (True, False)
    ]
    return shares[0] - shares[1]


def candidates(
    subject: Subject[Requests], form: str = "request", positions: Sequence[int] | None = None
) -> list[Candidate]:
    """Harmful minus harmless, after each layer, at the tokens behind what is asked about."""
    data = subject.data
    sides = [halves(data, form, harmful=harmful)[0] for harmful in (True, False)]
    where = list(range(data.content, 0)) if positions is None else list(positions)
    prompts = [[one.prompt for one in side] for side in sides]
    found = mean_directions(subject.model, *prompts, positions=where)["direction"]
    return [
        Candidate(layer, position, torch.tensor(found.sel(layer=layer, position=position).values))
        for layer in map(int, found["layer"].values)
        for position in where
    ]


def chosen(
    among: Sequence[Candidate], score: Callable[[Candidate], float]
) -> tuple[Candidate, float]:
    """The candidate with the largest score, the first of those that are equal."""
    scores = [score(one) for one in among]
    best = int(np.argmax(scores))
    return among[best], scores[best]


def rivals(
    subject: Subject[Requests], one: Candidate, seed: int, form: str = "request"
) -> Controls:
    """Random directions at a candidate's place, varying as activations do within both classes."""
    classes = []
    for harmful in (True, False):
        prompts = [each.prompt for each in halves(subject.data, form, harmful=harmful)[0]]
        found = last_activations(subject.model, prompts, positions=(one.position,))
        classes.append(found[one.layer][:, 0])
    return control_directions(one.vector, classes, DRAWS, seed=seed % 2**31)


def ablated(subject: Subject[Requests], vector: Tensor) -> Changes:
    """Projected out wherever the stream is read."""
    return ablate_everywhere(subject.model, vector)


def held(subject: Subject[Requests], vector: Tensor, *, everywhere: bool = False) -> Changes:
    """Held at the mean of harmless requests: at the last token, or at all."""
    reference = [one.prompt for one in halves(subject.data, "request", harmful=False)[0]]
    return clamp_to_mean(subject.model, vector, reference, at="all" if everywhere else "last")


def added(vector: Tensor, layer: int, position: int | None = None) -> Changes:
    """Added once, after a layer, at all tokens or at one."""
    where: Positions = "all" if position is None else [position]
    return (Intervention.add(vector, f"resid_post.{layer}", positions=where),)
