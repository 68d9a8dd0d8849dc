"""Patches, as a person writes them down, and sets of them that are made in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.forward.trials import editable
from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.patching import groups
from interp.patching.results import attributes, prompt_coordinates
from interp.patching.runner import Runner
from interp.patching.table import EditTable, Indices, Mask, Places
from interp.patching.values import (
    Direction,
    all_runs,
    check_direction,
    constants,
    places,
)
from interp.progress import Progress
from interp.prompts.alignment import Alignment
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts
from interp.sites import Site


@typed
@dataclass(frozen=True)
class Patch:
    """Activations to replace at one site.

    Attributes:
        site: where: "mlp_out.3", or one head of it, "z.3.h5"; also as a `Site`.
        positions: by number, label ("subject -1") or span ("subject"); all if left out. In
            patterns they are the destinations.
        neurons: at "mlp_act" which neurons; all if left out.
        attended: in patterns the sources, named like positions; all if left out.
    """

    site: Site | str
    positions: Sequence[int | str] | None = None
    neurons: Sequence[int] | None = None
    attended: Sequence[int | str] | None = None


@typed
def patch_sets(
    model: Model,
    pairs: PromptPairs,
    sets: Mapping[str, Sequence[Patch]],
    metric: Metric | str = "logit_diff",
    *,
    direction: Direction | None = None,
    source: Literal["other", "zero", "mean"] = "other",
    reference: Prompts | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Make all patches of a set in one forward pass, and read the metric.

    What is put in is what the other run (or `source`) had there, so a patch overwrites whatever
    earlier patches of its set have changed at its place.

    Args:
        model: the model.
        pairs: clean and corrupted prompts with answers.
        sets: by a name of your own the patches that are made together, {"the two movers":
            [Patch("z.9.h6"), Patch("z.9.h9", positions=["end"])]}.
        metric: as for `sweep`, and likewise `direction`, `source` (but for values by layer),
            `reference`, `batch_size` and `progress`.

    Returns:
        patched(example, set): the raw metric, NaN where an example lacks the tokens of one of the
        set's patches; clean(example) and corrupt(example): the metric of the unpatched runs.

    Raises:
        SiteError, PromptError, MetricError: as for `sweep`; also for sets that are empty.
    """
    if not sets:
        raise SiteError("There are no sets to patch; name at least one.")
    metric = get_metric(metric)
    chosen = check_direction(direction, source)
    both = places(pairs, chosen, constant=source != "other")
    changes, member = tabulate(model, pairs.alignment, both, list(sets.values()))
    values = constants(model, changes.sites, source, reference)
    runs = all_runs(model, pairs, metric, chosen, values)
    scores, unpatched = Runner(runs, changes, batch_size).score(changes, progress)
    patched = np.full((len(pairs), len(sets)), np.nan, dtype=np.float32)
    patched[changes.example, member] = scores
    return xr.Dataset(
        {
            "patched": (("example", "set"), patched),
            "clean": ("example", unpatched["clean"]),
            "corrupt": ("example", unpatched["corrupt"]),
        },
        coords={"set": list(sets), **prompt_coordinates(pairs)},
        attrs={
            "instrument": "activation patching, sets",
            **attributes(model, metric, chosen, source),
        },
    )


@dataclass(frozen=True)
class _Part:
    """A patch on a given model and pairs: a site without a head, and what is replaced there."""

    site: Site
    slots: Mask
    units: Mask | None
    attended: Mask

    def present(self, places: Places) -> Mask:
        """Whether the examples have anything to replace [example]."""
        examples = np.arange(len(places.destination))
        if not self.site.kind.pairwise:
            return np.asarray((places.present(examples) & self.slots).any(1))
        found = [
            bool(places.attended(examples[i : i + 1])[0][np.ix_(self.slots, self.attended)].any())
            for i in examples
        ]
        return np.array(found, dtype=np.bool_)


def tabulate(
    model: Model, alignment: Alignment, places: Places, sets: Sequence[Sequence[Patch]]
) -> tuple[EditTable, Indices]:
    """One row for each set and example that has tokens at every patch of the set.

    Returns:
        the table, and which set each of them is [row].

    Raises:
        SiteError: a set without patches, or a site, layer, head or neuron that the model lacks.
        PromptError: a position that the pairs do not have.
    """
    resolved = [[_part(model, alignment, patch) for patch in patches] for patches in sets]
    if not all(resolved):
        raise SiteError("A set without patches changes nothing; name at least one in each set.")
    parts = [part for patches in resolved for part in patches]
    sites = tuple(sorted({part.site for part in parts}))
    units: dict[str, list[Mask]] = {}
    unit = []
    for part in parts:
        choices = units.setdefault(part.site.name, [])
        unit.append(len(choices))
        choices.append(part.units if part.units is not None else np.ones(1, dtype=np.bool_))
    sizes = np.array([len(patches) for patches in resolved])
    first = np.cumsum(sizes) - sizes
    present = np.stack([part.present(places) for part in parts], axis=1)
    whole = np.logical_and.reduceat(present, first, axis=1)  # [example, set]
    example, chosen = np.nonzero(whole)
    n = sizes[chosen]
    row = np.repeat(np.arange(len(chosen)), n)
    index = np.repeat(first[chosen] - (np.cumsum(n) - n), n) + np.arange(len(row))
    whole_sites = {part.site.name for part in parts if part.units is None}
    table = EditTable(
        sites=sites,
        slots=np.stack([*(part.slots for part in parts), *(part.attended for part in parts)]),
        units={name: np.stack(m) for name, m in units.items() if name not in whole_sites},
        example=example,
        row=row,
        site=np.array([sites.index(part.site) for part in parts])[index],
        place=index,
        unit=np.array(unit)[index],
        source=len(parts) + index,
    )
    return table, chosen


def _part(model: Model, alignment: Alignment, patch: Patch) -> _Part:
    given = patch.site if isinstance(patch.site, Site) else Site.parse(patch.site)
    editable(model, [given])
    site = Site(given.name, given.layer)
    if patch.neurons is not None and site.kind.unit != "neuron":
        raise SiteError(f"The site '{site.name}' has no neurons; leave neurons=… out.")
    if patch.attended is not None and not site.kind.pairwise:
        raise SiteError(f"Nothing is attended to at '{site.name}'; leave attended=… out.")
    units = None
    if site.kind.per_head:
        chosen = None if given.head is None else [given.head]
        units = groups.heads(model, site.name, chosen).together
    elif site.kind.unit == "neuron":
        wanted = None if patch.neurons is None else [patch.neurons]
        units = groups.neurons(model, wanted).together
    return _Part(site, _mask(alignment, patch.positions), units, _mask(alignment, patch.attended))


def _mask(alignment: Alignment, chosen: Sequence[int | str] | None) -> Mask:
    return np.isin(np.arange(len(alignment)), alignment.slots(chosen))
