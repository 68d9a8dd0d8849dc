"""Where the numbers of a weight stand: a file, a place in it, a shape and a type.

The header of a safetensors file is JSON, read within bounds; nothing in it is evaluated.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.errors import StorageError
from cache.files import open_regular, storage_errors
from interp.errors import ModelError

__all__ = ["Stamp", "Stored", "changed", "check_stamps", "stored_in"]

_MOST_HEADER = 100 << 20  # bytes; safetensors itself reads no larger one
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Stamp:
    """What shows that a file is the one that was looked at.

    Attributes:
        size: in bytes.
        changed: when its content was last changed, in nanoseconds.
        touched: when it was last written to or renamed, in nanoseconds, which no program can set.
        inode, device: which file it is.
    """

    size: int
    changed: int
    touched: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(status.st_size, *times, status.st_ino, status.st_dev)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, row by row as PyTorch lays it out.

    Attributes:
        path: the file.
        begin: its first byte.
        shape: of the tensor.
        dtype: as the file has it.
        stamp: of the file when its header was read.
    """

    path: Path
    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    stamp: Stamp

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


def stored_in(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, by name; their numbers are not read.

    Raises:
        ModelError: the file is missing, truncated or damaged, or its types are unknown.
    """
    try:
        header, begin, stamp = _header(path)
    except StorageError as error:
        raise ModelError(str(error)) from error
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(found, dict):
        raise _damaged(path)
    return {
        name: _stored(path, name, entry, begin, stamp)
        for name, entry in found.items()
        if name != "__metadata__"
    }


def check_stamps(stamps: Mapping[Path, Stamp]) -> None:
    """Raise a ModelError if a file is not the one that it was."""
    for path, stamp in stamps.items():
        try:
            now = Stamp.of(os.stat(path))
        except OSError as error:
            raise changed(path) from error
        if now != stamp:
            raise changed(path)


def changed(path: Path) -> ModelError:
    """The error for a file that is not the one that it was."""
    return ModelError(
        f"'{path}' is no longer the file that the model was loaded from, and some of its blocks "
        "are read from there; load the model again."
    )


def _header(path: Path) -> tuple[bytes, int, Stamp]:
    """The header of a file, where its numbers begin, and which file that was."""
    # Files of a hub's cache are links to where the content is.
    with storage_errors(path, "read"), open(open_regular(path, links=True), "rb") as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        head = file.read(8)
        size = int.from_bytes(head, "little")
        if len(head) < 8 or size > min(_MOST_HEADER, stamp.size - 8):
            raise _damaged(path)
        return file.read(size), 8 + size, stamp


def _stored(path: Path, name: str, entry: Any, data: int, stamp: Stamp) -> Stored:
    entry = entry if isinstance(entry, dict) else {}
    shape, place = entry.get("shape"), entry.get("data_offsets")
    if not (_counts(shape) and _counts(place) and len(place) == 2):
        raise _damaged(path)
    dtype = _DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise ModelError(
            f"'{path}' holds '{name[:80]}' as {str(entry.get('dtype'))[:20]}, which cannot be read "
            "from the disk block by block; save the model in bfloat16 or float32."
        )
    begin, end = place
    if end - begin != math.prod(shape) * dtype.itemsize or data + end > stamp.size:
        raise _damaged(path)
    return Stored(path, data + begin, tuple(shape), dtype, stamp)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _damaged(path: Path) -> ModelError:
    return ModelError(f"'{path}' is truncated or damaged; copy the file again from its source.")
