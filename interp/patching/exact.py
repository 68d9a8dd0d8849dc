"""Exact activation patching (Vig et al. 2020; Meng et al. 2022), many cells in one pass.

The prompts are run once each. Then the stack of blocks is walked with a batch that grows: cells
patched at layer l join it just before block l, in the state that the unpatched run had there, so
that nothing below a patch is computed again, nor anything before its position. The numbers are
those of one full forward pass for each cell. Where all cells are too many, they are estimated, and
those that matter most are run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from typing_extensions import Unpack

from cache.arguments import typed
from interp.errors import SiteError
from interp.execute import Executor, Workers
from interp.metrics import Metric
from interp.model.model import Model
from interp.patching.cells import Cells, Grid
from interp.patching.estimates import CHECKED, DEFAULT, How, Method, estimated, measured
from interp.patching.request import Options, Request
from interp.patching.results import label
from interp.patching.runner import Scores
from interp.patching.slices import RunCells, run_here, run_slices
from interp.patching.table import Indices, Mask
from interp.patching.values import RUNS
from interp.progress import Progress
from interp.prompts.pairs import PromptPairs, Run

# Partial results come at most so many times: each is a copy of the whole result.
_STEPS = 12


@typed
def sweep(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    only: int | None = None,
    method: Method | None = None,
    batch_size: int | None = None,
    executor: Executor | Workers | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Replace one activation at a time and read the metric.

    Args:
        model: the model.
        pairs: clean and corrupted prompts with answers.
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_act", "q", "k",
            "v", "z", "pattern".
        metric: what to read, or its name.
        only: run only so many places (layer × the axes of `by`, each for all pairs), those with
            the largest estimated effect; the others keep their estimate, exact(layer, …) tells
            which is which, and the attributes how well estimates agree with runs. With prompts
            below some 20 tokens all cells cost no more. See `refine` for partial results.
        method: of these estimates, as for `estimate`; with `only`.
        batch_size: rows in one pass; from a memory estimate if left out. The result does not
            depend on it beyond rounding.
        executor: where to run it, in slices of a few pairs each; in one piece in this process if
            left out. The result does not depend on it beyond rounding, and not at all on the kind
            of executor or the number of workers. Workers load the model themselves.
        progress: called with (cells done, cells in all).
        **options: what is replaced, and with what: see `Options`.

    Returns:
        patched(example, layer, …): the raw metric after each patch, along the axes that `by`
        names, NaN where an example has no token (in patterns: where the source would come after
        the destination); clean(example) and corrupt(example): the metric of the unpatched runs.
        Coordinates name tokens, prompts and answers. Where two prompts of a pair are of unequal
        length, tokens without a counterpart are never replaced; nor are those of a continuation
        that the metric forces after the prompt.

    Raises:
        SiteError: unknown or missing site, layer, head or neuron out of range, no heads there,
            a site at which this architecture drops edits, or a method where nothing is estimated.
        PromptError: position out of range, or the metric needs foils that are not given.
        MetricError: there is no such metric, or it cannot be sent to workers.
        ModelError: workers cannot load the model, or find another one.
        ExecutionError: workers died, or Ray cannot be reached.
    """
    request = Request.of(model, pairs, site, metric, options)
    if only is None and method is not None:
        raise SiteError(f"Nothing is estimated by '{method}' in a sweep of all cells; give only=….")
    run = None if executor is None else run_slices(model, request, batch_size, executor)
    if only is not None:
        how = _checked(model, request, only, method or DEFAULT)
        *_, last = _refined(model, request, how, only, batch_size, progress, run)
        return last.labelled(model, request)
    every = request.cells.every
    run = run or run_here(model, request, batch_size, every)
    return label(model, request, *run(every, progress))


