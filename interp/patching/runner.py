"""Scores of many patched runs, in batches that fit into memory.

The prompts are run once each; then the patched runs walk up the blocks together. The unembedding
is applied only where the metric reads. The numbers are those of one full forward pass for each
patched run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from interp.forward.passes import Recording, packs, record, recording_memory
from interp.model.memory import batches, rows_that_fit
from interp.patching.table import EditTable
from interp.patching.values import RUNS, TwoRuns
from interp.patching.walk import needed, walk
from interp.progress import Progress
from interp.prompts.pairs import Run
from interp.sites import Site, width_at

Scores = npt.NDArray[np.float32]


class Runner:
    """Scores patched runs, as all that the metric is read from."""

    def __init__(
        self, all_runs: Sequence[TwoRuns], changes: EditTable, batch_size: int | None = None
    ) -> None:
        """What is to be scored.

        Args:
            all_runs: for each kind of sequence that the metric is read from; scores are added.
            changes: all that will be asked for, together or a part at a time.
            batch_size: rows in one pass; None for as many as fit.
        """
        self._parts = [_Part(runs, changes, batch_size) for runs in all_runs]

    def score(
        self, changes: EditTable, progress: Progress | None
    ) -> tuple[Scores, dict[Run, Scores]]:
        """Scores of all patched runs [row] and of the two runs as they are [example].

        Args:
            progress: called with (rows done, rows in all), counted for each kind of sequence.
        """
        total = np.zeros(len(changes), np.float32)
        unpatched: dict[Run, Scores] = {}
        for number, part in enumerate(self._parts):

            def report(done: int, before: int = number * len(changes)) -> None:
                if progress:
                    progress(before + done, len(self._parts) * len(changes))

            total += part.scores(changes, report)
            for run, scores in part.unpatched.items():
                unpatched[run] = unpatched.get(run, 0) + scores
        return total, unpatched


class _Part:
    """The same of one kind of sequence.

    Attributes:
        unpatched: scores of the two runs as they are [example]; there once `scores` was called.
    """

    def __init__(self, runs: TwoRuns, changes: EditTable, batch_size: int | None) -> None:
        self.runs = runs
        self.batch_size = batch_size
        self.unpatched: dict[Run, Scores] = {
            run: np.zeros(len(runs.pairs), np.float32) for run in RUNS[runs.direction]
        }
        n_layers = runs.model.n_layers
        self._last = Site("resid_post", n_layers - 1)
        self._base_sites = needed(n_layers, changes) | {self._last}
        copied = changes.sites if runs.constants is None else ()
        self._source_sites = {*copied, self._last}
        # Where all pairs fit into memory together, they are run only once.
        self._kept: tuple[Recording, Recording] | None = None

    def scores(self, changes: EditTable, progress: Callable[[int], None]) -> Scores:
        """The score of each patched run [row]; `progress` gets how many are done."""
        out = np.zeros(len(changes), np.float32)
        done = 0
        for start, stop, recordings in self._recorded():
            mine = np.nonzero((changes.example >= start) & (changes.example < stop))[0]
            part, order = changes.select(mine).sorted()
            for first, beyond, scores in self._patched(recordings, part, start):
                out[mine[order[first:beyond]]] = scores
                progress(done + beyond)
            done += len(mine)
        return out

    def _recorded(self) -> Iterator[tuple[int, int, tuple[Recording, Recording]]]:
        """Recordings of the run that is changed and of the other, pairs by pairs."""
        runs, model = self.runs, self.runs.model
        if self._kept is not None:
            yield 0, len(runs.pairs), self._kept
            return
        base, source = (reading.ids for reading in runs.readings)
        packable = packs(model, base)

        def work(start: int, stop: int) -> tuple[Recording, Recording]:
            return (
                record(model, base[start:stop], self._base_sites, for_packing=packable),
                record(model, source[start:stop], self._source_sites),
            )

        for start, stop, recordings in batches(len(runs.pairs), self._pairs_that_fit(), work):
            both = zip(RUNS[runs.direction], (runs.base, runs.source), recordings, strict=True)
            for run, scorer, recording in both:
                scores = scorer.value(recording[self._last], torch.arange(start, stop))
                self.unpatched[run][start:stop] = scores.cpu().numpy()
            if stop - start == len(runs.pairs):
                self._kept = recordings
            yield start, stop, recordings

    def _pairs_that_fit(self) -> int:
        model, length = self.runs.model, self.runs.length
        sites = [*self._base_sites, *self._source_sites]
        width = sum(width_at(model, site.name, length) for site in sites)
        # Keys, values and what attention adds are kept as well, of the run that is changed.
        streams = -(-width // model.d_model) + 3 * model.n_layers
        return rows_that_fit(model, 2 * recording_memory(model, length, streams))

    def _patched(
        self, recordings: tuple[Recording, Recording], changes: EditTable, offset: int
    ) -> Iterator[tuple[int, int, Scores]]:
        runs = self.runs

        def work(first: int, beyond: int) -> Scores:
            part = changes.select(np.arange(first, beyond))
            hidden = walk(runs, recordings, part, offset)
            found = runs.base.value(hidden, torch.from_numpy(part.example))
            return np.asarray(found.cpu().numpy(), dtype=np.float32)

        rows = self.batch_size or rows_that_fit(runs.model, runs.model.memory_per_row(runs.length))
        return batches(len(changes), rows, work)
