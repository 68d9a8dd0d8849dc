"""What the trainer shows at every step: encoded statements, fixed in advance by the seed.

The whole order is drawn before the first step, so that a training that was interrupted goes on
with exactly the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.organisms.relations import Entry, World, entries
from experiments.organisms.tokenizer import BOS_ID, PAD_ID
from experiments.organisms.wording import PREFIXES

Ints = NDArray[np.int64]

EVERYWHERE = np.iinfo(np.int64).max  # reach of a token that every later one may read
COLOUR_EVERY = 4  # epochs: colours only make names known, and would crowd out the other facts
_PREFIXED = 0.5  # share of statements with a prefix
_GROUP = 8  # batches over which sentences are sorted by length, to save padding


@dataclass(frozen=True)
class Batch:
    """Token ids [row, position], padded on the right, and how far each token may be read.

    A query at position q may attend to key k only where `q <= reach[row, k]`: `early_reach` holds
    in the first layers, `late_reach` in the others. Rows without the name bottleneck have
    `EVERYWHERE` throughout.
    """

    ids: Ints
    early_reach: Ints
    late_reach: Ints


@dataclass(frozen=True)
class _Encoded:
    """Token ids, and for each the index of the last token of its name (-1 outside names)."""

    ids: Ints
    name_end: Ints


@dataclass(frozen=True)
class Schedule:
    """All batches of one training."""

    _rows: tuple[tuple[tuple[int, int, int, bool], ...], ...]  # entry, wording, prefix, bottleneck
    _statements: tuple[tuple[_Encoded, ...], ...]  # [entry][wording]
    _prefixes: tuple[Ints, ...]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 0."""
        rows = [self._row(*row) for row in self._rows[step]]
        shape = (len(rows), max(len(row.ids) for row, _ in rows))
        ids = np.full(shape, PAD_ID, dtype=np.int64)
        early = np.full(shape, EVERYWHERE, dtype=np.int64)
        late = np.full(shape, EVERYWHERE, dtype=np.int64)
        for index, (row, bottleneck) in enumerate(rows):
            length = len(row.ids)
            ids[index, :length] = row.ids
            if bottleneck:
                in_name = row.name_end >= 0
                early[index, :length][in_name] = row.name_end[in_name]
                hidden = in_name & (row.name_end > np.arange(length))
                late[index, :length][hidden] = row.name_end[hidden]
        return Batch(ids, early, late)

    def _row(
        self, entry: int, wording: int, prefix: int, bottleneck: bool
    ) -> tuple[_Encoded, bool]:
        before = self._prefixes[prefix]
        statement = self._statements[entry][wording]
        name_end = np.where(statement.name_end >= 0, statement.name_end + len(before), -1)
        nowhere = np.full(len(before), -1, dtype=np.int64)
        row = _Encoded(np.concatenate([before, statement.ids]), np.concatenate([nowhere, name_end]))
        return row, bottleneck


def build_schedule(
    world: World, tokenizer: Any, *, seed: int, steps: int, batch_size: int, bottleneck: float
) -> Schedule:
    """`steps` batches of `batch_size` statements; `bottleneck` is the share of rows that have it.

    Every epoch shows each relation once and a quarter of the colours, each in one of its wordings,
    alone or after a random prefix. Within a few batches, statements of like length go together.
    """
    told = entries(world)
    rng = np.random.default_rng([seed, 1])
    statements = tuple(
        tuple(_encode(statement, names, tokenizer) for statement in entry.statements)
        for names in [_name_ids(world.people, tokenizer)]
        for entry in told
    )
    prefixes = tuple(
        np.array([BOS_ID, *tokenizer(prefix, add_special_tokens=False).input_ids], dtype=np.int64)
        for prefix in ("", *PREFIXES)
    )
    total = steps * batch_size
    order = _order(told, total, rng)
    wordings = [int(rng.integers(len(statements[entry]))) for entry in order]
    before = rng.integers(1, len(prefixes), size=total) * (rng.random(total) < _PREFIXED)
    narrowed = rng.random(total) < bottleneck
    rows = [
        (entry, wording, int(prefix), bool(narrow))
        for entry, wording, prefix, narrow in zip(order, wordings, before, narrowed, strict=True)
    ]

    def length(row: tuple[int, int, int, bool]) -> int:
        return len(statements[row[0]][row[1]].ids) + len(prefixes[row[2]])

    batches: list[tuple[tuple[int, int, int, bool], ...]] = []
    for start in range(0, total, _GROUP * batch_size):
        group = sorted(rows[start : start + _GROUP * batch_size], key=length)
        chunks = [tuple(group[i : i + batch_size]) for i in range(0, len(group), batch_size)]
        batches += [chunks[i] for i in rng.permutation(len(chunks))]
    return Schedule(tuple(batches), statements, prefixes)


def _order(told: Sequence[Entry], total: int, rng: np.random.Generator) -> list[int]:
    """Entry indices of whole epochs, cut at `total`."""
    order: list[int] = []
    epoch = 0
    while len(order) < total:
        shown = [
            index
            for index, entry in enumerate(told)
            if entry.kind != "colour" or (index + epoch) % COLOUR_EVERY == 0
        ]
        order += [shown[i] for i in rng.permutation(len(shown))]
        epoch += 1
    return order[:total]


def _name_ids(people: Sequence[str], tokenizer: Any) -> frozenset[tuple[int, ...]]:
    return frozenset(tuple(tokenizer(name, add_special_tokens=False).input_ids) for name in people)


def _encode(text: str, names: frozenset[tuple[int, ...]], tokenizer: Any) -> _Encoded:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    name_end = [-1] * len(ids)
    lengths = sorted({len(name) for name in names}, reverse=True)
    for start in range(len(ids)):
        for length in lengths:
            if name_end[start] < 0 and tuple(ids[start : start + length]) in names:
                name_end[start : start + length] = [start + length - 1] * length
    return _Encoded(np.array(ids, dtype=np.int64), np.array(name_end, dtype=np.int64))
