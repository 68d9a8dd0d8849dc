"""Models put together of two: which parts come from where, and what such a model computes.

The two are run once each. A hybrid whose lower parts are all of one model and whose upper parts are
all of the other starts from the stream that was recorded at the seam; one with a single foreign
part starts at that part. All hybrids with the same upper model then walk up its blocks in one batch
that grows, so that nothing below a seam is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.comparison.pair import ModelPair
from interp.comparison.parts import (
    EMBEDDING,
    FINAL_NORM,
    UNEMBEDDING,
    Part,
    lent,
    parts_of,
)
from interp.errors import ModelError
from interp.forward.passes import (
    TOLERANCE,
    Recording,
    readout,
    record,
    recording_memory,
    relative_error,
    resume,
)
from interp.metrics import Metric, Scorer
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.prompts.pairs import PromptPairs
from interp.sites import Site

__all__ = ["Hybrid", "Scores", "score_hybrids"]

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, order=True)
class Hybrid:
    """A model whose upper parts are the receiver's.

    Attributes:
        start: the first block in which it is not one of the two models as they are; the number of
            blocks where that is behind them.
        lent: parts of that block that are the donor's.
        below: whose parts all those before it are.
        read: parts behind the blocks that are the donor's.
    """

    start: int
    lent: tuple[Part, ...] = ()
    below: Literal["donor", "receiver"] = "receiver"
    read: tuple[Part, ...] = ()

    @classmethod
    def single(cls, model: Model, part: Part) -> Hybrid:
        """The receiver with one part of the donor's."""
        if part == EMBEDDING:
            return cls(0, below="donor")
        if part.layer < 0:
            return cls(model.n_layers, read=(part,))
        return cls(part.layer, (part,))

    @classmethod
    def up_to(cls, model: Model, part: Part) -> Hybrid:
        """The receiver with the donor's parts from the embedding up to this one."""
        if part == EMBEDDING:
            return cls(0, below="donor")
        if part.layer < 0:
            read = (FINAL_NORM,) if part == FINAL_NORM else (FINAL_NORM, UNEMBEDDING)
            return cls(model.n_layers, below="donor", read=read)
        block = [one for one in parts_of(model) if one.layer == part.layer]
        if part == block[-1]:
            return cls(part.layer + 1, below="donor")
        return cls(part.layer, tuple(block[: block.index(part) + 1]), below="donor")


def score_hybrids(
    pair: ModelPair,
    pairs: PromptPairs,
    metric: Metric,
    hybrids: Sequence[Hybrid],
    count: Callable[[int], None],
) -> tuple[tuple[Scores, Scores], tuple[Scores, Scores]]:
    """The metric of the clean prompts under all hybrids, in both directions.

    Args:
        pair: both models, whose locks the caller holds.
        hybrids: as they are for either model as the receiver.
        count: called with how many more hybrids of an example have been scored.

    Returns:
        [hybrid, example] with the base as the receiver and with the tuned model; and [example] of
        both models as they are.

    Raises:
        ModelError: the parts are not all that tells the two models apart.
    """
    n = len(pairs)
    models = (pair.base, pair.tuned)
    sites = [entry(pair.base, block) for block in range(pair.base.n_layers + 1)]
    mixed = [np.zeros((len(hybrids), n), np.float32) for _ in models]
    plain = [np.zeros(n, np.float32) for _ in models]
    for read in metric.reads:
        reading = pairs.reading("clean", read)
        scorers = [Scorer.of(model, pairs, metric, read, reading) for model in models]

        def run(start: int, stop: int, ids: Tensor = reading.ids) -> list[Recording]:
            return [record(model, ids[start:stop], sites) for model in models]

        memory = 2 * recording_memory(pair.base, reading.ids.shape[1], len(sites))
        for start, stop, recordings in batches(n, rows_that_fit(pair.base, memory), run):
            if start == 0:
                _check_parts(models, recordings)
            examples = torch.arange(start, stop)
            for number, scorer in enumerate(scorers):
                last = recordings[number][sites[-1]]
                plain[number][start:stop] += scorer.value(last, examples).cpu().numpy()
                own, foreign = recordings[number], recordings[1 - number]
                walk = _Walk(models[number], models[1 - number], own, foreign, scorer, start)
                mixed[number][:, start:stop] += walk.scores(hybrids, count)
    return (mixed[0], mixed[1]), (plain[0], plain[1])


def entry(model: Model, block: int) -> Site:
    """The stream into a block; behind the last one, out of it."""
    last = model.n_layers - 1
    return Site("resid_pre", block) if block <= last else Site("resid_post", last)


