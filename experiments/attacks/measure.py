"""What each attack moves: coordinates along *harmful* and *declines*, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.attacks.made import DRAWS, Attack, Way
from experiments.attacks.reading import VARIABLES, Axis, axis
from experiments.phenomena.phenomenon import Subject
from experiments.refusal.measuring import read
from experiments.refusal.requests import Request, Requests
from experiments.reporter import Progress
from interp import capture
from interp.prompts.tokens import tokenise

__all__ = ["axes", "measure"]

Floats = npt.NDArray[np.float64]


def axes(subject: Subject[Requests]) -> dict[str, list[Axis]]:
    """Both variables' axes by layer.

    *Harmful* is the difference of means of told judgements, which are all answered, where the
    content ends; *declines* that of told requests at the last token. Both have their unit from
    held-out requests there.
    """
    data = subject.data
    found = {}
    for name, form in zip(VARIABLES, ("judgement", "request"), strict=True):
        place = VARIABLES.index(name)
        fit, held_out = (
            [
                _streams(subject, _asked(data.some(kind, harmful=harmful, split=split)))  # type: ignore[arg-type]
                for harmful in (True, False)
            ]
            for kind, split in ((form, "told"), ("request", "held out"))
        )
        found[name] = [
            axis(
                (fit[0][layer, :, place], fit[1][layer, :, place]),
                (held_out[0][layer, :, place], held_out[1][layer, :, place]),
            )
            for layer in range(subject.model.n_layers)
        ]
    return found


def measure(
    subject: Subject[Requests], attacks: Sequence[Attack], progress: Progress
) -> xr.Dataset:
    """What attacks move, in held-out requests of both kinds.

    Returns:
        shift(attack, variable, layer, example): in requests of the kind that the attack is told of,
        the coordinate under the attack minus that of the plain request, in units of the distance
        between the classes' means; random(attack, variable, layer, draw): its mean with what means
        nothing. harmful_under and harmless_under(attack, variable, layer, example): coordinates of
        both kinds under the attack; apart_random(attack, variable, layer, draw): the difference of
        their means with what means nothing. All NaN where an axis is not clear. declined and
        declined_plain(attack, example) and declined_random(attack, draw): whether it is declined.
        separates(variable, layer): of the axis. forced(attack, variable), control(attack): see
        `Attack`.
    """
    by_layer = axes(subject)
    kinds = [
        subject.data.some("request", harmful=which, split="held out") for which in (True, False)
    ]
    n = min(map(len, kinds))
    kinds = [one[:n] for one in kinds]
    plain = [_coordinates(subject, by_layer, _asked(one)) for one in kinds]
    shape = (len(attacks), len(VARIABLES), subject.model.n_layers)
    under = [np.full((*shape, n), np.nan) for _ in kinds]
    shift = np.full((*shape, n), np.nan)
    random, apart = (np.full((*shape, DRAWS), np.nan) for _ in kinds)
    declined, before = (np.full((len(attacks), n), np.nan) for _ in kinds)
    beside = np.full((len(attacks), DRAWS), np.nan)
    total, done = sum(1 + len(one.controls) for one in attacks), 0
    for number, attack in enumerate(attacks):
        own = 0 if attack.harmful else 1
        before[number] = _declined(subject, kinds[own], _asked(kinds[own]))
        for draw, make in enumerate((attack.make, *attack.controls), -1):
            ways = [make(one) for one in kinds]
            found = [_coordinates(subject, by_layer, way) for way in ways]
            share, moved = _declined(subject, kinds[own], ways[own]), found[own] - plain[own]
            if draw < 0:
                shift[number], declined[number] = moved, share
                under[0][number], under[1][number] = found
            else:
                random[number, :, :, draw], beside[number, draw] = moved.mean(-1), share.mean()
                apart[number, :, :, draw] = found[0].mean(-1) - found[1].mean(-1)
            done += 1
            progress(done, total)
    dims = ("attack", "variable", "layer")
    return xr.Dataset(
        {
            "shift": ((*dims, "example"), shift),
            "random": ((*dims, "draw"), random),
            "harmful_under": ((*dims, "example"), under[0]),
            "harmless_under": ((*dims, "example"), under[1]),
            "apart_random": ((*dims, "draw"), apart),
            "declined": (("attack", "example"), declined),
            "declined_plain": (("attack", "example"), before),
            "declined_random": (("attack", "draw"), beside),
            "separates": (
                ("variable", "layer"),
                [[one.separates for one in by_layer[name]] for name in VARIABLES],
            ),
            "forced": (
                ("attack", "variable"),
                [[name in one.forced for name in VARIABLES] for one in attacks],
            ),
            "control": ("attack", [one.control for one in attacks]),
        },
        {
            "attack": [one.name for one in attacks],
            "variable": list(VARIABLES),
            "layer": np.arange(subject.model.n_layers),
        },
        dict(subject.model.identity),
    )


def _asked(requests: Sequence[Request]) -> Way:
    return Way(tuple(one.prompt for one in requests))


def _streams(subject: Subject[Requests], way: Way) -> Floats:
    """After each block, where the content ends and at the last token [layer, example, place, d]."""
    model = subject.model
    batch = tokenise(model, list(way.prompts))
    found = capture(model, batch, "resid_post", interventions=way.changes)
    rows = np.arange(len(way.prompts))[:, None]
    places = batch.lengths.numpy()[:, None] + np.array([subject.data.content, -1])
    return np.stack(
        [
            found[f"resid_post.{layer}"].double().cpu().numpy()[rows, places]
            for layer in range(model.n_layers)
        ]
    )


def _coordinates(
    subject: Subject[Requests], by_layer: Mapping[str, Sequence[Axis]], way: Way
) -> Floats:
    """[variable, layer, example]."""
    streams = _streams(subject, way)
    return np.stack(
        [
            np.stack(
                [one.coordinates(streams[i, :, place]) for i, one in enumerate(by_layer[name])]
            )
            for place, name in enumerate(VARIABLES)
        ]
    )


def _declined(subject: Subject[Requests], requests: Sequence[Request], way: Way) -> Floats:
    asked = [
        Request(prompt, one.answer, one.form, one.harmful, one.split)
        for prompt, one in zip(way.prompts, requests, strict=True)
    ]
    return read(subject, asked, way.changes).declines
