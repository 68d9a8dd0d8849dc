"""Any activations of a prompt replaced at once, in whole forward passes of Hugging Face's model."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tests.interp import brute_force, reference
from tests.interp.brute_force import RUNS
from tests.interp.pairs import CASES, slots
from tests.interp.tiny import Tiny

Index = tuple[Any, ...]
Value = Literal["other", "zero"] | Mapping[tuple[str, int], torch.Tensor]
"""The other run's activation, nothing, or by site and layer one value for every token."""
ALL = slice(None)

# The order in which hooks must be placed, for each to see what those before it left.
_ORDER = ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_act")


@dataclass(frozen=True)
class Write:
    """Entries of one activation to replace: where in the changed run, and where in the other."""

    site: str
    layer: int
    here: Index
    there: Index


@dataclass(frozen=True)
class Place:
    """A slot of the position axis: its token in the changed run, and in the other."""

    label: str
    here: int
    there: int

    @property
    def span(self) -> str:
        return self.label.rsplit(" ", 1)[0]


def places(tiny: Tiny, example: int, direction: str) -> list[Place | None]:
    """The position axis of one example, None where it has no token."""
    found: list[Place | None] = []
    for label, at in slots(tiny):
        pair = at[example]
        if pair is None:
            found.append(None)
        else:
            clean, corrupt = pair
            here, there = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
            found.append(Place(label, here, there))
    return found


def at_places(
    site: str, layer: int, chosen: Sequence[Place | None], unit: Index = ()
) -> list[Write]:
    """What replaces an activation, or a head or some neurons of it, at these places."""
    return [
        Write(site, layer, (place.here, *unit), (place.there, *unit)) for place in chosen if place
    ]


def in_pattern(
    layer: int, head: Any, later: Sequence[Place | None], earlier: Sequence[Place | None]
) -> list[Write]:
    """What replaces the attention from some places to others, where one can attend to the other."""
    return [
        Write("pattern", layer, (head, a.here, b.here), (head, a.there, b.there))
        for a, b in itertools.product(later, earlier)
        if a and b and a.here >= b.here and a.there >= b.there
    ]


def rewritten(
    tiny: Tiny,
    example: int,
    sets: Sequence[Sequence[Write]],
    direction: str,
    metric: str = "logit_diff",
    value: Value = "other",
) -> list[float]:
    """For each set the metric of a pass in which all of it is replaced; NaN for an empty one.

    The passes are copies of one prompt that run side by side.
    """
    case = CASES[example]
    base, source = (case.ids(tiny, run) for run in RUNS[direction])
    by_site: dict[tuple[str, int], list[list[Write]]] = {}
    for row, writes in enumerate(sets):
        for write in writes:
            rows = by_site.setdefault((write.site, write.layer), [[] for _ in sets])
            rows[row].append(write)
    # Before any hook is placed.
    other = {at: reference.activation(tiny, tuple(source), *at) for at in by_site}

    def put_in(at: tuple[str, int], write: Write) -> torch.Tensor | float:
        if value == "other":
            return other[at][write.there]
        return 0.0 if value == "zero" else value[at][write.here[1:]]

    def order(at: tuple[str, int]) -> int:
        return _ORDER.index(at[0]) if at[0] in _ORDER else len(_ORDER)

    with contextlib.ExitStack() as stack:
        for at in sorted(by_site, key=order):

            def change(writes: list[Write], found: torch.Tensor, at: tuple[str, int] = at) -> None:
                for write in writes:
                    found[write.here] = put_in(at, write)

            changes = [functools.partial(change, writes) for writes in by_site[at]]
            stack.enter_context(reference.intervened(tiny, *at, *changes))
        found = brute_force.scores(tiny, metric, base, case, len(sets))
    return [score if writes else math.nan for score, writes in zip(found, sets, strict=True)]


def means(tiny: Tiny, texts: Sequence[str], site: str, layer: int) -> torch.Tensor:
    """The mean of an activation over all tokens of these texts but BOS."""
    seen = [reference.activation(tiny, tuple(tiny.ids(text)), site, layer) for text in texts]
    return torch.cat([found[len(tiny.bos) :] for found in seen]).mean(0)
