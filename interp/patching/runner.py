"""Scores of many patched runs, in batches that fit into memory.

The prompts are run once each; then the patched runs walk up the blocks together. The unembedding
is applied only where the metric reads. The numbers are those of one full forward pass for each
patched run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interp.errors import ArgumentError
from interp.forward.passes import Recording, packs, recording_memory
from interp.forward.together import Ask, Together, record_all
from interp.metrics import Scorer
from interp.model.memory import batches, rows_that_fit
from interp.patching.table import EditTable
from interp.patching.values import Runs
from interp.patching.walk import needed, walk
from interp.progress import Progress
from interp.prompts.pairs import Run
from interp.sites import Site, width_at

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NextTokens:
    """The likeliest next tokens after some prompts, likeliest first.

    Attributes:
        ids: token ids [row, k].
        probabilities: of each [row, k].
    """

    ids: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, n: int, k: int) -> NextTokens:
        return cls(np.zeros((n, k), np.int64), np.zeros((n, k), np.float32))

    def put(self, rows: slice | npt.NDArray[np.int64], found: tuple[Tensor, Tensor]) -> None:
        self.ids[rows], self.probabilities[rows] = (values.cpu().numpy() for values in found)


class Runner:
    """Scores patched runs, as all that the metric is read from."""

    def __init__(
        self,
        all_runs: Sequence[Runs],
        changes: EditTable,
        batch_size: int | None = None,
        next_tokens: int = 0,
    ) -> None:
        """What is to be scored.

        Args:
            all_runs: for each kind of sequence that the metric is read from; scores are added.
            changes: all that will be asked for, together or a part at a time.
            batch_size: rows in one pass; None for as many as fit.
            next_tokens: how many of the likeliest next tokens to keep as well.

        Raises:
            ArgumentError: not even one row in one pass.
        """
        if batch_size is not None and batch_size < 1:
            raise ArgumentError(
                f"A pass has at least one row, so batch_size={batch_size} is none; leave it out "
                "for as many as fit."
            )
        # What follows a prompt is the same whatever is forced after it.
        kept = [next_tokens, *(0 for _ in all_runs[1:])]
        self._parts = [
            Part(runs, changes, batch_size, k) for runs, k in zip(all_runs, kept, strict=True)
        ]

    @property
    def next_tokens(self) -> tuple[NextTokens, NextTokens]:
        """After each patched run that was scored last, and after each prompt as it is."""
        return self._parts[0].patched_tokens, self._parts[0].unpatched_tokens

    def score(
        self, changes: EditTable, progress: Progress | None
    ) -> tuple[Scores, dict[Run, Scores]]:
        """Scores of all patched runs [row] and of the runs as they are [example].

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


@dataclass(frozen=True)
class _Recorded:
    """The runs as they are.

    Attributes:
        recordings: of the run that is changed and, where there is one, of the other.
        together: what fills them block by block, if they are not filled yet.
    """

    recordings: tuple[Recording, ...]
    together: Together | None = None


