"""Whether what teaches a fact one way would teach it the other way as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.organisms.facts import Direction
from experiments.reporter import Progress
from experiments.reversal_curse.facts import fill
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.crossing import (
    LEAST_FACTS,
    apart,
    crossed,
    refused,
    too_few,
)
from interp.errors import ObverseError
from interp.gradients.products import gradient_products

__all__ = ["coupled"]

_INSTRUMENT = "coupling of gradients"
_BLOCK = 32
"""Facts that are compared with each other: memory does not grow with their number."""
_MOST = 96


def coupled(
    subject: Subject,
    told: Direction,
    direction: Direction,
    members: npt.NDArray[np.int64],
    seed: int,
    progress: Progress,
    *,
    parameters: Literal["mlp", "all"] = "mlp",
) -> xr.Dataset:
    """Cosines of ∇ log p of answers as told, and of answers asked in `direction`.

    The gradient is that of the answer's first token, so that what is read in one direction is never
    read in the other: with whole answers, whose last tokens are read behind the first, the names
    themselves would couple the two. Facts are compared in blocks, drawn at random among those that
    are asked in the same words. Facts whose names share a word are left out, and no more than 96
    are looked at.

    Args:
        told: the direction in which the members were told, asked in the main template.
        direction: the other one, asked in its main template; or the same one, asked in its next
            template, which is the control.
        seed: draws facts and blocks.
        parameters: as for `gradient_products`.

    Returns:
        cosine(example, name), of the question about `example` as told and the one about `name`; NaN
        between blocks. With the coordinates of `crossed` and block(example); without examples, and
        with the attribute `refused`, where it cannot be done.
    """
    kept = apart(subject, members)
    if len(kept) < LEAST_FACTS:
        return _refused(too_few(len(kept)))
    templates = subject.templates[direction]
    wordings = (*templates.trained, *templates.held_out)
    if told == direction and len(wordings) < 2:
        return _refused(f"there is one wording only of the {direction} question")
    other = wordings[1] if told == direction else wordings[0]
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(kept)[:_MOST])
    coords = crossed(subject, direction, kept)
    blocks = _blocks(coords["words"][1], rng)
    cosines = np.full((len(kept), len(kept)), np.nan, np.float64)
    facts = [subject.facts[int(i)] for i in kept]
    main = subject.main_template(told)
    for number in range(blocks.max() + 1):
        rows = np.nonzero(blocks == number)[0]
        mine = [facts[i] for i in rows]
        try:
            found = gradient_products(
                subject.model,
                [fill(main, fact) for fact in mine] + [fill(other, fact) for fact in mine],
                [f" {fact.answer(told)}" for fact in mine]
                + [f" {fact.answer(direction)}" for fact in mine],
                parameters=parameters,
            )
        except ObverseError as error:
            return _refused(str(error))
        half = len(rows)
        cosines[np.ix_(rows, rows)] = found["cosine"].values[:half, half:]
        progress(number + 1, int(blocks.max()) + 1)
    return xr.Dataset(
        {"cosine": (("example", "name"), cosines)},
        coords={**coords, "block": ("example", blocks)},
        attrs={**found.attrs, "instrument": _INSTRUMENT, "told": told, "asked": direction},
    )


def _blocks(words: Sequence[str], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The number of each fact's block; all of a block are asked in the same words."""
    blocks = np.zeros(len(words), np.int64)
    number = 0
    for asked in dict.fromkeys(words):
        rows = rng.permutation([i for i, each in enumerate(words) if each == asked])
        # As even as they can be, so that none is left with a few.
        for part in np.array_split(rows, -(-len(rows) // _BLOCK)):
            blocks[part] = number
            number += 1
    return blocks


def _refused(reason: str) -> xr.Dataset:
    return refused(_INSTRUMENT, reason, "cosine", ("example", "name"))
