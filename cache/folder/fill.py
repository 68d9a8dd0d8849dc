"""Compute the rows that a store lacks, each once, whoever asks for it at the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from cache.errors import GoneError, StorageError
from cache.folder.budget import Room
from cache.folder.folder import Folder
from cache.index.queries import Place
from cache.keys.source import ActivationSource
from cache.keys.space import Ids, SiteShape, Space
from cache.shards.layout import Layout, bytes_per_token
from cache.shards.sidecar import Sidecar, most_bytes

__all__ = ["Progress", "check_space", "cut", "fill", "lacking", "needed", "write_shard"]

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

_MOST_ROWS = 1 << 16  # of one shard, so that its sidecar stays small
_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 0.25
_SECONDS_BETWEEN_CHECKS = 1.0
_MOST_INTERRUPTIONS = 5


def fill(
    folder: Folder,
    room: Room,
    source: ActivationSource,
    space: Space,
    rows: Mapping[bytes, Ids],
    sites: Sequence[SiteShape],
    *,
    shard_size: int,
    keep: Collection[str] = (),
    progress: Progress | None = None,
) -> list[str]:
    """Compute and commit what is missing of `rows` (by key) at `sites`; returns the new shards.

    A row that another process computes is waited for; if that process dies, it is computed here.
    No row is computed here twice: others may have evicted it by the time that this returns.

    Args:
        keep: shards that are not evicted for it.
    """
    names = [site.name for site in sites]
    left = list(rows)
    made: list[str] = []
    computed: set[bytes] = set()
    wait, checked, interruptions = _SHORTEST_WAIT, -math.inf, 0
    while left := [
        key for key in lacking(left, folder.catalogue.find(left, names)) if key not in computed
    ]:
        if progress:
            progress(len(rows) - len(left), len(rows))
        with folder.lease(left) as claimed:
            # Some may have been committed between the look-up and the lease.
            absent = lacking(claimed, folder.catalogue.find(claimed, names))
            done = len(rows) - len(left) + len(claimed) - len(absent)
            try:
                for shapes, part in cut(space, sites, rows, absent, shard_size):
                    of_part = [rows[key] for key in part]
                    stay = {*made, *keep}
                    made.append(write_shard(folder, room, source, space, of_part, shapes, stay).id)
                    computed.update(part)
                    done += len(part)
                    if progress:
                        progress(done, len(rows))
            except GoneError:
                # Others took this process for dead; what they did since is not done again.
                interruptions += 1
                if interruptions == _MOST_INTERRUPTIONS:
                    raise
        if claimed:
            wait = _SHORTEST_WAIT
            continue
        if time.monotonic() - checked > _SECONDS_BETWEEN_CHECKS:
            folder.release_dead()
            checked = time.monotonic()
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)
    if progress:
        progress(len(rows), len(rows))
    return made


def lacking(
    keys: Sequence[bytes], found: Mapping[str, Mapping[bytes, Place]]
) -> dict[bytes, tuple[str, ...]]:
    """The rows that lack a site, with the sites that they lack."""
    absent = {
        key: tuple(site for site, places in found.items() if key not in places) for key in keys
    }
    return {key: sites for key, sites in absent.items() if sites}


def cut(
    space: Space,
    sites: Sequence[SiteShape],
    rows: Mapping[bytes, Ids],
    absent: Mapping[bytes, tuple[str, ...]],
    size: int,
) -> Iterator[tuple[list[SiteShape], list[bytes]]]:
    """Cut what is absent, as `lacking` tells, into shards of about `size` bytes.

    Yields:
        (the sites of a shard, the keys of its rows): what lacks the same sites, and rows of like
        length, stand together.
    """
    by_sites: dict[tuple[str, ...], list[bytes]] = {}
    for key, names in absent.items():
        by_sites.setdefault(names, []).append(key)
    for names, keys in by_sites.items():
        shapes = [site for site in sites if site.name in names]
        for part in _shards(space, shapes, {key: rows[key] for key in keys}, size):
            yield shapes, part


def needed(
    space: Space,
    sites: Sequence[SiteShape],
    rows: Mapping[bytes, Ids],
    absent: Mapping[bytes, tuple[str, ...]],
    size: int,
) -> int:
    """Bytes that `fill` will take for what is absent, as `lacking` tells, and not less."""
    total = 0
    for shapes, part in cut(space, sites, rows, absent, size):
        lengths = [len(rows[key]) for key in part]
        layout = Layout.of(shapes, space.dtype, sum(lengths), len(part))
        total += layout.size + most_bytes(space, shapes, lengths, layout.n_blocks)
    return total


def write_shard(
    folder: Folder,
    room: Room,
    source: ActivationSource,
    space: Space,
    rows: Sequence[Ids],
    sites: Sequence[SiteShape],
    keep: Collection[str] = (),
) -> Sidecar:
    """Run the rows, and commit them as one shard."""
    n_tokens = sum(len(ids) for ids in rows)
    room.make(Layout.of(sites, space.dtype, n_tokens, len(rows)).size, keep)
    with folder.writer(space, sites, rows) as writer:
        for _, values in source.activations(rows, sites):
            writer.append(values)
        check_space(source, space)
        sidecar = writer.commit()
    folder.catalogue.enter(sidecar)
    return sidecar


def check_space(source: ActivationSource, space: Space) -> None:
    """Raises a StorageError if the model is no longer the one that was asked for."""
    if source.space(space.dtype) != space:
        raise StorageError(
            f"{space.label or 'The model'} was changed while its activations were computed, so "
            "they are not stored; ask again."
        )


def _shards(
    space: Space, sites: Sequence[SiteShape], rows: Mapping[bytes, Ids], size: int
) -> Iterator[list[bytes]]:
    """Cut rows into shards of about `size` bytes; rows of like length stand together."""
    per_token = bytes_per_token(sites, space.itemsize)
    part: list[bytes] = []
    held = 0
    # A stable order: rows of equal length stay as they were asked for.
    for key in sorted(rows, key=lambda key: len(rows[key])):
        weight = per_token * len(rows[key])
        if part and (held + weight > size or len(part) == _MOST_ROWS):
            yield part
            part, held = [], 0
        part.append(key)
        held += weight
    if part:
        yield part
