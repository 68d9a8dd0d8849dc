"""Shards: files that hold the activations of some rows at some sites.

A writer knows from the start what will come, so the file has its final size before the first
number is written and a full disk is noticed there.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.errors import DamageError, GoneError, StorageError
from cache.files import (
    TEMPORARY_PREFIX,
    flush,
    is_real,
    read_bytes,
    real_folder,
    remove,
    storage_errors,
    write_atomic,
)
from cache.keys.space import Ids, SiteShape, Space
from cache.locks import StoreLock
from cache.shards.layout import OFFSETS, TOKENS, Layout
from cache.shards.output import Output
from cache.shards.sidecar import MOST_BYTES, Sidecar, digest, is_shard

__all__ = ["DATA", "DESCRIPTION", "SHARDS", "ShardWriter", "part_of", "read_sidecar", "shard_path"]

SHARDS = "shards"
DATA = ".safetensors"
DESCRIPTION = ".json"


def shard_path(root: Path, shard: str, suffix: str) -> Path:
    """Where a shard's data or description stands.

    Raises:
        DamageError: that is no shard's id: what an index says may lead anywhere.
        StorageError: one of the folders is a symbolic link, which may lead anywhere too.
    """
    if not is_shard(shard):
        raise DamageError("that is not the name of a shard")
    return real_folder(root, SHARDS, part_of(shard)) / f"{shard}{suffix}"


def part_of(shard: str) -> str:
    """In which of 256 folders a shard stands, so that none is huge."""
    return digest(shard.encode()).hex()[:2]


def read_sidecar(root: Path, shard: str) -> Sidecar:
    """The sidecar of a committed shard.

    Raises:
        GoneError: there is none.
        DamageError: it is not what was written.
    """
    path = shard_path(root, shard, DESCRIPTION)
    try:
        content = read_bytes(path, MOST_BYTES + 1, links=False)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise GoneError(f"Shard {shard} of '{root}' is gone.") from error
        if not is_real(path):
            raise DamageError("the sidecar is no regular file") from error
        raise
    sidecar = Sidecar.decode(content)
    if sidecar.id != shard:
        raise DamageError("the sidecar is of another shard")
    return sidecar


class ShardWriter:
    """Writes one shard: `append` for each site in the order of the rows, then `commit`.

    A context manager: what is not committed at the end of the block is removed. Another thread may
    be appending then, which an interrupt can leave without anybody who waits for it.
    """

    def __init__(
        self,
        root: Path,
        shard: str,
        space: Space,
        sites: Sequence[SiteShape],
        rows: Sequence[Ids],
        *,
        direct: bool = False,
    ) -> None:
        """Make the file, at its full size.

        Args:
            root: the store's folder.
            shard: its name.
            space: what the activations are of.
            sites: where they were taken.
            rows: token ids, in the order in which activations will come.
            direct: write past the page cache where possible: for much that is not read at once.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
            ValueError: a row is there twice, or has no tokens.
        """
        self._space, self._sites = space, tuple(sites)
        self._root, self._shard = root, shard
        self._keys = space.keys(rows)
        self._lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
        if len(set(self._keys)) < len(rows) or not all(map(len, rows)):
            raise ValueError("a row is there twice, or has no tokens")
        self._layout = Layout.of(sites, space.dtype, int(self._lengths.sum()), len(rows))
        self._target = shard_path(root, shard, DATA)
        self._partial = self._target.with_name(f"{TEMPORARY_PREFIX}{shard}{DATA}")
        self._next = {site.name: self._layout.fields[site.name].begin for site in sites}
        self._file: Output | None = None
        self._writing = threading.Lock()
        try:
            with storage_errors(self._target, "written"):
                _make_part(self._target.parent)
                self._file = Output(self._partial, self._layout.size, direct=direct)
                self._file.write(self._layout.header, 0)
                self._put(TOKENS, np.concatenate(list(rows)).astype("<i4"))
                self._put(OFFSETS, np.concatenate([[0], np.cumsum(self._lengths)]).astype("<i8"))
        except BaseException:
            self._discard()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it was neither committed nor given up."""
        return self._file is not None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def append(self, values: Mapping[str, Tensor]) -> None:
        """Write the next tokens [token, *width] of each site; they are cast to the space's dtype.

        Raises:
            StorageError: the disk reports an error, float16 cannot hold them, or the shard was
                given up.
            ValueError: they are of another shape, or more than the shard holds.
        """
        for name, tensor in values.items():
            field = self._layout.fields[name]
            if tuple(tensor.shape[1:]) != field.shape[1:]:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
            stored = tensor.detach().to("cpu", self._space.torch_dtype).contiguous()
            if stored.dtype == torch.float16 != tensor.dtype and stored.isinf().any():
                raise StorageError(
                    f"Activations at '{name}' are too large for float16, which ends at 65,504; "
                    "store them as bfloat16 or float32."
                )
            begin = self._next[name]
            if begin + stored.nbytes > field.end:
                raise ValueError(f"{name} has more tokens than the shard")
            self._next[name] = begin + stored.nbytes
            with self._writing, storage_errors(self._target, "written"):
                if self._file is None:
                    raise StorageError(f"'{self._partial}' was given up; run it again.")
                self._file.write(stored.reshape(-1).view(torch.uint8).numpy(), begin)

    def commit(self) -> Sidecar:
        """Flush the data, give them their name, and write the sidecar.

        Raises:
            StorageError: the disk reports an error; then nothing is committed.
            GoneError: this process was taken for dead; likewise.
        """
        assert self._file is not None
        for site in self._sites:
            if self._next[site.name] != self._layout.fields[site.name].end:
                raise ValueError(f"{site.name} lacks tokens")
        with storage_errors(self._target, "written"):
            blocks = self._file.sync()
        sidecar = Sidecar(
            self._shard,
            self._space,
            self._sites,
            self._lengths,
            b"".join(self._keys),
            blocks,
            time.time(),
        )
        # Nobody takes the data for something left over before the sidecar has come.
        with StoreLock(self._root).shared():
            self._name(sidecar)
        self._discard()
        return sidecar

    def _name(self, sidecar: Sidecar) -> None:
        description = shard_path(self._root, self._shard, DESCRIPTION)
        with storage_errors(self._target, "written"):
            try:
                os.replace(self._partial, self._target)
            except FileNotFoundError as error:
                raise GoneError(
                    f"'{self._partial}' was removed, because this process did nothing for so long "
                    "that it was taken for dead; run it again."
                ) from error
        try:
            flush(self._target.parent)
            temporary = f"{TEMPORARY_PREFIX}{self._shard}{DESCRIPTION}"
            write_atomic(description, sidecar.encode(), temporary=temporary)
        except BaseException:
            for path in (description, self._target):
                with contextlib.suppress(StorageError):
                    remove(path)
            raise

    def _put(self, name: str, values: Any) -> None:
        assert self._file is not None
        self._file.write(values.view(np.uint8), self._layout.fields[name].begin)

    def _discard(self) -> None:
        with self._writing:
            file, self._file = self._file, None
            if file is not None:
                file.close()
                with contextlib.suppress(OSError):
                    self._partial.unlink()


def _make_part(folder: Path) -> None:
    """Make one of the folders that hold shards, so that it outlives a power cut."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for parent in folder.parents[:2]:
            flush(parent)
