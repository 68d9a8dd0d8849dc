"""Activations of one model put into the other's run on the same prompt (Prakash et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from cache.arguments import Seed, typed
from interp.comparison.pair import ModelPair
from interp.comparison.reading import readable
from interp.errors import SiteError
from interp.forward.capture import capture
from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.patching.cells import By
from interp.patching.exact import sweep
from interp.progress import Progress
from interp.prompts.pairs import Answers, PromptPairs
from interp.prompts.tokens import Prompts
from interp.sites import Site

__all__ = ["patch_across", "patched_between"]

_DROPPED = ("corrupt_prompt", "corrupt_token")
_RENAMED = {"clean_prompt": "prompt", "clean_token": "token"}


@typed
def patch_across(
    base: Model,
    tuned: Model,
    prompts: PromptPairs | Prompts,
    site: str = "resid_post",
    metric: Metric | str = "logit_diff",
    *,
    answers: Answers | None = None,
    foils: Answers | None = None,
    by: By | Sequence[By] | None = None,
    layers: Sequence[int] | None = None,
    draws: int = 1,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Put the tuned model's activations into the base's run, and the other way round, one by one.

    Args:
        base: the model before.
        tuned: the model after, of the same shape.
        prompts: prompts with `answers` (and `foils`, where the metric compares), or pairs, of
            which the clean prompts are read.
        site: what is replaced; see `sweep`.
        metric: what to read, or its name.
        by: the axes of the cells; see `sweep`.
        layers: the ones to patch; all if left out.
        draws: of a control: the receiving run's own activation, moved as far in a random
            direction, in each token's and head's vector.
        seed: of these.
        progress: called with (cells done, in all).

    Returns:
        patched(example, into, layer, …): the metric of the run of the model that `into` names with
        one activation of the other's run on the same prompt; control(example, into, layer, …,
        draw); base(example) and tuned(example): of the models as they are. NaN where an example
        has no such token. Tokens of a continuation that the metric forces are never replaced.

    Raises:
        ModelError: the models cannot be compared (see `compare_models`).
        SiteError: as for `sweep`; patterns of two models cannot be exchanged.
        PromptError: prompts or answers that do not fit.
        MetricError: an unknown metric.
    """
    return patched_between(
        ModelPair.of(base, tuned),
        prompts,
        site,
        metric,
        answers,
        foils,
        by=by,
        layers=layers,
        draws=draws,
        seed=seed,
        progress=progress,
    )


def patched_between(
    pair: ModelPair,
    prompts: PromptPairs | Prompts,
    site: str,
    metric: Metric | str,
    answers: Answers | None,
    foils: Answers | None,
    *,
    by: By | Sequence[By] | None,
    layers: Sequence[int] | None,
    draws: int,
    seed: int,
    progress: Progress | None,
) -> xr.Dataset:
    """`patch_across` of models that were looked at."""
    if draws < 0:
        raise SiteError(f"There cannot be {draws} random directions; ask for 0 or more.")
    metric = get_metric(metric)
    read = readable(pair, prompts, answers, foils)
    chosen = sorted(set(range(pair.base.n_layers) if layers is None else layers))
    places = [Site(site, layer) for layer in chosen]
    if any(place.kind.pairwise for place in places):
        raise SiteError(
            "Attention patterns of one model are no patterns of the other's run; patch 'z' instead."
        )
    generator = torch.Generator().manual_seed(seed)
    models = {"base": pair.base, "tuned": pair.tuned}
    runs = len(models) * (1 + draws)
    done = 0

    def report() -> Progress | None:
        before = done
        return progress and (lambda n, of: progress(before * of + n, runs * of))

    def run(receiver: Model, values: Mapping[int, Tensor]) -> xr.Dataset:
        nonlocal done
        found = sweep(
            receiver,
            read,
            site,
            metric,
            by=by,
            direction="noising",
            source=values,
            layers=chosen,
            progress=report(),
        )
        done += 1
        return found

    with pair.locked():
        seen = {
            which: {
                place.layer: found[str(place)]
                for found in [capture(model, read.clean, places)]
                for place in places
            }
            for which, model in models.items()
        }
        made: dict[str, list[xr.DataArray]] = {"patched": [], "control": []}
        plain = {}
        for into, receiver in models.items():
            own, foreign = seen[into], seen["tuned" if into == "base" else "base"]
            found = run(receiver, foreign)
            plain[into] = ("example", found["clean"].values)
            made["patched"].append(found["patched"])
            controls = [
                run(receiver, _moved(own, foreign, generator))["patched"] for _ in range(draws)
            ]
            if controls:
                made["control"].append(xr.concat(controls, "draw").transpose(..., "draw"))
        attrs = pair.attrs("cross-model patching")
    into_axis = xr.DataArray(list(models), dims="into", name="into")
    variables: dict[str, Any] = {
        name: xr.concat(arrays, into_axis).transpose("example", "into", ...)
        for name, arrays in made.items()
        if arrays
    }
    out = xr.Dataset({**variables, **plain})
    out = out.drop_vars(_DROPPED, errors="ignore")
    out = out.rename({old: new for old, new in _RENAMED.items() if old in out})
    noted = {"metric": metric.name, "unit": metric.unit, "site": site, "seed": seed}
    return out.assign_attrs({**attrs, **noted})


def _moved(
    own: Mapping[int, Tensor], foreign: Mapping[int, Tensor], generator: torch.Generator
) -> dict[int, Tensor]:
    """Own activations, each moved as far as the other model's lies away, in a random direction."""
    out = {}
    for layer, here in own.items():
        size = (foreign[layer].float() - here.float()).norm(dim=-1, keepdim=True)
        drawn = torch.randn(here.shape, generator=generator).to(here.device)
        out[layer] = (here.float() + size * drawn / drawn.norm(dim=-1, keepdim=True)).to(here.dtype)
    return out
