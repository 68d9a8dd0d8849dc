"""Read rows where they are stored, and have those computed that are not."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from cache.errors import DamageError, GoneError, StorageError
from cache.folder.budget import Room
from cache.folder.fill import Progress, fill, lacking, needed
from cache.folder.verify import set_aside
from cache.folder.writing import write_here
from cache.index.queries import Index, Place
from cache.keys.source import Request
from cache.keys.space import Ids
from cache.locks import ThreadLock
from cache.shards.reader import ShardReader

__all__ = ["Pieces", "Reads", "padded"]

Pieces = list[tuple[Tensor, list[int]]]
"""Rows one after the other, those that stand together in one tensor, and the rows' lengths."""

_Look = tuple[str, ShardReader, str, int, int]
"""A shard, its reader, a site, the first row, and the one beyond the last."""
T = TypeVar("T")

_SECONDS_BETWEEN_NOTES = 5.0
# How often rows may be computed in vain: they vanish before they are read, because others need the
# room, or the disk returns something else than what was written.
_ATTEMPTS = 5
_SMALL = (
    "is too small for what is used at once: rows are evicted before they are read; raise its "
    "budget, or ask for fewer rows."
)
_UNRELIABLE = (
    "does not give back what was just written to it; check its disk, or choose a folder on "
    "another one."
)


class Reads:
    """What a store has given out, and when."""

    def __init__(self, room: Room) -> None:
        self._folder, self._room = room.folder, room
        self._uses: dict[str, tuple[float, int]] = {}
        self._noted = time.monotonic()
        self._lock = ThreadLock()

    def read(
        self, wanted: Request, progress: Progress | None, arrange: Callable[[Pieces], T]
    ) -> dict[str, T]:
        """The rows at each site; what is missing or damaged is computed.

        Args:
            arrange: what makes of a site's pieces what is returned, and may copy them: the files
                are looked at once more after that.

        Raises:
            StorageError: the store cannot be written, or the rows do not fit into it.
        """
        keys = wanted.space.keys(wanted.rows)
        names = [site.name for site in wanted.sites]
        unique = dict(zip(keys, wanted.rows, strict=True))
        attempts = _ATTEMPTS
        made: set[str] = set()
        reason = ""
        while attempts:
            found = self._folder.catalogue.find(list(unique), names)
            if lacking(list(unique), found):
                made.update(self.compute(wanted, unique, found, progress))
                found = self._folder.catalogue.find(list(unique), names)
            try:
                if lacking(list(unique), found):
                    raise _MovedError
                pieces, looks = self._pieces(keys, found)
                out = {site: arrange(of_site) for site, of_site in pieces.items()}
                for shard, reader, site, first, beyond in looks:
                    with self._moved(shard):
                        reader.confirm(site, first, beyond)
            except _MovedError as moved:
                # What stood here damaged is so much, and set aside once and for all.
                attempts -= moved.damaged is None or moved.damaged in made
                reason = _SMALL if moved.damaged is None else _UNRELIABLE
                continue
            self.note()
            return out
        raise StorageError(f"'{self._folder.root}' {reason}")

    def note(self, *, now: bool = False) -> None:
        """Enter what was used into the index, now and then.

        Where that fails, on a full disk for one, what is evicted first is the only thing at stake.
        """
        with self._lock:
            due = now or time.monotonic() - self._noted > _SECONDS_BETWEEN_NOTES
            if not due or not self._uses:
                return
            uses, self._uses = self._uses, {}
            self._noted = time.monotonic()
        with contextlib.suppress(StorageError):
            self._folder.catalogue.ask(Index.note_use, uses)

    def compute(
        self,
        wanted: Request,
        rows: Mapping[bytes, Ids],
        found: Mapping[str, Mapping[bytes, Place]],
        progress: Progress | None,
    ) -> set[str]:
        """Compute what is lacking of `rows` (by key); returns the new shards.

        Args:
            found: where the others stand.
        """
        self._folder.check_writable()
        space, sites, room = wanted.space, wanted.sites, self._room
        keys, names = list(rows), [site.name for site in sites]
        n_tokens = sum(len(ids) for ids in rows.values())
        what = f"{n_tokens:,} tokens at {len(sites)} sites"
        kept = _shards(found)
        size = needed(space, sites, rows, lacking(keys, found), room.shard_size)
        size += self._folder.catalogue.ask(Index.bytes_of, kept)
        if room.holds(size):
            room.check(size, what, kept)
        else:
            # What is there may take more than it must: many small shards, or a large one of other
            # rows. It goes, and all is computed together, if that fits.
            everything = dict.fromkeys(keys, tuple(names))
            size = needed(space, sites, rows, everything, room.shard_size)
            room.check(size, what)
            for _ in range(_ATTEMPTS):
                self._folder.remove(kept)
                # Older shards may hold the same rows.
                if not (kept := _shards(self._folder.catalogue.find(keys, names))):
                    break
        # What is evicted for it depends on what was used last, and these are about to be.
        for shard in kept:
            self._used(shard, 0)
        self.note(now=True)
        write = partial(write_here, room, wanted.source)
        made = fill(room, write, space, rows, sites, keep=kept, progress=progress)
        room.make(0, {*made, *kept})
        return made

    def _pieces(
        self, keys: Sequence[bytes], found: Mapping[str, Mapping[bytes, Place]]
    ) -> tuple[dict[str, Pieces], list[_Look]]:
        """The rows at each site in the order of `keys`, and where they stand.

        Neighbours in a shard are one tensor.
        """
        runs = [
            (site, first, start, stop)
            for site, places in found.items()
            for first, start, stop in _runs(keys, places)
        ]
        out: dict[str, dict[int, tuple[Tensor, list[int]]]] = {site: {} for site in found}
        looks: list[_Look] = []
        # Shard by shard, so that each is opened and mapped once for all sites.
        for shard, of_shard in itertools.groupby(
            sorted(runs, key=lambda run: run[1].shard), key=lambda run: run[1].shard
        ):
            whole: Tensor | None = None
            for site, first, start, stop in of_shard:
                reader = self._reader(shard, site, first.row, keys[start:stop])
                beyond = first.row + stop - start
                with self._moved(shard):
                    whole = reader.map() if whole is None else whole
                    tensor = reader.tensor(site, first.row, beyond, of=whole)
                looks.append((shard, reader, site, first.row, beyond))
                lengths = reader.sidecar.lengths[first.row : beyond]
                out[site][start] = tensor, lengths.tolist()
            self._used(shard, 1)
        return {
            site: [pieces[start] for start in sorted(pieces)] for site, pieces in out.items()
        }, looks

    def _reader(self, shard: str, site: str, row: int, keys: Sequence[bytes]) -> ShardReader:
        """The reader of a shard which holds these rows from `row` on."""
        with self._moved(shard):
            reader = self._folder.reader(shard)
        right = reader.sidecar.row_keys(row, row + len(keys)) == list(keys)
        if not right or site not in reader.sidecar.layout.fields:
            self._folder.catalogue.rebuild(f"it is wrong about shard {shard}")
            raise _MovedError
        return reader

    @contextlib.contextmanager
    def _moved(self, shard: str) -> Iterator[None]:
        """Set a shard aside that turns out damaged, and forget one that is gone; look again."""
        try:
            yield
        except DamageError as error:
            set_aside(self._folder, shard, str(error))
            raise _MovedError(damaged=shard) from error
        except GoneError as error:
            self._folder.catalogue.forget([shard])
            raise _MovedError from error

    def _used(self, shard: str, times: int) -> None:
        with self._lock:
            _, hits = self._uses.get(shard, (0.0, 0))
            self._uses[shard] = (time.time(), hits + times)


