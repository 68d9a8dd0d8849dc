"""Shards: files that hold the activations of some rows at some sites.

A writer knows from the start what will come, so the file has its final size before the first
number is written and a full disk is noticed there.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.errors import DamageError, StorageError
from cache.files import TEMPORARY_PREFIX, flush, read_bytes, remove, storage_errors, write_atomic
from cache.layout import BLOCK, OFFSETS, TOKENS, Layout
from cache.sidecar import Sidecar, digest
from cache.space import Ids, SiteShape, Space

__all__ = ["DATA", "DESCRIPTION", "ShardWriter", "map_file", "read_sidecar", "shard_path"]

DATA = ".safetensors"
DESCRIPTION = ".json"


def shard_path(root: Path, shard: str, suffix: str) -> Path:
    """Where a shard's data or description stands: in one of 256 folders, so that none is huge."""
    return root / "shards" / digest(shard.encode()).hex()[:2] / f"{shard}{suffix}"


def read_sidecar(root: Path, shard: str) -> Sidecar:
    """The sidecar of a committed shard.

    Raises:
        StorageError: there is none.
        DamageError: it is not what was written.
    """
    sidecar = Sidecar.decode(read_bytes(shard_path(root, shard, DESCRIPTION)))
    if sidecar.id != shard:
        raise DamageError("the sidecar is of another shard")
    return sidecar


class ShardWriter:
    """Writes one shard: `append` for each site in the order of the rows, then `commit`.

    A context manager: what is not committed at the end of the block is removed.
    """

    def __init__(
        self,
        root: Path,
        shard: str,
        space: Space,
        sites: Sequence[SiteShape],
        rows: Sequence[Ids],
    ) -> None:
        """Make the file, at its full size.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        self._space, self._sites, self._rows = space, tuple(sites), rows
        self._root, self._shard = root, shard
        self._lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
        self._layout = Layout.of(sites, space.dtype, int(self._lengths.sum()), len(rows))
        self._target = shard_path(root, shard, DATA)
        self._partial = self._target.with_name(f"{TEMPORARY_PREFIX}{shard}{DATA}")
        self._next = {site.name: self._layout.fields[site.name].begin for site in sites}
        with storage_errors(self._target, "written"):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._file: int | None = os.open(
                self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            try:
                _reserve(self._file, self._layout.size)
                _write(self._file, self._layout.header, 0)
            except BaseException:
                self._discard()
                raise
        self._put(TOKENS, np.concatenate(list(rows)).astype("<i4"))
        self._put(OFFSETS, np.concatenate([[0], np.cumsum(self._lengths)]).astype("<i8"))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def append(self, values: Mapping[str, Tensor]) -> None:
        """Write the next tokens [token, *width] of each site; they are cast to the space's dtype.

        Raises:
            StorageError: the disk reports an error.
            ValueError: they are of another shape, or more than the shard holds.
        """
        for name, tensor in values.items():
            field = self._layout.fields[name]
            if tuple(tensor.shape[1:]) != field.shape[1:]:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}")
            stored = tensor.detach().to("cpu", self._space.torch_dtype).contiguous()
            begin = self._next[name]
            if begin + stored.nbytes > field.end:
                raise ValueError(f"{name} has more tokens than the shard")
            self._next[name] = begin + stored.nbytes
            self._at(stored.reshape(-1).view(torch.uint8).numpy(), begin)

    def commit(self) -> Sidecar:
        """Flush the data, give them their name, and write the sidecar.

        Raises:
            StorageError: the disk reports an error; then nothing is committed.
        """
        assert self._file is not None
        for site in self._sites:
            if self._next[site.name] != self._layout.fields[site.name].end:
                raise ValueError(f"{site.name} lacks tokens")
        with storage_errors(self._target, "written"):
            blocks = _digests(self._file, self._layout.size)
            os.fsync(self._file)
        sidecar = Sidecar(
            self._shard,
            self._space,
            self._sites,
            self._lengths,
            b"".join(self._space.keys(self._rows)),
            blocks,
            time.time(),
        )
        with storage_errors(self._target, "written"):
            os.replace(self._partial, self._target)
            flush(self._target.parent)
        try:
            write_atomic(
                shard_path(self._root, self._shard, DESCRIPTION),
                sidecar.encode(),
                temporary=f"{TEMPORARY_PREFIX}{self._shard}{DESCRIPTION}",
            )
        except BaseException:
            with contextlib.suppress(StorageError):
                remove(self._target)
            raise
        self._discard()
        return sidecar

    def _put(self, name: str, values: Any) -> None:
        self._at(values.view(np.uint8), self._layout.fields[name].begin)

    def _at(self, data: Any, begin: int) -> None:
        assert self._file is not None
        with storage_errors(self._target, "written"):
            _write(self._file, data, begin)

    def _discard(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with contextlib.suppress(OSError):
                self._partial.unlink()


def map_file(descriptor: int, *, writable: bool) -> mmap.mmap:
    """The whole of an open file as memory; writing to it changes nobody else's."""
    # Private: writing changes the copy in memory only, never the file.
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=protection)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):
                raise
    os.ftruncate(descriptor, size)


def _write(descriptor: int, data: Any, begin: int) -> None:
    with memoryview(data) as view, view.cast("B") as rest:
        done = 0
        while done < len(rest):
            done += os.pwrite(descriptor, rest[done:], begin + done)


def _digests(descriptor: int, size: int) -> bytes:
    with map_file(descriptor, writable=False) as content, memoryview(content) as view:
        found = []
        for begin in range(0, size, BLOCK):
            with view[begin : begin + BLOCK] as block:
                found.append(digest(block))
        return b"".join(found)
