"""Estimates of all cells of a sweep, by the method that is asked for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr
from typing_extensions import Unpack

from cache.arguments import typed
from interp.errors import SiteError
from interp.kinds import site_kind
from interp.metrics import Metric
from interp.model.memory import batches
from interp.model.model import Model
from interp.patching.cells import Grid
from interp.patching.estimates import methods, rules
from interp.patching.estimates.both import Both, Moved, Needs, unpatched_scores
from interp.patching.estimates.columns import by_columns
from interp.patching.estimates.gradients import as_it_is
from interp.patching.estimates.trust import CHECKED, measured
from interp.patching.request import Options, Request
from interp.patching.results import label
from interp.patching.runner import Scores
from interp.patching.values import RUNS, TwoRuns
from interp.progress import Progress
from interp.prompts.pairs import PromptPairs, Run

Method = Literal["columns", "gradient", "integrated", "atp*", "relp"]
DEFAULT: Method = "columns"
"""The only one that agrees with sweeps at every site, architecture and task that was measured
(docs/instruments.md)."""
COLUMNS, STEPS = 2, 5


@typed
def estimate(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric | str = "logit_diff",
    *,
    method: Method = DEFAULT,
    steps: int | None = None,
    columns: int | None = None,
    check: int = CHECKED,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """What `sweep` would find, without running its cells, but for a few that it is held against.

    `patched` is the metric of the unpatched run plus the estimated change. With prompts below some
    20 tokens the default method costs as much as a sweep, which is exact: sweep these instead.

    Arguments that are not listed are those of `sweep`.

    Args:
        method: "columns", a few positions of each cell run, the others to first order: the default,
            which agreed with sweeps at all sites, architectures and tasks that were measured;
            "gradient", the difference of the activations times the metric's gradient (attribution
            patching, Nanda 2023); "integrated", times the mean gradient while all cells of a layer
            go over together, which costs less than the default where cells are many; "atp*", with
            attention computed anew for queries and keys, and GradDrop (Kramár et al. 2024); "relp",
            with relevance-style rules in the place of derivatives (Jafari et al. 2025).
        steps: gradients on the way, for "integrated"; 5 if left out.
        columns: positions that are run besides those the metric is read from, for "columns"; 2 if
            left out. With as many as a prompt has tokens, the estimate is a sweep.
        check: how many cells are run, to tell how well the estimate agrees with them.
        progress: called with (pairs done, pairs in all).
        **options: what is replaced, and with what: see `Options`.

    Returns:
        What `sweep` does. In attrs: agreement_cells, how many cells were run beside it;
        agreement_correlation with its ends _low and _high (95%, roughly), of the
        changes of all cells as these tell it; agreement_wrong_signs, likewise, the share of wrong
        signs among agreement_large cells that were drawn from the tenth with the largest estimates.
        Where too few were run, nothing is claimed, and the attribute is not there.

    Raises:
        SiteError, PromptError, MetricError: as for `sweep`; also for a method that does not know
            the site. `rank` has no gradient.
        ModelError: RelP has no rule for a part of the model.
    """
    request = Request.of(model, pairs, site, metric, options)
    how = How.of(model, request, method, steps=steps, columns=columns)
    patched, unpatched = estimated(model, request, progress, how)
    found = measured(model, request, patched, unpatched[RUNS[request.direction][0]], check)
    result = label(model, request, patched, unpatched, instrument=how.instrument)
    noted = {} if found is None else found.attrs
    return result.assign_attrs(estimated_by=how.name, **noted)


class How:
    """A method with its settings.

    Attributes:
        method: its name.
        size: of "columns" how many are run, of "integrated" the steps; 1 of the others.
    """

    def __init__(self, method: Method, size: int = 1) -> None:
        self.method: Method = method
        self.size = size

    @classmethod
    def of(
        cls,
        model: Model,
        request: Request,
        method: Method = DEFAULT,
        *,
        steps: int | None = None,
        columns: int | None = None,
    ) -> How:
        """What is asked for.

        Raises:
            SiteError: there is no such method or setting, or it does not know the site or metric.
        """
        if request.metric.name == "rank":
            raise SiteError("A rank has no gradient; estimate another metric, or sweep.")
        for name, given, of in (("steps", steps, "integrated"), ("columns", columns, "columns")):
            if given is not None and (method != of or given < 1):
                raise SiteError(
                    f"{name}={given} says nothing to the method '{method}'; it is a number from 1 "
                    f"on, for '{of}'."
                )
        if method == "relp":
            rules.check(model, request.cells.site)
        size = {"columns": columns or COLUMNS, "integrated": steps or STEPS}.get(method, 1)
        return cls(method, size)

    @property
    def name(self) -> str:
        """The method, with what it is set to."""
        more = f" {self.size}" if self.method in ("columns", "integrated") else ""
        return f"{self.method}{more}"

    @property
    def instrument(self) -> str:
        """As a result calls it."""
        return f"attribution patching, {self.name}"

    def needs(self, model: Model, request: Request) -> Needs:
        """What it wants of the two runs."""
        if self.method == "columns":
            return Needs(("z",), packing=True, rows=2)
        if self.method == "atp*":
            exact = site_kind(request.cells.site).makes_pattern
            return Needs(("z",) if exact else (), packing=exact, rows=2)
        if self.method == "relp":
            return Needs(readout=rules.frozen_readout(model))
        return Needs(rows=self.size)

    def moved(self, both: Both) -> Moved:
        """The change by each cell of these pairs."""
        if self.method == "columns":
            return by_columns(both, self.size)
        if self.method == "integrated":
            return methods.integrated(both, self.size)
        if self.method == "atp*":
            return methods.atp_star(both)
        rule = rules.relevance if self.method == "relp" else as_it_is
        return methods.first_order(both, rule)


def estimated(
    model: Model, request: Request, progress: Progress | None, how: How
) -> tuple[Grid, dict[Run, Scores]]:
    """The estimate of all cells, and the metric of the two runs as they are [example]."""
    n_pairs, all_runs, cells = len(request.pairs), request.all_runs(model), request.cells
    change = np.zeros(cells.every.shape, dtype=np.float32)
    names = RUNS[request.direction]
    unpatched: dict[Run, Scores] = {run: np.zeros(n_pairs, np.float32) for run in names}
    for number, runs in enumerate(all_runs):

        def work(start: int, stop: int, runs: TwoRuns = runs) -> tuple[Both, Moved]:
            both = Both.of(request, runs, start, stop, how.needs(model, request))
            return both, how.moved(both)

        size = how.needs(model, request).pairs_that_fit(cells, runs)
        for start, stop, (both, moved) in batches(n_pairs, size, work):
            change[both.mine] += moved
            for run, scores in zip(names, unpatched_scores(both), strict=True):
                unpatched[run][start:stop] += scores
            if progress:
                progress(number * n_pairs + stop, len(all_runs) * n_pairs)
    return cells.grid(unpatched[names[0]][cells.example][:, None] + change), unpatched