@dataclass(frozen=True)
class _Walk:
    """Hybrids of one receiver, for some examples."""

    receiver: Model
    donor: Model
    own: Recording
    foreign: Recording
    scorer: Scorer
    offset: int

    def scores(self, hybrids: Sequence[Hybrid], count: Callable[[int], None]) -> Scores:
        """[hybrid, example]."""
        # Those that start together stand together, and those that borrow the same parts.
        order = sorted(range(len(hybrids)), key=lambda i: _order(hybrids[i]))
        n = self.own.batch
        out = np.zeros((len(hybrids), n), np.float32)
        hybrid = torch.tensor(order).repeat_interleave(n)
        example = torch.arange(n).repeat(len(order))

        def work(first: int, beyond: int) -> Tensor:
            some = [hybrids[int(i)] for i in hybrid[first:beyond]]
            return self._value(some, example[first:beyond])

        length = self.scorer.reading.ids.shape[1]
        size = rows_that_fit(self.receiver, self.receiver.memory_per_row(length))
        for first, beyond, values in batches(len(hybrid), size, work):
            where = (hybrid[first:beyond].numpy(), example[first:beyond].numpy())
            out[where] = values.cpu().numpy()
            count(beyond - first)
        return out

    def _value(self, rows: Sequence[Hybrid], example: Int[Tensor, " row"]) -> Tensor:
        hidden = self._last_streams(rows, example.to(self.receiver.device))
        values = torch.empty(len(rows))
        for read in {row.read for row in rows}:
            mine = torch.tensor([number for number, row in enumerate(rows) if row.read == read])
            with lent(self.receiver, self.donor, read):
                found = self.scorer.value(
                    hidden[mine.to(hidden.device)], example[mine] + self.offset
                )
            values[mine] = found.cpu()
        return values

    def _last_streams(
        self, rows: Sequence[Hybrid], example: Int[Tensor, " row"]
    ) -> Float[Tensor, "row position d_model"]:
        n_layers = self.receiver.n_layers
        hidden: Tensor | None = None
        at = 0
        for block in range(rows[0].start, n_layers + 1):
            pieces = []
            if hidden is not None:
                pieces.append(self._through(block, hidden, example[:at], ()))
            while at < len(rows) and rows[at].start == block:
                first, parts = at, rows[at].lent
                while at < len(rows) and rows[at].start == block and rows[at].lent == parts:
                    at += 1
                entering = self._entering(block, rows[first:at], example[first:at])
                pieces.append(self._through(block, entering, example[first:at], parts))
            if pieces:
                hidden = torch.cat(pieces)
        assert hidden is not None
        return hidden

    def _through(
        self, block: int, hidden: Tensor, example: Tensor, parts: tuple[Part, ...]
    ) -> Tensor:
        if block == self.receiver.n_layers:
            return hidden
        with lent(self.receiver, self.donor, parts):
            return resume(self.receiver, self.own, hidden, example, start=block, stop=block + 1)

    def _entering(self, block: int, rows: Sequence[Hybrid], example: Tensor) -> Tensor:
        site = entry(self.receiver, block)
        foreign = torch.tensor([row.below == "donor" for row in rows], device=example.device)
        mine, theirs = (run[site].index_select(0, example) for run in (self.own, self.foreign))
        return torch.where(foreign[:, None, None], theirs, mine)


def _order(hybrid: Hybrid) -> tuple[int, tuple[str, ...], str, int]:
    return hybrid.start, tuple(p.name for p in hybrid.lent), hybrid.below, len(hybrid.read)


def _check_parts(models: Sequence[Model], recordings: Sequence[Recording]) -> None:
    """With all parts of a block lent, it must compute what the donor's does, on its own numbers.

    Otherwise something else tells the blocks apart: a setting, or what is in none of the parts.
    """
    rows = torch.zeros(1, dtype=torch.long, device=models[0].device)
    for receiver, donor, own, theirs in (
        (models[0], models[1], recordings[0], recordings[1]),
        (models[1], models[0], recordings[1], recordings[0]),
    ):
        parts = parts_of(receiver)
        for block in range(donor.n_layers):
            stream = theirs[entry(donor, block)].index_select(0, rows)
            with lent(receiver, donor, [part for part in parts if part.layer == block]):
                ours = resume(receiver, own, stream, rows, start=block, stop=block + 1)
            expected = theirs[entry(donor, block + 1)].index_select(0, rows)
            _same(ours, expected, receiver, donor, f"Block {block}")
        last = theirs[entry(donor, donor.n_layers)].index_select(0, rows)[:, -1:]
        with lent(receiver, donor, (FINAL_NORM, UNEMBEDDING)):
            logits = readout(receiver, last)
        _same(logits, readout(donor, last), receiver, donor, "The readout")


def _same(ours: Tensor, expected: Tensor, receiver: Model, donor: Model, what: str) -> None:
    if not relative_error(ours, expected) <= TOLERANCE[receiver.dtype]:
        raise ModelError(
            f"{what} of {receiver.name} with all parts of {donor.name}'s still computes something "
            "else, so a setting beside the weights differs; swap modules of models that were made "
            "with the same configuration."
        )