@typed
def refine(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    only: int | None = None,
    method: Method = DEFAULT,
    batch_size: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Iterator[xr.Dataset]:
    """Estimate all cells, then run those with the largest estimated effect, largest first.

    Arguments that are not listed are those of `sweep`; the metric must have a gradient.

    Args:
        only: how many places (layer × the axes of `by`) to run, each for all pairs; all if left
            out.
        method: of the estimates, as for `estimate`.
        progress: called with (places run, places to run).
        **options: what is replaced, and with what: see `Options`.

    Yields:
        What `sweep` returns, with exact(layer, …): whether these cells were run, or are only
        estimated; and in attrs how well estimates agree with a few cells, as for `estimate`. The
        first result is the estimate alone; in each further one more cells are exact, those with
        the largest mean |estimated change| over the pairs first.

    Raises:
        SiteError, PromptError, MetricError: as for `sweep` and `estimate`, before the first result.
    """
    request = Request.of(model, pairs, site, metric, options)
    how = _checked(model, request, only, method)
    steps = _refined(model, request, how, only, batch_size, progress)
    return (step.labelled(model, request) for step in steps)


def _checked(model: Model, request: Request, only: int | None, method: Method) -> How:
    if only is not None and only < 0:
        raise SiteError(f"{only} cells cannot be run; give a number from 0 on, or leave it out.")
    if request.metric.name == "rank":
        raise SiteError("A rank has no gradient to choose cells by; sweep all, or another metric.")
    return How.of(model, request, method)


@dataclass(frozen=True)
class _Step:
    """What `refine` gives: the metric of all cells and runs, and which cells were run.

    Attributes:
        noted: how the others were estimated, and how well that agrees with cells run to tell it.
    """

    patched: Grid
    unpatched: dict[Run, Scores]
    exact: Mask
    noted: dict[str, float | int | str]

    def labelled(self, model: Model, request: Request) -> xr.Dataset:
        found = label(model, request, self.patched, self.unpatched, self.exact)
        return found.assign_attrs(self.noted)


def _refined(
    model: Model,
    request: Request,
    how: How,
    only: int | None,
    batch_size: int | None,
    progress: Progress | None,
    run: RunCells | None = None,
) -> Iterator[_Step]:
    """The numbers of `refine`; where something else is to `run` cells, it is given all at once."""
    cells = request.cells
    patched, unpatched = estimated(model, request, None, how)
    base = unpatched[RUNS[request.direction][0]]
    trust = measured(model, request, patched, base, CHECKED)
    noted = {"estimated_by": how.name, **({} if trust is None else trust.attrs)}
    order = _ranked(cells, patched - base.reshape(-1, *(1,) * (patched.ndim - 1)))[:only]
    exact = np.zeros(patched.shape[1:], dtype=np.bool_)
    yield _Step(patched, unpatched, exact.copy(), noted)
    if not len(order):
        return
    parts = [order] if run else np.array_split(order, min(_STEPS, len(order)))
    steps = run or run_here(model, request, batch_size, cells.at(order))
    done = 0
    for part in parts:

        def report(n: int, of: int, before: int = done, count: int = len(part)) -> None:
            if progress:
                progress(before + n * count // of, len(order))

        chosen = cells.at(part)
        found, unpatched = steps(chosen, progress if run else report)
        patched = np.where(cells.where(chosen), found, patched)
        exact.flat[part] = True
        done += len(part)
        yield _Step(patched, unpatched, exact.copy(), noted)


def _ranked(cells: Cells, change: Grid) -> Indices:
    """The places of the flattened [layer, *axes] that some pair has, by their estimated change."""
    there = cells.where(cells.every)
    # Places that no pair has come last, and are never run; those whose estimate failed come first.
    size = np.where(there, np.where(np.isnan(change), np.inf, np.abs(change)), 0.0).sum(0)
    size /= np.maximum(there.sum(0), 1)
    order = np.argsort(-np.where(there.any(0), size, -1.0), axis=None, kind="stable")
    return order[: int(there.any(0).sum())]
