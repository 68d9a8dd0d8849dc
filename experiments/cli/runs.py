"""`obverse runs`: what has been run."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.table import Table

from experiments.cli import options
from experiments.cli.console import guarded, output, say, visible, warn

if TYPE_CHECKING:
    from experiments.records import RunRecord

__all__ = ["runs"]


@guarded()
def runs(
    root: options.Runs = options.DEFAULT_RUNS,
) -> None:
    """List the runs, the newest first, with their verdicts.

    Example:

    - `obverse runs --root runs`
    """
    from experiments.errors import StorageError
    from experiments.records import list_runs

    if root != options.DEFAULT_RUNS and not root.is_dir():
        raise StorageError(f"There is no folder '{root}'; check the path.")
    found = list_runs(root, on_skip=lambda _, reason: warn(f"skipped: {reason}"))
    if not found:
        say(f"There are no runs in '{root}'; start one with 'obverse run reversal-curse'.")
        return
    table = Table("Run", "Started", "Status", "Verdicts", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for record in found:
        cells = (str(record.path), _started(record), _status(record), _outcomes(record))
        table.add_row(*(visible(cell) for cell in cells))
    output().print(table)


def _started(record: RunRecord) -> str:
    return f"{datetime.fromisoformat(record.provenance.started).astimezone():%Y-%m-%d %H:%M}"


def _status(record: RunRecord) -> str:
    if record.finished:
        return "finished"
    return f"not finished, {len(record.names())} results"


def _outcomes(record: RunRecord) -> str:
    by_outcome: dict[str, list[str]] = {}
    for verdict in record.verdicts:
        by_outcome.setdefault(verdict.outcome, []).append(verdict.id)
    return "; ".join(f"{outcome}: {', '.join(ids)}" for outcome, ids in by_outcome.items())
