"""What each attack moves: coordinates along *harmful* and *declines*, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.attacks.made import DRAWS, Attack, Way
from experiments.attacks.reading import Axis, axis
from experiments.phenomena.phenomenon import Subject
from experiments.refusal.measuring import read
from experiments.refusal.requests import Request, Requests
from experiments.reporter import Progress
from interp import capture
from interp.prompts.tokens import tokenise

__all__ = ["VARIABLES", "axes", "measure"]

Floats = npt.NDArray[np.float64]
VARIABLES = ("harmful", "declines")


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
    """What attacks move, each on as many held-out requests.

    Returns:
        shift(attack, variable, layer, example): the coordinate under the attack minus that of the
        plain request, in units of the distance between the classes' means; NaN where the axis is
        not clear. random(attack, variable, layer, draw): the same mean over requests with what
        means nothing; NaN where there are no controls. declined, declined_plain(attack, example)
        and declined_random(attack, draw): whether it is declined. separates(variable, layer): of
        the axis. control and forced(attack): see `Attack`.
    """
    by_layer = axes(subject)
    layers = subject.model.n_layers
    shape = (len(attacks), len(VARIABLES), layers)
    n = min(len(one.requests) for one in attacks)
    shift, random = np.full((*shape, n), np.nan), np.full((*shape, DRAWS), np.nan)
    declined, before = np.full((len(attacks), n), np.nan), np.full((len(attacks), n), np.nan)
    beside = np.full((len(attacks), DRAWS), np.nan)
    total, done = sum(1 + len(one.controls) for one in attacks), 0
    for number, attack in enumerate(attacks):
        requests = attack.requests[:n]
        plain = _coordinates(subject, by_layer, _asked(requests))
        before[number] = _declined(subject, requests, _asked(requests))
        for draw, way in enumerate((attack.attacked, *attack.controls), -1):
            way = Way(way.prompts[:n], way.changes)
            moved = _coordinates(subject, by_layer, way) - plain
            share = _declined(subject, requests, way)
            if draw < 0:
                shift[number], declined[number] = moved, share
            else:
                random[number, :, :, draw], beside[number, draw] = moved.mean(-1), share.mean()
            done += 1
            progress(done, total)
    dims = ("attack", "variable", "layer")
    return xr.Dataset(
        {
            "shift": ((*dims, "example"), shift),
            "random": ((*dims, "draw"), random),
            "declined": (("attack", "example"), declined),
            "declined_plain": (("attack", "example"), before),
            "declined_random": (("attack", "draw"), beside),
            "separates": (
                ("variable", "layer"),
                [[one.separates for one in by_layer[name]] for name in VARIABLES],
            ),
            "control": ("attack", [one.control for one in attacks]),
            "forced": ("attack", [one.forced for one in attacks]),
        },
        {
            "attack": [one.name for one in attacks],
            "variable": list(VARIABLES),
            "layer": np.arange(layers),
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
