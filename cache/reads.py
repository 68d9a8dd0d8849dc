"""Read rows where they are stored, and have those computed that are not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cache.errors import DamageError, GoneError, StorageError
from cache.fill import Progress, fill, lacking, needed
from cache.folder import Folder
from cache.index import Index, Place
from cache.locks import ThreadLock
from cache.room import Room
from cache.source import ActivationSource
from cache.space import Ids, SiteShape, Space
from cache.verify import set_aside

__all__ = ["Pieces", "Reads", "padded"]

Pieces = list[tuple[Tensor, list[int]]]
"""Rows one after the other, those that stand together in one tensor, and the rows' lengths."""

_SECONDS_BETWEEN_NOTES = 5.0
# How often rows may vanish between being found and being read, because others need the room.
_ATTEMPTS = 5


class Reads:
    """What a store has given out, and when."""

    def __init__(self, folder: Folder, room: Room, shard_size: int) -> None:
        self._folder, self._room, self._shard_size = folder, room, shard_size
        self._uses: dict[str, tuple[float, int]] = {}
        self._noted = time.monotonic()
        self._lock = ThreadLock()

    def read(
        self,
        source: ActivationSource,
        rows: Sequence[Ids],
        sites: Sequence[SiteShape],
        space: Space,
        progress: Progress | None,
    ) -> dict[str, Pieces]:
        """The rows at each site; what is missing or damaged is computed.

        Raises:
            StorageError: the store cannot be written, or the rows do not fit into it.
        """
        keys = space.keys(rows)
        names = [site.name for site in sites]
        unique = dict(zip(keys, rows, strict=True))
        attempts = _ATTEMPTS
        while attempts:
            found = self._folder.find(list(unique), names)
            if lacking(list(unique), found):
                self._compute(source, space, unique, sites, found, progress)
                continue
            try:
                maps: dict[str, Tensor] = {}
                out = {name: self._pieces(name, keys, found[name], maps) for name in names}
            except _MovedError as moved:
                # A damaged shard is set aside once and for all; evictions may go on.
                attempts -= not moved.damaged
                continue
            self.note()
            return out
        raise StorageError(
            f"'{self._folder.root}' is too small for what is used at once: rows are evicted before "
            "they are read; raise its budget, or ask for fewer rows."
        )

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
            self._folder.indexed(Index.note_use, uses)

    def _compute(
        self,
        source: ActivationSource,
        space: Space,
        rows: Mapping[bytes, Ids],
        sites: Sequence[SiteShape],
        found: Mapping[str, Mapping[bytes, Place]],
        progress: Progress | None,
    ) -> None:
        self._folder.check_writable()
        n_tokens = sum(len(ids) for ids in rows.values())
        size = needed(space, sites, rows, self._shard_size)
        self._room.check(size, f"{n_tokens:,} tokens at {len(sites)} sites")
        # What is evicted for it depends on what was used last, and these are about to be.
        for shard in {place.shard for places in found.values() for place in places.values()}:
            self._used(shard, 0)
        self.note(now=True)
        made = fill(
            self._folder,
            self._room,
            source,
            space,
            rows,
            sites,
            shard_size=self._shard_size,
            progress=progress,
        )
        self._room.make(0, made)

    def _pieces(
        self,
        site: str,
        keys: Sequence[bytes],
        places: Mapping[bytes, Place],
        maps: dict[str, Tensor],
    ) -> Pieces:
        """The rows at `site` in the order of `keys`; neighbours in a shard come as one tensor.

        Args:
            maps: of the shards that are mapped already.
        """
        out = []
        start = 0
        while start < len(keys):
            first = places[keys[start]]
            stop = start + 1
            while stop < len(keys) and places[keys[stop]] == Place(
                first.shard, first.row + stop - start
            ):
                stop += 1
            out.append(self._piece(site, first, keys[start:stop], maps))
            start = stop
        return out

    def _piece(
        self, site: str, first: Place, keys: Sequence[bytes], maps: dict[str, Tensor]
    ) -> tuple[Tensor, list[int]]:
        shard, beyond = first.shard, first.row + len(keys)
        try:
            reader = self._folder.reader(shard)
            sidecar = reader.sidecar
            right = sidecar.row_keys(first.row, beyond) == list(keys)
            if not right or site not in sidecar.layout.fields:
                self._folder.rebuild_index(f"it is wrong about shard {shard}")
                raise _MovedError(damaged=False)
            if shard not in maps:
                maps[shard] = reader.map()
            tensor = reader.tensor(site, first.row, beyond, of=maps[shard])
        except DamageError as error:
            set_aside(self._folder, shard, str(error))
            raise _MovedError(damaged=True) from error
        except GoneError as error:
            self._folder.forget([shard])
            raise _MovedError(damaged=False) from error
        self._used(shard, 1)
        return tensor, [int(n) for n in sidecar.lengths[first.row : beyond]]

    def _used(self, shard: str, times: int) -> None:
        with self._lock:
            _, hits = self._uses.get(shard, (0.0, 0))
            self._uses[shard] = (time.time(), hits + times)


class _MovedError(Exception):
    """A row is not where the index said; look again."""

    def __init__(self, *, damaged: bool) -> None:
        self.damaged = damaged


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
