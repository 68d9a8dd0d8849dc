"""One patch, with the whole distribution of the next token before and after."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import sites as site_names
from interp.errors import PromptError, SiteError
from interp.forward import Recording, hooked, readout, record, resume
from interp.model import Model
from interp.patching.cells import By, Edit, edit_for, lay_out
from interp.patching.walk import RUNS
from interp.prompts import PromptPairs, Run
from interp.sites import Site


def patch_once(
    model: Model,
    pairs: PromptPairs,
    site: str,
    layer: int,
    *,
    example: int = 0,
    position: int | None = None,
    head: int | None = None,
    direction: str = "denoising",
    k: int = 10,
) -> xr.Dataset:
    """Replace one activation of one pair, and read the next token in all three runs.

    Args:
        model: the model.
        pairs: clean and corrupted prompts with answers.
        site: "resid_pre", "resid_post", "attn_out", "mlp_out", "q", "k", "v" or "z".
        layer: which block.
        example: which pair.
        position: index on the position axis that the pairs share; None, for a head, for all.
        head: which head, at sites that have them.
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
    site_names.check(model, Site(site, layer, head))
    if direction not in RUNS:
        raise SiteError(f"Unknown direction '{direction}'; choose 'denoising' or 'noising'.")
    if not 0 <= example < len(pairs):
        raise PromptError(f"There is no pair {example}: pairs count from 0 to {len(pairs) - 1}.")
    base_run, source_run = RUNS[direction]
    last = Site("resid_post", model.n_layers - 1)
    entry = Site("resid_pre", layer)
    with model.lock:
        recordings = {
            run: record(
                model,
                pairs.prompts(run).ids[example : example + 1],
                {entry, last, Site(site, layer)},
            )
            for run in (base_run, source_run)
        }
        edit = _edit(model, pairs, site, example, position, head, direction)
        hidden = _patched(
            model,
            recordings[base_run],
            recordings[source_run][Site(site, layer)],
            edit,
            site,
            layer,
        )

    def after(run: Run, final: Tensor) -> Tensor:
        return readout(model, final[0, int(pairs.prompts(run).lengths[example]) - 1])

    logits = [
        after("clean", recordings["clean"][last]),
        after("corrupt", recordings["corrupt"][last]),
        after(base_run, hidden),
    ]
    return _label(model, pairs, example, torch.stack(logits).cpu(), k)


def _edit(
    model: Model,
    pairs: PromptPairs,
    site: str,
    example: int,
    position: int | None,
    head: int | None,
    direction: str,
) -> Edit:
    axes: tuple[By, ...] = ("position",) if position is not None else ()
    axes += ("head",) if head is not None else ()
    if not axes:
        raise SiteError("Say what to patch: position=…, or head=… at a site with heads.")
    cells = lay_out(model, pairs.alignment, site, axes, len(pairs))
    wanted = (cells.example == example) & (cells.head == (-1 if head is None else head))
    if position is not None:
        wanted &= cells.group == position
    chosen = np.nonzero(wanted)[0]
    if len(chosen) == 0:
        raise SiteError(
            f"Pair {example} has no token at position {position}; choose another of "
            f"{', '.join(pairs.positions)}."
        )
    slots = {"clean": pairs.alignment.clean, "corrupt": pairs.alignment.corrupt}
    base, source = RUNS[direction]
    return edit_for(cells, chosen, slots[base], slots[source], example, model.device)


def _patched(
    model: Model, base: Recording, values: Tensor, edit: Edit, site: str, layer: int
) -> Tensor:
    """The final residual stream [1, position, d_model] of the changed run."""
    row = torch.zeros(1, dtype=torch.long, device=model.device)
    if site == "resid_post":
        hidden = base[Site("resid_pre", layer)]
        hidden = resume(model, base, hidden, row, start=layer, stop=layer + 1)
        edit.write(hidden, values)
        return resume(model, base, hidden, row, start=layer + 1)
    hidden = base[Site("resid_pre", layer)].clone()
    if site == "resid_pre":
        edit.write(hidden, values)
        return resume(model, base, hidden, row, start=layer)

    with hooked([(site_names.hook_point(model, Site(site, layer)), edit.hook(site, values))]):
        return resume(model, base, hidden, row, start=layer)


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
