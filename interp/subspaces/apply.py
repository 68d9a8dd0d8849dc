"""One interchange intervention in a given subspace, pair by pair."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from cache.arguments import typed
from interp.errors import DirectionError, PromptError
from interp.model.memory import fitting_threads
from interp.model.model import Model
from interp.patching.cells import check_layers
from interp.patching.results import prompt_coordinates
from interp.patching.values import check_direction
from interp.prompts.pairs import PromptPairs
from interp.prompts.targets import Answers
from interp.sites import width_at
from interp.subspaces.das import Among, choices_of, wanted_tokens
from interp.subspaces.runs import Rows, Runs
from interp.subspaces.subspace import Subspace


@typed
def interchange(
    model: Model,
    pairs: PromptPairs,
    subspace: Subspace,
    *,
    direction: str | None = None,
    counterfactual: Answers | None = None,
    among: Among = "vocabulary",
) -> xr.Dataset:
    """Set each pair's activation, inside the subspace, to that of its other run.

    Args:
        model: the model that the subspace belongs to.
        pairs: clean and corrupted prompts, on an axis that has the subspace's position.
        subspace: found by `fit_das`, or any other.
        direction: as for `fit_das`.
        counterfactual: likewise.
        among: likewise.

    Returns:
        hit(example): whether the counterfactual answer came out, and logprob(example), of its first
        token in nats; unchanged_hit and unchanged_logprob, of the run as it is; moved(example), how
        far the activation was moved as a share of how far the two runs lie apart. NaN where a pair
        has no such token.

    Raises:
        ModelError: the subspace belongs to another model.
        DirectionError: its rows are not as wide as the activation.
        SiteError, PromptError: as for `fit_das`.
    """
    subspace.check(model)
    chosen = check_direction(direction, "other")
    layers = check_layers(model, subspace.site, [subspace.layer])
    width = width_at(model, subspace.site, 1)
    if subspace.basis.shape[1] != width:
        raise DirectionError(
            f"The subspace has {subspace.basis.shape[1]} columns, and '{subspace.site}' of "
            f"{model.name} is {width} wide; give rows of that width."
        )
    if subspace.position not in pairs.positions:
        raise PromptError(
            f"These pairs have no position '{subspace.position}'; theirs are "
            f"{', '.join(pairs.positions)}."
        )
    slot = pairs.positions.index(subspace.position)
    targets = wanted_tokens(model, pairs, chosen, counterfactual)
    choices = choices_of(pairs, targets, among)
    out = np.full((5, len(pairs)), np.nan)
    with torch.inference_mode(False), fitting_threads(model), model.lock:
        runs = Runs(model, pairs, chosen, subspace.site, layers, (slot,), choices)
        mine = np.flatnonzero(runs.present[0])
        if not len(mine):
            raise PromptError(f"No pair has a token at '{subspace.position}' in both prompts.")
        rows = Rows(np.zeros_like(mine), mine)
        base, source = runs.base[0, mine], runs.source[0, mine]
        new = subspace.interchanged(base, source)
        for number, vectors in enumerate((new, base)):
            out[2 * number, mine], out[2 * number + 1, mine] = runs.read(
                rows, vectors, targets[mine]
            )
        apart = (source - base).norm(dim=1)
        share = (new - base).norm(dim=1) / torch.where(apart > 0, apart, torch.nan)
        out[4, mine] = share.cpu().numpy()
    names = ("hit", "logprob", "unchanged_hit", "unchanged_logprob", "moved")
    return xr.Dataset(
        {name: ("example", values) for name, values in zip(names, out, strict=True)},
        coords={
            "counterfactual": ("example", model.token_strings(targets.tolist())),
            **prompt_coordinates(pairs),
        },
        attrs={
            "instrument": "interchange in a subspace",
            "site": subspace.site,
            "layer": subspace.layer,
            "position": subspace.position,
            "rank": len(subspace.basis),
            "direction": chosen,
            "among": among,
            **model.identity,
        },
    )
