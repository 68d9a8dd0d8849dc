"""A sweep cut into slices of a few examples each, which run wherever an executor says.

How it is cut depends on the model and the cells alone, so that every executor, with any number of
workers, computes the same batches and gives the same numbers.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from interp.errors import MetricError
from interp.execute import Executor, Unit, Workers, execute
from interp.execute.recipe import on_model
from interp.metrics import Metric
from interp.model.model import Model
from interp.patching.cells import Cells
from interp.patching.refine import cells_at, chosen_at, ranked, with_exact
from interp.patching.request import Request
from interp.patching.results import label
from interp.patching.runner import Scores, score
from interp.patching.table import Mask
from interp.patching.values import RUNS, Constants, Direction, Progress
from interp.prompts.pairs import PromptPairs, Run

# A slice has about so many cells, which fill a batch, and so much to compute (multiplications and
# additions), which is a tenth of a second on a core and outweighs running the prompts.
CELLS_PER_SLICE = 256
OPERATIONS_PER_SLICE = 4e9

Table = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Slice:
    """The part of a sweep that is about some of the examples: a request without its model.

    Attributes:
        chosen: the cells to run [cell, layer]; all if None.
        batch_size: rows in one pass; from a memory estimate if None.
    """

    pairs: PromptPairs
    site: str
    metric: Metric
    direction: Direction
    layers: tuple[int, ...]
    cells: Cells
    constants: Constants | None
    source: str
    chosen: Mask | None
    batch_size: int | None

    @classmethod
    def of(
        cls,
        request: Request,
        examples: range,
        chosen: Mask | None = None,
        batch_size: int | None = None,
    ) -> Slice:
        """The part about `examples`; `chosen` of the cells of the whole sweep."""
        constants = request.constants
        return cls(
            request.pairs.subset(examples),
            request.site,
            request.metric,
            request.direction,
            request.layers,
            request.cells.subset(examples),
            None if constants is None else {site: v.cpu() for site, v in constants.items()},
            request.source,
            None if chosen is None else chosen[request.cells.of_examples(examples)],
            batch_size,
        )

    def __call__(self, model: Model) -> tuple[Table, dict[Run, Scores]]:
        """Run it; see `run_cells`."""
        constants = self.constants
        if constants is not None:
            constants = {
                site: v.to(device=model.device, dtype=model.dtype) for site, v in constants.items()
            }
        request = Request(
            model,
            self.pairs,
            self.site,
            self.metric,
            self.direction,
            self.layers,
            self.cells,
            constants,
            self.source,
        )
        return run_cells(request, self.chosen, self.batch_size, None)


def run_cells(
    request: Request, chosen: Mask | None, batch_size: int | None, progress: Progress | None
) -> tuple[Table, dict[Run, Scores]]:
    """Run cells of a sweep.

    Returns:
        The patched metric [cell, layer], 0 where a cell was not chosen, and the metric of the two
        runs as they are [example].
    """
    changes, cell, layer = request.cells.table(request.site, request.layers, chosen)
    scores, unpatched = score(request.all_runs(batch_size), changes, progress)
    table = np.zeros((len(request.cells), len(request.layers)), dtype=np.float32)
    table[cell, layer] = scores
    return table, unpatched


def sweep_slices(
    request: Request,
    executor: Executor | Workers,
    only: int | None,
    batch_size: int | None,
    progress: Progress | None,
) -> xr.Dataset:
    """As `sweep`, of a request that was checked. With `only` the estimate is made here.

    Raises:
        MetricError: the metric cannot be sent to workers.
        ExecutionError, ModelError: see `execute` and `ModelRecipe`.
    """
    if executor.kind != "serial":
        _check_sendable(request.metric)
    if only is None:
        table, unpatched = _run_slices(request, executor, None, batch_size, progress)
        return label(request, request.cells.to_grid(table, len(request.pairs)), unpatched)
    estimated, order = ranked(request, only)
    exact = np.zeros(estimated["patched"].shape[1:], dtype=np.bool_)
    if not len(order):
        return with_exact(estimated, exact)
    exact.flat[order] = True
    chosen = chosen_at(request.cells, exact.shape, order)
    table, unpatched = _run_slices(request, executor, chosen, batch_size, progress)
    patched = np.where(
        cells_at(request.cells, chosen, len(request.pairs)),
        request.cells.to_grid(table, len(request.pairs)),
        estimated["patched"].values,
    )
    return with_exact(label(request, patched, unpatched), exact)


def _run_slices(
    request: Request,
    executor: Executor | Workers,
    chosen: Mask | None,
    batch_size: int | None,
    progress: Progress | None,
) -> tuple[Table, dict[Run, Scores]]:
    """As `run_cells`, slice by slice."""
    cells, n = request.cells, len(request.pairs)
    every = np.ones((len(cells), len(request.layers)), dtype=np.bool_)
    count = (every if chosen is None else chosen).sum(1)  # [cell]
    table = np.zeros(every.shape, dtype=np.float32)
    unpatched: dict[Run, Scores] = {run: np.zeros(n, np.float32) for run in RUNS[request.direction]}
    slices = {f"{part.start}-{part.stop}": part for part in _cut(request, int(count.sum()))}
    units = [Unit(i, Slice.of(request, part, chosen, batch_size)) for i, part in slices.items()]
    reads, done = len(request.metric.reads), 0
    with closing(execute(units, on_model(request.model, executor), executor)) as results:
        for name, (part, scores) in results:
            examples = slices[name]
            mine = cells.of_examples(examples)
            table[mine] = part
            for run, values in scores.items():
                unpatched[run][examples.start : examples.stop] = values
            done += reads * int(count[mine].sum())
            if progress:
                progress(done, reads * int(count.sum()))
    return table, unpatched


def _cut(request: Request, n_cells: int) -> Iterator[range]:
    """The examples of each slice."""
    n = len(request.pairs)
    cells = max(1.0, n_cells / n)  # of one example
    length = request.pairs.clean.ids.shape[1]
    operations = 2.0 * request.model.n_parameters * length * cells
    slices = math.ceil(n / max(1.0, CELLS_PER_SLICE / cells, OPERATIONS_PER_SLICE / operations))
    for number in range(slices):
        yield range(number * n // slices, (number + 1) * n // slices)


def _check_sendable(metric: Metric) -> None:
    try:
        pickle.dumps(metric)
        homes = {getattr(term.score, "__module__", None) for term in metric.terms}
        sendable = "__main__" not in homes
    except Exception:  # what pickle raises depends on what it stumbles over
        sendable = False
    if not sendable:
        raise MetricError(
            f"The metric '{metric.name}' cannot be sent to workers; write its scores as functions "
            "in a module that they can import, or use the executor 'serial'."
        )
