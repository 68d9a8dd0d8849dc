"""What lies in the folder of a store, told from the names of the files alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cache.files import TEMPORARY_PREFIX, storage_errors
from cache.shard import DATA, DESCRIPTION, shard_path

__all__ = ["committed", "is_committed", "orphans", "partials", "writer_of"]

_SHARD = re.compile(r"[0-9a-f]{16}-[0-9a-f]{6}")
_TOKEN = re.compile(r"[0-9a-f]{16}")


def committed(root: Path) -> Iterator[str]:
    """Ids of the shards that have a sidecar."""
    for folder, names in _folders(root):
        for name in names:
            if name.endswith(DESCRIPTION) and _is_shard(root, folder / name, DESCRIPTION):
                yield name.removesuffix(DESCRIPTION)


def is_committed(root: Path, shard: str) -> bool:
    """Whether a shard has a sidecar."""
    return shard_path(root, shard, DESCRIPTION).exists()


def orphans(root: Path) -> Iterator[Path]:
    """Data without a sidecar: about to be committed, or what is left of a shard."""
    for folder, names in _folders(root):
        known = set(names)
        for name in names:
            alone = name.endswith(DATA) and name.removesuffix(DATA) + DESCRIPTION not in known
            if alone and _is_shard(root, folder / name, DATA):
                yield folder / name


def partials(root: Path) -> Iterator[Path]:
    """Files that are being written, or were when their writer died."""
    with storage_errors(root, "read"):
        yield from sorted(root.glob(f"{TEMPORARY_PREFIX}*"))
    for folder, names in _folders(root):
        yield from (folder / name for name in names if name.startswith(TEMPORARY_PREFIX))


def writer_of(path: Path) -> str:
    """The token of the writer whose file this is; "" if its name does not tell."""
    match = _TOKEN.match(path.name.removeprefix(TEMPORARY_PREFIX))
    return match[0] if match else ""


def _is_shard(root: Path, path: Path, suffix: str) -> bool:
    """Whether it is a file of ours in its place, and not something that somebody put there."""
    shard = path.name.removesuffix(suffix)
    return bool(_SHARD.fullmatch(shard)) and shard_path(root, shard, suffix) == path


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders that hold shards, with the names in each."""
    shards = root / "shards"
    with storage_errors(shards, "read"):
        if not shards.is_dir():
            return
        for part in sorted(os.listdir(shards)):
            if (shards / part).is_dir():
                yield shards / part, sorted(os.listdir(shards / part))
