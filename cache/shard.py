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

from cache.errors import DamageError, GoneError, StorageError
from cache.files import TEMPORARY_PREFIX, flush, read_bytes, remove, storage_errors, write_atomic
from cache.layout import BLOCK, OFFSETS, TOKENS, Layout
from cache.locks import StoreLock
from cache.sidecar import MOST_BYTES, Sidecar, digest
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
        GoneError: there is none.
        DamageError: it is not what was written.
    """
    path = shard_path(root, shard, DESCRIPTION)
    try:
        content = read_bytes(path, MOST_BYTES + 1)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise GoneError(f"Shard {shard} of '{root}' is gone.") from error
        raise
    sidecar = Sidecar.decode(content)
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
        with storage_errors(self._target, "written"):
            _make_part(self._target.parent)
            self._file: int | None = os.open(
                self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            try:
                _reserve(self._file, self._layout.size)
                _write(self._file, self._layout.header, 0)
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
            StorageError: the disk reports an error, or float16 cannot hold them.
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
            self._at(stored.reshape(-1).view(torch.uint8).numpy(), begin)

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
            blocks = _digests(self._file, self._layout.size)
            os.fsync(self._file)
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


def map_file(descriptor: int) -> mmap.mmap:
    """The whole of an open file as memory that can be read."""
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def _make_part(folder: Path) -> None:
    """Make one of the folders that hold shards, so that it outlives a power cut."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for parent in folder.parents[:2]:
            flush(parent)


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
    with map_file(descriptor) as content, memoryview(content) as view:
        found = []
        for begin in range(0, size, BLOCK):
            with view[begin : begin + BLOCK] as block:
                found.append(digest(block))
        return b"".join(found)
