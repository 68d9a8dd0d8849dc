"""What a sweep replaces: one cell replaces one activation of one example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from interp.errors import SiteError
from interp.forward.trials import editable
from interp.kinds import site_kind
from interp.model.model import Model
from interp.patching import groups
from interp.patching.groups import Choices, Neurons
from interp.patching.table import EditTable, Indices, Mask, Places
from interp.prompts.alignment import Alignment
from interp.sites import Site, heads_at

By = Literal["position", "span", "head", "neurons", "destination", "source"]

# In this order the axes stand in the result, whatever the order in which they were asked for.
_AXES: tuple[By, ...] = ("position", "span", "head", "neurons", "destination", "source")
_PLACES: tuple[By, ...] = ("position", "span", "destination")
_UNITS: tuple[By, ...] = ("head", "neurons")


Grid = npt.NDArray[np.float32]
"""A value of each cell [example, layer, *axes], NaN where there is none."""


@dataclass(frozen=True)
class Cells:
    """All cells of a sweep: the same at each layer.

    Attributes:
        site: what is replaced, without the layer.
        layers: the layers, ascending.
        n_examples: how many pairs there are.
        axes: the axes of the result besides example and layer, in order.
        places: choices of slots that are replaced together; in patterns, of destinations.
        units: choices of heads or neurons; None where whole activations are replaced.
        sources: in patterns, choices of what is attended to.
        example, place, unit, source: indices of each cell [cell] along these.
    """

    site: str
    layers: tuple[int, ...]
    n_examples: int
    axes: tuple[By, ...]
    places: Choices
    units: Choices | None
    sources: Choices | None
    example: Indices
    place: Indices
    unit: Indices
    source: Indices

    def __len__(self) -> int:
        return len(self.example)

    def axis(self, name: By) -> tuple[Choices, Indices]:
        """An axis of the result, and where each cell stands on it."""
        if name in _PLACES:
            return self.places, self.place
        found = self.units if name in _UNITS else self.sources
        assert found is not None  # lay_out gives every axis its choices
        return found, self.unit if name in _UNITS else self.source

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return tuple(len(self.axis(name)[0]) for name in self.axes)

    @property
    def column(self) -> Indices:
        """Where each cell stands on all axes together, the last one running fastest [cell]."""
        out = np.zeros_like(self.example)
        for choices, index in (self.axis(name) for name in self.axes):
            out = out * len(choices) + index
        return out

    @property
    def every(self) -> Mask:
        """All of them [cell, layer]."""
        return np.ones((len(self), len(self.layers)), dtype=np.bool_)

    def of_examples(self, examples: range) -> Mask:
        """Which cells are of these examples [cell]."""
        return np.asarray((self.example >= examples.start) & (self.example < examples.stop))

    def subset(self, examples: range) -> Cells:
        """The cells of these examples, which are counted from 0 again."""
        mine = self.of_examples(examples)
        return replace(
            self,
            n_examples=len(examples),
            example=self.example[mine] - examples.start,
            place=self.place[mine],
            unit=self.unit[mine],
            source=self.source[mine],
        )

    def grid(self, values: npt.NDArray[np.float32]) -> Grid:
        """Values [cell, layer] as the result shows them."""
        n, n_layers, n_columns = self.n_examples, len(self.layers), int(np.prod(self.shape))
        grid = np.full((n, n_columns, n_layers), np.nan, np.float32)
        grid[self.example, self.column] = values
        return np.moveaxis(grid, -1, 1).reshape(n, n_layers, *self.shape)

    def where(self, chosen: Mask) -> Mask:
        """Where some of them [cell, layer] stand in the result [example, layer, *axes]."""
        return np.asarray(self.grid(chosen.astype(np.float32)) == 1)

    def at(self, columns: Indices) -> Mask:
        """The cells [cell, layer] at some places of [layer, *axes], which is flattened."""
        grid = np.zeros((len(self.layers), int(np.prod(self.shape))), dtype=np.bool_)
        grid.flat[columns] = True
        return np.asarray(grid[:, self.column].T)

    def table(self, chosen: Mask) -> tuple[EditTable, Indices, Indices]:
        """The edits of some cells [cell, layer], and of each row its cell and its layer's index."""
        layer, cell = np.nonzero(chosen.T)
        slots = [self.places.members, *([self.sources.members] if self.sources else [])]
        table = EditTable(
            sites=tuple(Site(self.site, at) for at in self.layers),
            slots=np.concatenate(slots),
            units={} if self.units is None else {self.site: self.units.members},
            example=self.example[cell],
            row=np.arange(len(cell)),
            site=layer,
            place=self.place[cell],
            unit=self.unit[cell],
            source=len(self.places) + self.source[cell],
        )
        return table, cell, layer


