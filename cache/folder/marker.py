"""The file that makes a folder a store, and says of which version."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from cache.errors import StorageError
from cache.files import (
    TEMPORARY_PREFIX,
    is_real,
    make_folder,
    read_bytes,
    real_folder,
    remove,
    storage_errors,
)
from cache.files import write_atomic as write
from cache.shards.sidecar import seal_json

__all__ = ["MARKER", "open_folder"]

MARKER = "store.json"
_NAME = "obverse-activations"
_CONTENT = seal_json({"format": _NAME, "version": 1})
_MOST_BYTES = 4096
_FOLDERS = {"owners", "quarantine", "shards", "witnesses"}
_OURS = {"index.sqlite", "store.lock", *_FOLDERS}


def open_folder(path: Path) -> bool:
    """Make sure that `path` is a store; returns whether it can only be read.

    Raises:
        StorageError: it holds something else, was made by another version, or cannot be used; or a
            folder of it is a symbolic link. The store itself may be one.
    """
    make_folder(path)
    with storage_errors(path, "read"):
        names = {name for name in os.listdir(path) if not name.startswith(TEMPORARY_PREFIX)}
    writable = os.access(path, os.W_OK)
    marker = path / MARKER
    content = read_bytes(marker, _MOST_BYTES, links=False) if MARKER in names else b""
    for folder in sorted(_FOLDERS & names):
        real_folder(path, folder)
    if content == _CONTENT:
        return not writable
    if _is_of_another_version(content):
        raise StorageError(
            f"'{path}' was made by another version of Obverse; use that, or a new folder."
        )
    # Shards have checksums of their own, so that a damaged marker loses nothing.
    known = "shards" in names and {name.partition("-")[0] for name in names} <= {*_OURS, MARKER}
    if names and not known:
        others = sorted(names - {MARKER}) or [MARKER]
        raise StorageError(
            f"'{path}' holds other files ('{others[0]}') and no store; choose an empty or new "
            "folder."
        )
    if not writable:
        raise StorageError(
            f"'{path}' is read-only and its '{MARKER}' is "
            f"{'damaged' if content else 'missing'}; copy it to a place that can be written."
        )
    if known:
        state = "damaged" if content else "missing"
        warnings.warn(f"'{marker}' was {state}; it is written again.", stacklevel=3)
    _mark(path)
    return False


def _mark(path: Path) -> None:
    marker = path / MARKER
    try:
        write(marker, _CONTENT)
    except StorageError:
        # Somebody else, who makes the same store, took this one's partial file for a leftover.
        if not is_real(marker) or read_bytes(marker, _MOST_BYTES, links=False) != _CONTENT:
            raise
    for leftover in path.glob(f"{TEMPORARY_PREFIX}*-{MARKER}"):
        if is_real(leftover):
            remove(leftover)


def _is_of_another_version(content: bytes) -> bool:
    """Whether it is a whole marker, and not a damaged one of this version."""
    try:
        body: Any = json.loads(content)["body"]
        return seal_json(body) == content and body["format"] == _NAME
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
