"""Compute the rows that a store lacks, each once, whoever asks for it at the same time."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from cache.errors import GoneError
from cache.folder.budget import Room
from cache.folder.writing import Part, Write
from cache.index.queries import Place
from cache.keys.space import Ids, SiteShape, Space
from cache.shards.layout import bytes_per_token

__all__ = ["Progress", "cut", "fill", "lacking", "needed"]

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""

_MOST_ROWS = 1 << 16  # of one shard, so that its sidecar stays small
_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 0.25
_SECONDS_BETWEEN_CHECKS = 1.0
_MOST_INTERRUPTIONS = 5


def fill(
    room: Room,
    write: Write,
    space: Space,
    rows: Mapping[bytes, Ids],
    sites: Sequence[SiteShape],
    *,
    keep: Collection[str] = (),
    progress: Progress | None = None,
) -> set[str]:
    """Compute and commit what is missing of `rows` (by key) at `sites`; returns the new shards.

    A row that another process computes is waited for; if that process dies, it is computed here.
    No row is computed here twice: others may have evicted it by the time that this returns.

    Args:
        write: what computes and commits.
        keep: shards that are not evicted for it.
    """
    names = [site.name for site in sites]
    folder, find = room.folder, room.folder.catalogue.find
    left = list(rows)
    stay, computed = set(keep), set[bytes]()
    wait, checked, interruptions = _SHORTEST_WAIT, -math.inf, 0
    while left := [key for key in lacking(left, find(left, names)) if key not in computed]:
        if progress:
            progress(len(rows) - len(left), len(rows))
        with folder.lease(left) as claimed:
            # Some may have been committed between the look-up and the lease.
            absent = lacking(claimed, find(claimed, names))
            done = len(rows) - len(left) + len(claimed) - len(absent)
            parts = list(cut(space, sites, rows, absent, room.shard_size))
            try:
                with contextlib.closing(write(parts, stay)) as written:
                    for part, shard in written:
                        stay.add(shard)
                        computed.update(part.keys)
                        done += len(part.rows)
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
    return stay.difference(keep)


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
) -> Iterator[Part]:
    """Cut what is absent, as `lacking` tells, into shards of about `size` bytes.

    What lacks the same sites, and rows of like length, stand together.
    """
    by_sites: dict[tuple[str, ...], list[bytes]] = {}
    for key, names in absent.items():
        by_sites.setdefault(names, []).append(key)
    for names, keys in by_sites.items():
        shapes = tuple(site for site in sites if site.name in names)
        per_token = bytes_per_token(shapes, space.itemsize)
        # A stable order: rows of equal length stay as they were asked for.
        keys.sort(key=lambda key: len(rows[key]))
        begin, held = 0, 0
        for place, key in enumerate(keys):
            weight = per_token * len(rows[key])
            if place > begin and (held + weight > size or place - begin == _MOST_ROWS):
                yield _part(space, shapes, rows, keys[begin:place])
                begin, held = place, 0
            held += weight
        yield _part(space, shapes, rows, keys[begin:])


def needed(
    space: Space,
    sites: Sequence[SiteShape],
    rows: Mapping[bytes, Ids],
    absent: Mapping[bytes, tuple[str, ...]],
    size: int,
) -> int:
    """Bytes that `fill` will take for what is absent, as `lacking` tells, and not less."""
    return sum(part.most_bytes for part in cut(space, sites, rows, absent, size))


def _part(
    space: Space, sites: tuple[SiteShape, ...], rows: Mapping[bytes, Ids], keys: Sequence[bytes]
) -> Part:
    return Part(space, sites, tuple(rows[key] for key in keys), tuple(keys))