def check_by(site: str, by: By | Sequence[By] | None) -> tuple[By, ...]:
    """The axes of a sweep, in the order in which they stand in its result."""
    kind = site_kind(site)
    allowed: tuple[By, ...] = ("position", "span")
    if kind.pairwise:
        allowed = ("head", "destination", "source")
    elif kind.per_head:
        allowed += ("head",)
    elif kind.unit == "neuron":
        allowed += ("neurons",)
    chosen: tuple[str, ...] = (
        (("head",) if kind.per_head else ("position",))
        if by is None
        else ((by,) if isinstance(by, str) else tuple(by))
    )
    if "head" in chosen and "head" not in allowed:
        raise SiteError(f"The site '{site}' has no heads; sweep it by 'position' or 'span'.")
    unknown = [axis for axis in chosen if axis not in allowed]
    if unknown or not chosen or {"position", "span"} <= set(chosen):
        both = " ('position' and 'span' exclude each other)" if "span" in allowed else ""
        raise SiteError(
            f"A sweep of '{site}' cannot run by {by!r}; choose one or several of "
            f"{', '.join(map(repr, allowed))}{both}."
        )
    return tuple(axis for axis in _AXES if axis in chosen)


def check_layers(model: Model, site: str, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers to patch, in order; a SiteError where the model lacks one, or the site there."""
    chosen = tuple(range(model.n_layers)) if layers is None else tuple(sorted(set(layers)))
    if not chosen:
        raise SiteError("There are no layers to patch; name at least one, or leave `layers` out.")
    editable(model, [Site(site, layer) for layer in chosen])
    return chosen


def lay_out(
    model: Model,
    alignment: Alignment,
    places: Places,
    site: str,
    layers: tuple[int, ...],
    axes: tuple[By, ...],
    *,
    positions: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    neurons: Neurons | None = None,
    attended: Sequence[int | str] | None = None,
) -> Cells:
    """All cells of a sweep; those whose example has no token at the place are left out.

    Raises:
        PromptError: a position that the pairs do not have.
        SiteError: a head or neuron that the site does not have, or some where none are swept.
    """
    for name, given, axis in (("heads", heads, "head"), ("neurons", neurons, "neurons")):
        if given is not None and axis not in axes:
            raise SiteError(
                f"{name.capitalize()} can be chosen only where they are swept: by='{axis}'."
            )
    pairwise = site_kind(site).pairwise
    if attended is not None and not pairwise:
        raise SiteError(f"Nothing is attended to at '{site}'; leave attended=… out.")
    chosen = _slots(alignment, axes, alignment.slots(positions))
    units = None
    if "head" in axes:
        units = groups.heads(model, site, heads)
    elif "neurons" in axes:
        units = groups.neurons(model, neurons)
    elif pairwise:
        units = groups.everything(heads_at(model, site))
    sources = None
    if pairwise:
        make = groups.single_slots if "source" in axes else groups.all_slots
        sources = make(alignment, alignment.slots(attended))
    there = _there(places, chosen, sources)  # [example, place, source]
    n_units = 1 if units is None else len(units)
    example, place, unit, source = np.nonzero(np.repeat(there[:, :, None], n_units, axis=2))
    n = len(there)
    return Cells(site, layers, n, axes, chosen, units, sources, example, place, unit, source)


def _slots(alignment: Alignment, axes: Sequence[By], slots: Sequence[int]) -> Choices:
    if "span" in axes:
        return groups.spans(alignment, slots)
    if {"position", "destination"} & set(axes):
        return groups.single_slots(alignment, slots)
    return groups.all_slots(alignment, slots)


def _there(places: Places, chosen: Choices, sources: Choices | None) -> Mask:
    """Whether each cell has something to replace [example, place, source]."""
    place = chosen.members.astype(np.float32)
    if sources is None:
        present = (places.destination >= 0).astype(np.float32)
        return np.asarray((present @ place.T > 0)[:, :, None])
    found = []
    # Example by example, since there are as many pairs as a pattern has entries.
    for example in range(len(places.destination)):
        pairs = places.attended(np.array([example]))[0].astype(np.float32)
        found.append(place @ pairs @ sources.members.T.astype(np.float32) > 0)
    return np.stack(found)
