"""One patch, with the whole distribution of the next token before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import typed
from interp.errors import PromptError, SiteError
from interp.forward.passes import readout, record
from interp.metrics import Scorer
from interp.model.model import Model
from interp.patching.patch import Patch, tabulate
from interp.patching.values import RUNS, TwoRuns, check_direction, places
from interp.patching.walk import needed, walk
from interp.prompts.pairs import PromptPairs, Run
from interp.sites import Site


@typed
def patch_once(
    model: Model,
    pairs: PromptPairs,
    site: str,
    layer: int,
    *,
    example: int = 0,
    position: int | None = None,
    head: int | None = None,
    neurons: Sequence[int] | None = None,
    attended: int | None = None,
    direction: str = "denoising",
    k: int = 10,
) -> xr.Dataset:
    """Replace one activation of one pair, and read the next token in all three runs.

    Args:
        model: the model.
        pairs: clean and corrupted prompts with answers.
        site: as for `sweep`.
        layer: which block.
        example: which pair.
        position: index on the position axis that the pairs share (at "pattern" the destination);
            None, for heads and neurons, for all.
        head: which head, at sites that have them; all if left out.
        neurons: which neurons, at "mlp_act"; all if left out.
        attended: at "pattern" the position attended to; all if left out.
        direction: as for `sweep`.
        k: how many of the likeliest tokens to keep.

    Returns:
        top_token, top_prob (run, k) for run "clean", "corrupt" and "patched"; answer_rank,
        answer_prob and answer_logit (run) of the answer's first token, and foil_prob and
        foil_logit (run) where there are foils.

    Raises:
        SiteError: no such site, layer, head, position or direction, or the pair has no token at
            the position.
        PromptError: no such pair.
    """
    chosen = check_direction(direction, "other")
    if not 0 <= example < len(pairs):
        raise PromptError(f"There is no pair {example}: pairs count from 0 to {len(pairs) - 1}.")
    if all(where is None for where in (position, head, neurons, attended)):
        raise SiteError("Say what to patch: position=…, or head=… at a site with heads.")
    at, to = (_at(pairs, example, where) for where in (position, attended))
    one = Patch(Site(site, layer, head), at, neurons, to)
    table, _ = tabulate(model, pairs.alignment, places(pairs, chosen, constant=False), [[one]])
    rows = np.nonzero(table.example == example)[0]
    if len(rows) == 0:
        raise _nothing_there(pairs, example, position, attended)
    changes, last = table.select(rows), Site("resid_post", model.n_layers - 1)
    base, source = (Scorer(model, pairs.reading(run, "prompt"), ()) for run in RUNS[chosen])
    runs = TwoRuns(model, pairs, chosen, base, source)
    with model.lock:
        recordings = tuple(
            record(model, reading.ids[example : example + 1], {*sites, last})
            for reading, sites in zip(
                runs.readings, (needed(model.n_layers, changes), changes.sites), strict=True
            )
        )
        hidden = walk(runs, (recordings[0], recordings[1]), changes, example)

    def after(run: Run, final: Tensor) -> Tensor:
        return readout(model, final[0, int(pairs.prompts(run).lengths[example]) - 1])

    streams = {
        run: recording[last] for run, recording in zip(RUNS[chosen], recordings, strict=True)
    }
    logits = [
        after("clean", streams["clean"]),
        after("corrupt", streams["corrupt"]),
        after(RUNS[chosen][0], hidden),
    ]
    return _label(model, pairs, example, torch.stack(logits).cpu(), k)


def _at(pairs: PromptPairs, example: int, position: int | None) -> list[int] | None:
    if position is not None and not 0 <= position < len(pairs.alignment):
        raise _nothing_there(pairs, example, position)
    return None if position is None else [position]


def _nothing_there(
    pairs: PromptPairs, example: int, position: int | None, attended: int | None = None
) -> SiteError:
    if attended is not None:
        where = "" if position is None else f" at position {position}"
        return SiteError(
            f"Pair {example} has no token{where} that could attend to one at position {attended}; "
            "choose an earlier one to attend to."
        )
    return SiteError(
        f"Pair {example} has no token at position {position}; choose another of "
        f"{', '.join(pairs.positions)}."
    )


def _label(model: Model, pairs: PromptPairs, example: int, logits: Tensor, k: int) -> xr.Dataset:
    """Names on logits [run, vocabulary]."""
    probability = logits.softmax(-1)
    top = probability.topk(min(k, model.d_vocab), dim=-1)
    tokens = np.array([model.token_strings(row) for row in top.indices.tolist()], dtype=object)
    answer = int(pairs.first_tokens("answer")[example])
    variables = {
        "top_token": (("run", "k"), tokens),
        "top_prob": (("run", "k"), top.values.numpy()),
        "answer_rank": ("run", (logits > logits[:, answer : answer + 1]).sum(1).numpy()),
        "answer_prob": ("run", probability[:, answer].numpy()),
        "answer_logit": ("run", logits[:, answer].numpy()),
    }
    if pairs.foil_ids is not None:
        pairs.check_first_tokens([example])
        foil = int(pairs.first_tokens("foil")[example])
        variables["foil_prob"] = ("run", probability[:, foil].numpy())
        variables["foil_logit"] = ("run", logits[:, foil].numpy())
    return xr.Dataset(
        variables,
        coords={"run": ["clean", "corrupt", "patched"]},
        attrs={
            "instrument": "activation patching, one patch",
            **model.identity,
        },
    )
