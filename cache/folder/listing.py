"""What lies in the folder of a store, told from the names of the files alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cache.files import TEMPORARY_PREFIX, real_folder, storage_errors
from cache.shards.sidecar import is_shard
from cache.shards.writer import DATA, DESCRIPTION, SHARDS, part_of, shard_path

__all__ = ["committed", "is_committed", "orphans", "partials", "writer_of"]

_PART = re.compile(r"[0-9a-f]{2}")
_TOKEN = re.compile(r"[0-9a-f]{16}")


def committed(root: Path) -> Iterator[str]:
    """Ids of the shards that have a sidecar."""
    for folder, names in _folders(root):
        for name in names:
            if _is_shard(folder, name, DESCRIPTION):
                yield name.removesuffix(DESCRIPTION)


def is_committed(root: Path, shard: str) -> bool:
    """Whether a shard has a sidecar."""
    return os.path.lexists(shard_path(root, shard, DESCRIPTION))


def orphans(root: Path) -> Iterator[Path]:
    """Data without a sidecar: about to be committed, or what is left of a shard."""
    for folder, names in _folders(root):
        known = set(names)
        for name in names:
            if _is_shard(folder, name, DATA) and name.replace(DATA, DESCRIPTION) not in known:
                yield folder / name


def partials(root: Path) -> Iterator[Path]:
    """Files that are being written, or were when their writer died."""
    with storage_errors(root, "read"):
        here = root, sorted(os.listdir(root))
    for folder, names in (here, *_folders(root)):
        for name in names:
            if name.startswith(TEMPORARY_PREFIX) and _may_be_removed(folder / name):
                yield folder / name


def writer_of(path: Path) -> str:
    """The token of the writer whose file this is; "" if its name does not tell."""
    match = _TOKEN.match(path.name.removeprefix(TEMPORARY_PREFIX))
    return match[0] if match else ""


def _is_shard(folder: Path, name: str, suffix: str) -> bool:
    """Whether it is a file of ours in its place, and not something that somebody put there."""
    shard = name.removesuffix(suffix)
    return name.endswith(suffix) and is_shard(shard) and part_of(shard) == folder.name


def _may_be_removed(path: Path) -> bool:
    """Whether it is no folder, which nobody here has made; of a link only the link would go."""
    return path.is_symlink() or not path.is_dir()


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders that hold shards, with the names in each.

    Raises:
        StorageError: one of them is a symbolic link, or cannot be read.
    """
    shards = real_folder(root, SHARDS)
    with storage_errors(shards, "read"):
        if not shards.is_dir():
            return
        for part in sorted(filter(_PART.fullmatch, os.listdir(shards))):
            folder = real_folder(root, SHARDS, part)
            yield folder, sorted(os.listdir(folder))
