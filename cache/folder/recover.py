"""Find out which prompts a damaged shard held.

A row's key is a hash of its token ids, so ids that give the key are the right ones, whatever has
happened to the file around them.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.errors import StorageError
from cache.files import open_regular, storage_errors
from cache.index.tables import Described
from cache.keys.source import ActivationSource
from cache.keys.space import Ids, SiteShape, Space
from cache.shards.layout import OFFSETS, TOKENS
from cache.shards.sidecar import MOST_BYTES, Sidecar

__all__ = ["Lost", "recover", "recover_from_index"]


@dataclass(frozen=True)
class Lost:
    """Rows that can be computed again: their token ids are intact."""

    space: Space
    sites: tuple[SiteShape, ...]
    rows: tuple[Ids, ...]


def recover(path: Path, sidecar: Sidecar) -> Lost | None:
    """The rows of damaged data whose sidecar is intact."""
    begin = sidecar.layout.fields[TOKENS].begin
    rows = _rows(path, sidecar.space, begin, sidecar.offsets, sidecar.row_keys())
    return Lost(sidecar.space, sidecar.sites, rows) if rows else None


def recover_from_index(
    path: Path, space: Space, described: Described, source: ActivationSource
) -> Lost | None:
    """The rows of a shard whose sidecar is damaged or missing.

    Args:
        path: its data.
        described: what the index says of it.
        source: knows the shapes of the sites.
    """
    if source.space(space.dtype) != space:
        return None
    keys = [key for key, _ in described.rows]
    try:
        places = _places(path)
        begin, end = places[TOKENS]
        first, beyond = places[OFFSETS]
        if beyond - first != 8 * (len(keys) + 1):
            return None
        offsets = np.frombuffer(_read(path, first, beyond), "<i8")
    except (StorageError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        return None
    in_order = len(offsets) == len(keys) + 1 and bool((offsets[1:] > offsets[:-1]).all())
    if not in_order or offsets[0] != 0 or int(offsets[-1]) * 4 != end - begin:
        return None
    rows = _rows(path, space, begin, offsets.astype(np.int64), keys)
    sites = tuple(source.sites([name for name, _ in described.sites]))
    return Lost(space, sites, rows) if rows else None


def _rows(
    path: Path,
    space: Space,
    begin: int,
    offsets: npt.NDArray[np.int64],
    keys: Sequence[bytes],
) -> tuple[Ids, ...]:
    found = []
    for row, key in enumerate(keys):
        first, beyond = 4 * int(offsets[row]), 4 * int(offsets[row + 1])
        try:
            part = _read(path, begin + first, begin + beyond)
        except StorageError:
            return ()
        if len(part) == beyond - first:
            ids = np.frombuffer(part, "<i4")
            if space.key(ids) == key:
                found.append(ids)
    return tuple(found)


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Where tensors stand in a safetensors file, by its header, which may be damaged."""
    (length,) = struct.unpack("<Q", _read(path, 0, 8))
    if length > MOST_BYTES:
        raise ValueError("the header is too long")
    header = json.loads(_read(path, 8, 8 + length))
    out = {}
    for name in (TOKENS, OFFSETS):
        begin, end = header[name]["data_offsets"]
        if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
            raise ValueError("no place")
        out[name] = (8 + length + begin, 8 + length + end)
    return out


def _read(path: Path, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of a file, of those that there are, and not more than `MOST_BYTES`."""
    end = min(end, begin + MOST_BYTES)
    with storage_errors(path, "read"), open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(min(begin, size))
        return file.read(max(0, min(end, size) - min(begin, size)))
