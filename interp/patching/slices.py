"""Where the cells of a sweep run: in this process, or in slices wherever an executor says.

A slice is of a few examples. How a sweep is cut depends on the model and the cells alone, so that
every executor, with any number of workers, computes the same batches and gives the same numbers.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import numpy as np

from interp.errors import MetricError
from interp.execute import Executor, Unit, Workers, execute
from interp.execute.recipe import on_model
from interp.metrics import Metric
from interp.model.model import Model
from interp.patching.cells import Grid
from interp.patching.request import Request
from interp.patching.runner import Runner, Scores
from interp.patching.table import Mask
from interp.patching.values import RUNS
from interp.progress import Progress, counter
from interp.prompts.pairs import Run

# A slice has about so many cells, which fill a batch, and so much to compute (multiplications and
# additions), which is a tenth of a second on a core and outweighs running the prompts.
CELLS_PER_SLICE = 256.0
OPERATIONS_PER_SLICE = 4e9

Scored = tuple[Grid, dict[Run, Scores]]
RunCells = Callable[[Mask, Progress | None], Scored]
"""Runs some cells [cell, layer]: the patched metric, with any value where a cell was not
chosen, and the metric of the two runs as they are [example]. Progress is told in cells."""


def run_here(model: Model, request: Request, batch_size: int | None, wanted: Mask) -> RunCells:
    """Runs cells in this process.

    Args:
        batch_size: rows in one pass; from a memory estimate if None.
        wanted: all cells that will be asked for [cell, layer], together or a part at a time.
    """
    cells = request.cells
    runner = Runner(request.all_runs(model), cells.table(wanted)[0], batch_size)

    def run(chosen: Mask, progress: Progress | None) -> Scored:
        changes, cell, layer = cells.table(chosen)
        values = np.zeros(chosen.shape, dtype=np.float32)
        values[cell, layer], unpatched = runner.score(changes, progress)
        return cells.grid(values), unpatched

    return run


def run_slices(
    model: Model, request: Request, batch_size: int | None, executor: Executor | Workers
) -> RunCells:
    """Runs cells slice by slice.

    Raises:
        MetricError: the metric cannot be sent to workers.
        ExecutionError, ModelError: see `execute` and `ModelRecipe`; when cells are run.
    """
    if executor.kind != "serial":
        _check_sendable(request.metric)
    cells, n = request.cells, len(request.pairs)

    def run(chosen: Mask, progress: Progress | None) -> Scored:
        total, reads = int(chosen.sum()), len(request.metric.reads)
        count = counter(progress, reads * total)
        grid = np.empty((n, len(cells.layers), *cells.shape), dtype=np.float32)
        unpatched: dict[Run, Scores] = {
            run: np.zeros(n, np.float32) for run in RUNS[request.direction]
        }
        slices = {f"{part.start}-{part.stop}": part for part in _cut(model, request, total)}
        mine = {i: chosen[cells.of_examples(part)] for i, part in slices.items()}
        units = [
            Unit(i, partial(_run_slice, request.part(part), mine[i], batch_size))
            for i, part in slices.items()
        ]
        with closing(execute(units, on_model(model, executor), executor)) as results:
            for name, (values, scores) in results:
                at = slice(slices[name].start, slices[name].stop)
                grid[at] = values
                for which, of_run in scores.items():
                    unpatched[which][at] = of_run
                count(reads * int(mine[name].sum()))
        return grid, unpatched

    return run


def _run_slice(request: Request, chosen: Mask, batch_size: int | None, model: Model) -> Scored:
    """What a worker does."""
    return run_here(model, request, batch_size, chosen)(chosen, None)


def _cut(model: Model, request: Request, n_cells: int) -> Iterator[range]:
    """The examples of each slice."""
    n = len(request.pairs)
    cells = max(1.0, n_cells / n)  # of one example
    length = request.pairs.clean.ids.shape[1]
    operations = 2.0 * model.n_parameters * length * cells
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
