"""What a safetensors file says that it holds, before any of it is read or mapped.

The header is JSON, read within bounds; nothing in it is evaluated. To map the file, as safetensors
does for this, would take as much of what a process may address as all the weights.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cache.errors import StorageError
from cache.files import open_regular, storage_errors
from cache.members import each_once
from interp.errors import ModelError

__all__ = ["Entry", "damaged", "header"]

_MOST_HEADER = 100 << 20  # bytes; safetensors itself reads no larger one
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}


class Entry(NamedTuple):
    """A tensor as the header of its file has it.

    Attributes:
        dtype: as safetensors names it: "F32", "BF16", "I8".
        shape: of the tensor.
        begin, end: its bytes in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header(path: Path) -> tuple[Mapping[str, Entry], os.stat_result]:
    """The tensors of a safetensors file by name, and which file that was.

    Raises:
        ModelError: it is missing or truncated, or its tensors do not fill it one after the other.
    """
    try:
        text, begin, status = _text(path)
    except StorageError as error:
        raise ModelError(str(error)) from error
    try:
        found = json.loads(text, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:
        raise damaged(path) from error
    if not isinstance(found, dict):
        raise damaged(path)
    found.pop("__metadata__", None)
    entries = {name: _entry(path, one, begin) for name, one in found.items()}
    end = begin
    for one in sorted(entries.values(), key=lambda one: (one.begin, one.end)):
        if one.begin != end:
            raise damaged(path)
        end = one.end
    if end != status.st_size:
        raise damaged(path)
    return entries, status


def damaged(path: Path) -> ModelError:
    """The error for a file that does not hold what it says."""
    return ModelError(f"'{path}' is truncated or damaged; copy the file again from its source.")


def _text(path: Path) -> tuple[bytes, int, os.stat_result]:
    """The header of a file, where its numbers begin, and which file that was."""
    # Files of a hub's cache are links to where the content is.
    with storage_errors(path, "read"), open(open_regular(path, links=True), "rb") as file:
        status = os.fstat(file.fileno())
        head = file.read(8)
        size = int.from_bytes(head, "little")
        if len(head) < 8 or size > min(_MOST_HEADER, status.st_size - 8):
            raise damaged(path)
        return file.read(size), 8 + size, status


def _entry(path: Path, given: Any, data: int) -> Entry:
    given = given if isinstance(given, dict) else {}
    dtype, shape, place = (given.get(name) for name in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _counts(shape) and _counts(place) and len(place) == 2):
        raise damaged(path)
    begin, end = place
    known = _BYTES.get(dtype)  # of others several numbers may share a byte
    if end < begin or (known is not None and end - begin != math.prod(shape) * known):
        raise damaged(path)
    return Entry(dtype, tuple(shape), data + begin, data + end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
