"""Groups of weights in a file, and what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from interp.loading.streaming.stored import stored_in
from interp.loading.streaming.stream import Source, Stream

N = 4
SHAPES = {"a": (33, 70), "b": (5,), "c": (200, 64), "d": (), "e": (0, 3)}


def of(file: Path, dtype: torch.dtype | None = None) -> Stream:
    """Groups 0 to 3 of a file; in the dtype of the file if none is given."""
    groups: dict[str, dict[str, Source | Tensor]] = {str(i): {} for i in range(N)}
    for name, stored in stored_in(file).items():
        groups[name[0]][name] = Source(stored, dtype or stored.dtype)
    return Stream(groups, torch.device("cpu"))


def everything(stream: Stream) -> None:
    for group in range(N):
        stream.group(str(group))


def agree(found: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> bool:
    return len(found) == len(SHAPES) and all(
        value.dtype == numbers[name].dtype and torch.equal(value, numbers[name])
        for name, value in found.items()
    )
