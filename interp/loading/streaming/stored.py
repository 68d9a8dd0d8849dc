"""Where the numbers of a weight stand: a file, a place in it, a shape and a type."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from interp.errors import ModelError
from interp.loading.headers import Entry, header

__all__ = ["Stamp", "Stored", "changed", "check_stamps", "stored_in"]

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
    entries, status = header(path)
    stamp = Stamp.of(status)
    return {name: _stored(path, name, entry, stamp) for name, entry in entries.items()}


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


def _stored(path: Path, name: str, entry: Entry, stamp: Stamp) -> Stored:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise ModelError(
            f"'{path}' holds '{name[:80]}' as {entry.dtype[:20]}, which cannot be read from the "
            "disk block by block; save the model in bfloat16 or float32."
        )
    return Stored(path, entry.begin, entry.shape, dtype, stamp)
