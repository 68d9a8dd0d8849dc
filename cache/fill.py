"""Compute the rows that a store lacks, each once, whoever asks for it at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from cache.folder import Folder
from cache.index import Index, Place
from cache.layout import Layout, bytes_per_token
from cache.room import Room
from cache.sidecar import Sidecar
from cache.source import ActivationSource
from cache.space import Ids, SiteShape, Space

__all__ = ["Progress", "cut", "fill", "lacking", "write_shard"]

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

_MOST_ROWS = 1 << 16  # of one shard, so that its sidecar stays small
_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 0.25
_SECONDS_BETWEEN_CHECKS = 1.0


def fill(
    folder: Folder,
    room: Room,
    source: ActivationSource,
    space: Space,
    rows: Mapping[bytes, Ids],
    sites: Sequence[SiteShape],
    *,
    shard_size: int,
    progress: Progress | None = None,
) -> list[str]:
    """Compute and commit what is missing of `rows` (by key) at `sites`; returns the new shards.

    A row that another process computes is waited for; if that process dies, it is computed here.
    """
    names = [site.name for site in sites]
    done = len(rows)
    made: list[str] = []
    wait, checked = _SHORTEST_WAIT, time.monotonic()

    def missing(keys: Sequence[bytes]) -> dict[bytes, tuple[str, ...]]:
        found = folder.indexed(Index.find, keys, names)
        return lacking(keys, found)

    while absent := missing(list(rows)):
        if progress and len(rows) - len(absent) != done:
            done = len(rows) - len(absent)
            progress(done, len(rows))
        owner = folder.owner.token
        claimed = folder.indexed(Index.claim, list(absent), owner)
        if not claimed:
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            if time.monotonic() - checked > _SECONDS_BETWEEN_CHECKS:
                folder.release_dead()
                checked = time.monotonic()
            continue
        wait = _SHORTEST_WAIT
        held = set(claimed)
        try:
            # Some may have been committed between the look-up and the lease.
            for shapes, part in cut(space, sites, rows, missing(claimed), shard_size):
                sidecar = write_shard(
                    folder, room, source, space, [rows[key] for key in part], shapes, made
                )
                made.append(sidecar.id)
                folder.indexed(Index.release, part)
                held.difference_update(part)
                if progress:
                    done = min(len(rows), done + len(part))
                    progress(done, len(rows))
        finally:
            if held:
                folder.indexed(Index.release, list(held))
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


def write_shard(
    folder: Folder,
    room: Room,
    source: ActivationSource,
    space: Space,
    rows: Sequence[Ids],
    sites: Sequence[SiteShape],
    keep: Sequence[str] = (),
) -> Sidecar:
    """Run the rows, and commit them as one shard."""
    n_tokens = sum(len(ids) for ids in rows)
    room.make(Layout.of(sites, space.dtype, n_tokens, len(rows)).size, keep)
    with folder.writer(space, sites, rows) as writer:
        for _, values in source.activations(rows, sites):
            writer.append(values)
        sidecar = writer.commit()
    folder.enter(sidecar)
    return sidecar


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
