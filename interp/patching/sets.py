"""Several patches at once, as one intervention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from cache.arguments import typed
from interp.errors import SiteError
from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.patching.patch import Patch, tabulate
from interp.patching.plan import Direction, Progress, check_direction, places, plans
from interp.patching.results import attributes, prompt_coordinates
from interp.patching.runner import score
from interp.patching.sources import constants
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts


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
    scores, unpatched = score(
        plans(model, pairs, metric, chosen, values, batch_size), changes, progress
    )
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