class Part:
    """The same of one kind of sequence.

    Attributes:
        unpatched: scores of the runs as they are [example]; there once `scores` was called.
        unpatched_tokens, patched_tokens: what comes next after the prompts of the run that is
            changed, as it is and as it was changed in the last call of `scores`.
    """

    def __init__(
        self, runs: Runs, changes: EditTable, batch_size: int | None, next_tokens: int
    ) -> None:
        self.runs = runs
        self.k = next_tokens
        self.unpatched_tokens = NextTokens.empty(len(runs), next_tokens)
        self.patched_tokens = NextTokens.empty(0, next_tokens)
        self.batch_size = batch_size
        self.unpatched: dict[Run, Scores] = {
            run: np.zeros(len(runs), np.float32) for run in runs.scored
        }
        n_layers = runs.model.n_layers
        self._last = Site("resid_post", n_layers - 1)
        self._base_sites = needed(n_layers, changes) | {self._last}
        self._source_sites = {*(changes.sites if runs.copies else ()), self._last}
        # Where all examples fit into memory together, they are run only once.
        self._kept: tuple[Recording, ...] | None = None

    def scores(self, changes: EditTable, progress: Callable[[int], None]) -> Scores:
        """The score of each patched run [row]; `progress` gets how many are done."""
        out = np.zeros(len(changes), np.float32)
        self.patched_tokens = NextTokens.empty(len(changes), self.k)
        done = 0
        for start, stop, recorded in self._recorded():
            mine = np.nonzero((changes.example >= start) & (changes.example < stop))[0]
            part, order = changes.select(mine).sorted()
            for first, beyond, (scores, tokens) in self._patched(recorded, part, start):
                rows = mine[order[first:beyond]]
                out[rows] = scores.cpu().numpy()
                if tokens is not None:
                    self.patched_tokens.put(rows, tokens)
                progress(done + beyond)
            done += len(mine)
        return out

    def _recorded(self) -> Iterator[tuple[int, int, _Recorded]]:
        """Recordings of the run that is changed and of the other, examples by examples.

        Where blocks are not in memory they may have only begun: what walks up takes them along.
        """
        runs, model = self.runs, self.runs.model
        if self._kept is not None:
            yield 0, len(runs), _Recorded(self._kept)
            return
        base, *others = (scorer.reading.ids for scorer in runs.scored.values())
        packable = packs(model, base)

        def work(start: int, stop: int) -> _Recorded:
            mine = Ask(base[start:stop], frozenset(self._base_sites), for_packing=packable)
            theirs = [Ask(ids[start:stop], frozenset(self._source_sites)) for ids in others]
            together = Together.of(model, [mine, *theirs])
            if together is None:
                return _Recorded(record_all(model, [mine, *theirs]))
            return _Recorded(together.recordings, together)

        for start, stop, recorded in batches(len(runs), self.examples_that_fit(), work):
            if recorded.together is None:
                self._read_unpatched(start, recorded.recordings)
            yield start, stop, recorded
            if recorded.together is not None:
                recorded.together.finish()
                self._read_unpatched(start, recorded.recordings)
            if stop - start == len(runs):
                self._kept = recorded.recordings

    def _read_unpatched(self, start: int, recordings: tuple[Recording, ...]) -> None:
        for (run, scorer), recording in zip(self.runs.scored.items(), recordings, strict=True):
            stop = start + recording.batch
            scores, tokens = self._read(scorer, recording[self._last], torch.arange(start, stop))
            self.unpatched[run][start:stop] = scores.cpu().numpy()
            if scorer is self.runs.base and tokens is not None:
                self.unpatched_tokens.put(slice(start, stop), tokens)

    def examples_that_fit(self) -> int:
        model, length = self.runs.model, self.runs.length
        sites = [*self._base_sites, *self._source_sites]
        width = sum(width_at(model, site.name, length) for site in sites)
        # Keys, values and what attention adds are kept as well, of the run that is changed.
        streams = -(-width // model.d_model) + 3 * model.n_layers
        return rows_that_fit(model, 2 * recording_memory(model, length, streams))

    def _patched(
        self, recorded: _Recorded, changes: EditTable, offset: int
    ) -> Iterator[tuple[int, int, tuple[Tensor, tuple[Tensor, Tensor] | None]]]:
        runs = self.runs
        together = recorded.together
        rows = at_once = self.batch_size
        if rows is None:
            rows = rows_that_fit(runs.model, runs.model.memory_per_row(runs.length))
            if runs.model.elsewhere is not None:
                # A block that must be brought is to be brought once: it takes the rows in parts,
                # and of all of them nothing but streams is in memory.
                at_once, rows = max(1, rows // 2), rows_that_fit(runs.model, self.streams())
        ahead = None if together is None else together.pass_block

        def work(first: int, beyond: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
            part = changes.select(np.arange(first, beyond))
            hidden = walk(runs, recorded.recordings, part, offset, ahead=ahead, at_once=at_once)
            return self._read(runs.base, hidden, torch.from_numpy(part.example))

        return batches(len(changes), rows, work)

    def streams(self) -> int:
        """Bytes that one row takes between blocks, where each may be a part of two batches."""
        model = self.runs.model
        return 8 * self.runs.length * model.d_model * model.dtype.itemsize

    def _read(
        self, scorer: Scorer, hidden: Tensor, examples: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        scores = scorer.value(hidden, examples)
        return scores, scorer.next_tokens(hidden, examples, self.k) if self.k else None
