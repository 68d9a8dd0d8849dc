"""Shards: files that hold the activations of some rows at some sites.

A writer knows from the start what will come, so the file has its final size before the first
number is written and a full disk is noticed there. A reader maps the file; a MiB of it is checked
against the sidecar before its first use.
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
from cache.sidecar import DIGEST, Sidecar, digest
from cache.space import Ids, SiteShape, Space

__all__ = ["DATA", "DESCRIPTION", "ShardReader", "ShardWriter", "read_sidecar", "shard_path"]

DATA = ".safetensors"
DESCRIPTION = ".json"
_TORCH = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "I64": torch.int64,
}


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


class ShardReader:
    """Reads one committed shard.

    Raises:
        StorageError: the file is gone.
        DamageError: its size is not the sidecar's.
    """

    def __init__(self, root: Path, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self._layout = sidecar.layout
        path = shard_path(root, sidecar.id, DATA)
        with storage_errors(path, "read"):
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(self._file).st_size
                if size != self._layout.size:
                    raise DamageError(
                        f"the file has {size:,} bytes instead of {self._layout.size:,}"
                    )
                self._bytes = _map(self._file, writable=False)
            except BaseException:
                os.close(self._file)
                raise
        self._checked = np.zeros(self._layout.n_blocks, dtype=np.bool_)

    def __del__(self) -> None:
        # Maps that were given out stay valid; the file goes when the last of them does.
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._file)

    @property
    def evicted(self) -> bool:
        """Whether the file has no name any more, and exists only as long as it is open here."""
        return os.fstat(self._file).st_nlink == 0

    def tensor(self, site: str, first: int = 0, beyond: int | None = None) -> Tensor:
        """The rows `first` to `beyond` at `site` [token, *width]: memory-mapped, not copied.

        It can be edited; edits stay in memory, and neither the file nor later reads see them.

        Raises:
            DamageError: a block of it is not what was written.
        """
        field = self._layout.fields[site]
        begin, end = self._range(site, first, self.sidecar.n_rows if beyond is None else beyond)
        self.check(begin, end)
        # A map of its own, so that nobody's edits reach another reader.
        own = _map(self._file, writable=True)
        count = (end - begin) // _TORCH[field.code].itemsize
        flat = torch.frombuffer(own, dtype=_TORCH[field.code], offset=begin, count=count)
        return flat.reshape(-1, *field.shape[1:])

    def vectors(self, site: str, tokens: Any) -> Tensor:
        """A copy of single tokens at `site` [token, *width]; `tokens` count from the shard's start.

        Raises:
            DamageError: a block of it is not what was written.
        """
        field = self._layout.fields[site]
        width = field.nbytes // field.shape[0]
        index = np.asarray(tokens, dtype=np.int64)
        begins = field.begin + index * width
        first, last = begins // BLOCK, (begins + width - 1) // BLOCK
        for block in (
            np.unique(np.concatenate([first, last]))
            if len(index) > 1
            else {
                int(first[0]),
                int(last[0]),
            }
        ):
            self._check_block(int(block))
        whole = np.frombuffer(self._bytes, np.uint8, field.nbytes, field.begin)
        found = torch.from_numpy(whole.reshape(field.shape[0], width)[index])
        return found.view(_TORCH[field.code]).reshape(-1, *field.shape[1:])

    def ids(self, row: int) -> Ids:
        """The token ids of a row (a copy)."""
        begin, end = self._range(TOKENS, row, row + 1)
        self.check(begin, end)
        return np.frombuffer(self._bytes, "<i4", (end - begin) // 4, begin).copy()

    def check(self, begin: int, end: int) -> None:
        """Compare the blocks that hold bytes `begin` to `end` with the sidecar, each once.

        Raises:
            DamageError: one of them is not what was written.
        """
        self._check_block(0)
        for block in range(begin // BLOCK, -(-end // BLOCK)):
            self._check_block(block)

    def check_all(self) -> list[int]:
        """The numbers of all damaged blocks."""
        damaged = []
        for block in range(self._layout.n_blocks):
            try:
                self._check_block(block)
            except DamageError:
                damaged.append(block)
        return damaged

    def _range(self, site: str, first: int, beyond: int) -> tuple[int, int]:
        field = self._layout.fields[site]
        width = field.nbytes // max(1, field.shape[0])
        offsets = self.sidecar.offsets
        return field.begin + int(offsets[first]) * width, field.begin + int(offsets[beyond]) * width

    def _check_block(self, block: int) -> None:
        if self._checked[block]:
            return
        begin = block * BLOCK
        with memoryview(self._bytes) as view:
            found = digest(view[begin : min(begin + BLOCK, self._layout.size)])
        if found != self.sidecar.blocks[block * DIGEST : (block + 1) * DIGEST]:
            raise DamageError(f"MiB {block} of the file is not what was written")
        header = self._layout.header
        if block == 0 and self._bytes[: len(header)] != header:
            raise DamageError("the header does not fit the sidecar")
        self._checked[block] = True


def _map(descriptor: int, *, writable: bool) -> mmap.mmap:
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
    with _map(descriptor, writable=False) as content, memoryview(content) as view:
        found = []
        for begin in range(0, size, BLOCK):
            with view[begin : begin + BLOCK] as block:
                found.append(digest(block))
        return b"".join(found)
