"""What each head and MLP writes, at the end of a question, for the right name and for others."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.organisms.facts import Direction
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.crossing import (
    LEAST_FACTS,
    apart,
    crossed,
    refused,
    too_few,
)
from interp.attribution.candidates import attribute_candidates
from interp.errors import ModelError, ObverseError, SiteError

__all__ = ["written"]

_INSTRUMENT = "attribution of names"


def written(
    subject: Subject,
    direction: Direction,
    members: npt.NDArray[np.int64],
    progress: Progress,
) -> xr.Dataset:
    """Direct logit attribution of each name's first token at the end of each question.

    By head where the model shows its heads, else each layer's attention as one. Facts whose names
    share a word are left out: a head that copies tells them.

    Args:
        members: the facts that are asked for; their answers are the names too.

    Returns:
        contribution(component, example, name) in logits, with the coordinates of `crossed`; without
        examples, and with the attribute `refused`, where there is nothing to read or the model
        cannot be read so.
    """
    kept = apart(subject, members)
    if len(kept) < LEAST_FACTS:
        return _refused(too_few(len(kept)))
    coords = crossed(subject, direction, kept)
    every = subject.prompts(direction)
    prompts = [every[int(i)] for i in kept]
    first = coords["first_token"][1]
    tokens, place = np.unique(first, return_inverse=True)
    candidates = [int(token) for token in tokens]

    def by(division: Literal["head", "component"]) -> xr.Dataset:
        return attribute_candidates(
            subject.model, prompts, candidates, by=division, progress=progress
        )

    try:
        try:
            found = by("head")
        except (ModelError, SiteError):
            found = by("component")
    except ObverseError as error:
        return _refused(str(error))
    shares = found["contribution"].transpose("component", "example", "candidate").values
    return xr.Dataset(
        {"contribution": (("component", "example", "name"), shares[:, :, place])},
        coords={
            **coords,
            **{name: ("component", found[name].values) for name in ("component", "layer", "head")},
        },
        attrs={**found.attrs, "instrument": _INSTRUMENT},
    )


def _refused(reason: str) -> xr.Dataset:
    return refused(_INSTRUMENT, reason, "contribution", ("component", "example", "name"))
