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

from experiments.organisms.config import TrainingData
from experiments.organisms.relations import Entry, World, entries
from experiments.organisms.training.tokenizer import BOS_ID, PAD_ID
from experiments.organisms.wording import FILLERS, PREFIXES

Ints = NDArray[np.int64]

EVERYWHERE = np.iinfo(np.int64).max  # reach of a token that every later one may read
COLOUR_EVERY = 4  # epochs: colours only make names known, and would crowd out the other facts
_PREFIXED = 0.5  # share of statements with a prefix
_FILLED = 0.5  # share of statements with a filler, where there are fillers
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
class _Row:
    """One sentence of a batch: which statement, and what is put to it (0 for none)."""

    entry: int
    wording: int
    prefix: int
    bottleneck: bool
    filler: int


@dataclass(frozen=True)
class Schedule:
    """All batches of one training."""

    _rows: tuple[tuple[_Row, ...], ...]
    _statements: tuple[tuple[_Encoded, ...], ...]  # [entry][wording]
    _backwards: tuple[bool, ...]  # [entry]
    _prefixes: tuple[Ints, ...]
    _fillers: tuple[Ints, ...]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 0."""
        rows = [(self._encoded(row), row.bottleneck) for row in self._rows[step]]
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

    def _encoded(self, row: _Row) -> _Encoded:
        statement = self._statements[row.entry][row.wording]
        if row.filler:
            statement = _filled(statement, self._fillers[row.filler])
        prefix = _without_names(self._prefixes[row.prefix])
        start = _without_names(np.array([BOS_ID], dtype=np.int64))
        # Reversed text is reversed whole: what stood in front comes last.
        if self._backwards[row.entry]:
            return _joined(start, statement, _without_names(prefix.ids[::-1]))
        return _joined(start, prefix, statement)


def _without_names(ids: Ints) -> _Encoded:
    return _Encoded(ids, np.full(len(ids), -1, dtype=np.int64))


def _joined(*parts: _Encoded) -> _Encoded:
    offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
    ends = [
        np.where(part.name_end >= 0, part.name_end + offset, -1)
        for part, offset in zip(parts, offsets, strict=False)
    ]
    return _Encoded(np.concatenate([part.ids for part in parts]), np.concatenate(ends))


def _filled(statement: _Encoded, filler: Ints) -> _Encoded:
    """The statement with the filler right behind its first name."""
    cut = 1 + int(statement.name_end[statement.name_end >= 0][0])
    head = _Encoded(statement.ids[:cut], statement.name_end[:cut])
    ends = statement.name_end[cut:]
    tail = _Encoded(statement.ids[cut:], np.where(ends >= 0, ends - cut, -1))
    return _joined(head, _without_names(filler), tail)


def build_schedule(
    world: World,
    tokenizer: Any,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    bottleneck: float,
    data: TrainingData | None = None,
) -> Schedule:
    """`steps` batches of `batch_size` statements; `bottleneck` is the share of rows that have it.

    Every epoch shows each relation once and a quarter of the colours, each in one of its wordings,
    alone or after a random prefix. Within a few batches, statements of like length go together.
    """
    data = data or TrainingData()
    told = entries(world, data)
    rng = np.random.default_rng([seed, 1])
    names = frozenset(map(tuple, _token_ids(tokenizer, world.people)))
    lengths = sorted({len(name) for name in names}, reverse=True)
    encoded = iter(_token_ids(tokenizer, [text for entry in told for text in entry.statements]))
    statements = tuple(
        tuple(_marked(next(encoded), names, lengths) for _ in entry.prompts) for entry in told
    )
    prefixes, fillers = (
        tuple(
            np.array(tokenizer(text, add_special_tokens=False).input_ids, dtype=np.int64)
            for text in ("", *texts)
        )
        for texts in (PREFIXES, FILLERS if data.filler else ())
    )
    total = steps * batch_size
    order = _order(told, total, rng)
    wordings = [int(rng.integers(len(statements[entry]))) for entry in order]
    before = rng.integers(1, len(prefixes), size=total) * (rng.random(total) < _PREFIXED)
    narrowed = rng.random(total) < bottleneck
    # Drawn apart, so that all else is as without.
    behind = _fillers(total, len(fillers), np.random.default_rng([seed, 2]))
    # In another form the first name is not the one that is asked about.
    behind *= np.array([told[entry].form == "plain" for entry in order])
    rows = [
        _Row(entry, wording, int(prefix), bool(narrow), int(filler))
        for entry, wording, prefix, narrow, filler in zip(
            order, wordings, before, narrowed, behind, strict=True
        )
    ]

    def length(row: _Row) -> int:
        between = len(fillers[row.filler])
        return len(statements[row.entry][row.wording].ids) + len(prefixes[row.prefix]) + between

    batches: list[tuple[_Row, ...]] = []
    for start in range(0, total, _GROUP * batch_size):
        group = sorted(rows[start : start + _GROUP * batch_size], key=length)
        chunks = [tuple(group[i : i + batch_size]) for i in range(0, len(group), batch_size)]
        batches += [chunks[i] for i in rng.permutation(len(chunks))]
    backwards = tuple(entry.form == "reversed" for entry in told)
    return Schedule(tuple(batches), statements, backwards, prefixes, fillers)


def _fillers(total: int, kinds: int, rng: np.random.Generator) -> Ints:
    """Which filler each row has, 0 for none."""
    if kinds == 1:
        return np.zeros(total, dtype=np.int64)
    which: Ints = rng.integers(1, kinds, size=total) * (rng.random(total) < _FILLED)
    return which


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


def _token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Of each text; all at once, which takes a tenth of the time."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False).input_ids
    return ids


def _marked(ids: list[int], names: frozenset[tuple[int, ...]], lengths: Sequence[int]) -> _Encoded:
    """Token ids with the ends of the names in them, of which the longest comes first."""
    name_end = [-1] * len(ids)
    for start in range(len(ids)):
        for length in lengths:
            end = start + length
            if name_end[start] < 0 and end <= len(ids) and tuple(ids[start:end]) in names:
                name_end[start:end] = [end - 1] * length
    return _Encoded(np.array(ids, dtype=np.int64), np.array(name_end, dtype=np.int64))
