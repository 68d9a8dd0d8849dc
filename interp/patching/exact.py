"""Exact activation patching (Vig et al. 2020; Meng et al. 2022), many cells in one pass.

The prompts are run once each. Then the stack of blocks is walked with a batch that grows: cells
patched at layer l join it just before block l, in the state that the unpatched run had there, so
that nothing below a patch is computed again, nor anything before its position. The numbers are
those of one full forward pass for each cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from cache.arguments import typed
from interp.execute import Executor, Workers
from interp.metrics import Metric
from interp.model.model import Model
from interp.patching.cells import By
from interp.patching.groups import Neurons
from interp.patching.refine import refined
from interp.patching.request import Request
from interp.patching.results import label
from interp.patching.slices import run_cells, sweep_slices
from interp.patching.values import Direction, Progress, Source
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts


@typed
def sweep(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    by: By | Sequence[By] | None = None,
    direction: Direction | None = None,
    source: Source = "other",
    reference: Prompts | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    neurons: Neurons | None = None,
    attended: Sequence[int | str] | None = None,
    only: int | None = None,
    batch_size: int | None = None,
    executor: Executor | Workers | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Replace one activation at a time and read the metric.

    Args:
        model: the model.
        pairs: clean and corrupted prompts with answers.
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "q", "k",
            "v", "z", "pattern".
        metric: what to read, or its name.
        by: one cell for each "position" (the default of sites without heads), "span", "head" (all
            positions together; the default of sites with heads), or ("head", "position"). At
            "mlp_act" also "neurons", alone (all positions together) or with a position or span. At
            "pattern" one or several of "head" (the default), "destination" and "source": what is
            not named is replaced together.
        direction: "denoising" (the default) puts clean activations into the corrupted run,
            "noising" corrupted ones into the clean run. With another source, the run that is
            changed: the corrupted one, or the clean one (the default there).
        source: what is put in: the "other" run's activation, "zero", the "mean" over the tokens of
            the `reference` prompts, or a value for each layer: {layer: [d_model]}, [neuron] at
            "mlp_act", or [head, d_head] at sites with heads. Patterns take "other" and "zero"; what
            is left of a pattern is not scaled up to sum to 1.
        reference: prompts for the mean.
        layers: the ones to patch; all if left out.
        heads: likewise.
        positions: the positions to patch, by number, label ("subject -1") or span ("subject");
            all if left out. At "pattern" they are the destinations.
        neurons: how many consecutive neurons make a group, or the neurons of each group; about 32
            groups if left out.
        attended: at "pattern" the sources to patch, named like `positions`; all if left out.
        only: run only so many places (layer × the axes of `by`, each for all pairs), those with
            the largest estimated effect; the others keep their first-order estimate, and
            exact(layer, …) tells which is which. See `refine` for partial results.
        batch_size: rows in one pass; from a memory estimate if left out. The result does not
            depend on it beyond rounding.
        executor: where to run it, in slices of a few pairs each; in one piece in this process if
            left out. The result does not depend on it beyond rounding, and not at all on the kind
            of executor or the number of workers. Workers load the model themselves.
        progress: called with (cells done, cells in all).

    Returns:
        patched(example, layer, …): the raw metric after each patch, along the axes that `by`
        names, NaN where an example has no token (in patterns: where the source would come after
        the destination); clean(example) and corrupt(example): the metric of the unpatched runs.
        Coordinates name tokens, prompts and answers. Where two prompts of a pair are of unequal
        length, tokens without a counterpart are never replaced; nor are those of a continuation
        that the metric forces after the prompt.

    Raises:
        SiteError: unknown or missing site, layer, head or neuron out of range, no heads there,
            or a site at which this architecture drops edits.
        PromptError: position out of range, or the metric needs foils that are not given.
        MetricError: there is no such metric, or it cannot be sent to workers.
        ModelError: workers cannot load the model, or find another one.
        ExecutionError: workers died, or Ray cannot be reached.
    """
    request = Request.of(
        model,
        pairs,
        site,
        metric,
        by=by,
        direction=direction,
        source=source,
        reference=reference,
        layers=layers,
        positions=positions,
        heads=heads,
        neurons=neurons,
        attended=attended,
    )
    if executor is not None:
        return sweep_slices(request, executor, only, batch_size, progress)
    if only is not None:
        *_, last = refined(request, only, batch_size, progress)
        return last
    patched, unpatched = run_cells(request, None, batch_size, progress)
    return label(request, request.cells.to_grid(patched, len(pairs)), unpatched)