class _MovedError(Exception):
    """A row is not where the index said, or not what was written; look again."""

    def __init__(self, *, damaged: str | None = None) -> None:
        """
        Args:
            damaged: the shard that was set aside.
        """
        self.damaged = damaged


def _shards(found: Mapping[str, Mapping[bytes, Place]]) -> set[str]:
    return {place.shard for places in found.values() for place in places.values()}


def _runs(keys: Sequence[bytes], places: Mapping[bytes, Place]) -> Iterator[tuple[Place, int, int]]:
    """Where rows stand one after the other: (the first one's place, where they begin, and end)."""
    start = 0
    while start < len(keys):
        first = places[keys[start]]
        stop = start + 1
        while stop < len(keys) and places[keys[stop]] == Place(
            first.shard, first.row + stop - start
        ):
            stop += 1
        yield first, start, stop
        start = stop


def padded(pieces: Pieces, lengths: Sequence[int]) -> Tensor:
    """Rows as one tensor [example, position, *width]; a view where they lie together.

    Beyond a row's end stands NaN, so that nothing can be computed from it without a trace.
    """
    first, of_first = pieces[0]
    if len(pieces) == 1 and len(set(of_first)) == 1:
        return first.reshape(len(of_first), of_first[0], *first.shape[1:])
    out = torch.empty(len(lengths), max(lengths), *first.shape[1:], dtype=first.dtype)
    rows = (row for tensor, of_piece in pieces for row in torch.split(tensor, of_piece))
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
        out[number, len(row) :] = torch.nan
    return out
