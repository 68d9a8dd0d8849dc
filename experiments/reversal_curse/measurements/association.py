"""Which name leads to which through the weights alone, without a question."""

from __future__ import annotations

from typing import Any

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
from experiments.reversal_curse.prompts import asked
from interp.errors import ObverseError
from interp.weights.association import association_matrix

__all__ = ["WHOLE", "associated"]

WHOLE = "all paths"
_INSTRUMENT = "association of names"


def associated(
    subject: Subject,
    direction: Direction,
    members: npt.NDArray[np.int64],
    progress: Progress,
) -> xr.Dataset:
    """How far the weights lead from the name that is asked about to each name that could answer.

    `interp.association_matrix` of each fact's two names: what the MLPs write for a name, read out
    for another's first token, straight or through the values of a later layer's heads. A name of
    several tokens is read at its last, into which the first layer's heads bring all of them evenly.
    Facts whose names share a word are left out.

    Returns:
        association(path, example, name), in a unit that is arbitrary and common to all, with the
        coordinates of `crossed`; the last path is the sum of all. Without examples, and with the
        attribute `refused`, where there are too few facts or the weights cannot be read.
    """
    kept = apart(subject, members)
    if len(kept) < LEAST_FACTS:
        return _refused(too_few(len(kept)))
    facts = [subject.facts[int(i)] for i in kept]
    try:
        found = association_matrix(
            subject.model,
            [f" {asked(fact, direction)}" for fact in facts],
            [f" {fact.answer(direction)}" for fact in facts],
        )
    except ObverseError as error:
        return _refused(str(error))
    progress(1, 1)
    raw = found["raw"].transpose("path", "subject", "object").values
    with np.errstate(over="ignore", invalid="ignore"):
        raw = np.concatenate([raw, raw.sum(0, keepdims=True)])
    if not np.isfinite(raw).all():
        return _refused("what the weights lead to is larger than numbers of this precision")
    paths: list[Any] = [*found["path"].values, WHOLE]
    return xr.Dataset(
        {"association": (("path", "example", "name"), raw)},
        coords={**crossed(subject, direction, kept), "path": [str(path) for path in paths]},
        attrs={**found.attrs, "instrument": _INSTRUMENT},
    )


def _refused(reason: str) -> xr.Dataset:
    return refused(_INSTRUMENT, reason, "association", ("path", "example", "name"))
