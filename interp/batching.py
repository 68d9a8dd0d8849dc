"""How much to compute at once: from an estimate, and halved when memory runs out after all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from interp.errors import ObverseError

T = TypeVar("T")

# Beyond this, a larger batch on a CPU only leaves the cache: larger matrices are no faster.
_CPU_BUDGET = 256 << 20


class MemoryExhausted(ObverseError):
    """Not even one row fits."""


def memory_budget(device: torch.device) -> int:
    """Bytes that one batch may take: a fraction of what is free, capped on a CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.5)
    with contextlib.suppress(ValueError, OSError, AttributeError):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return max(1 << 20, min(_CPU_BUDGET, free // 4))
    return _CPU_BUDGET


def rows_that_fit(bytes_per_row: int, device: torch.device) -> int:
    """How many rows to put into one batch; at least 1."""
    return max(1, memory_budget(device) // max(1, bytes_per_row))


def batches(n: int, size: int, work: Callable[[int, int], T]) -> Iterator[tuple[int, int, T]]:
    """Run `work(start, stop)` over 0..n in pieces of `size`, halving the size on out-of-memory.

    Yields (start, stop, result). A piece that failed is tried again, smaller; nothing is lost.

    Raises:
        MemoryExhausted: a single row does not fit.
    """
    start = 0
    while start < n:
        stop = min(n, start + size)
        try:
            result = work(start, stop)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryExhausted(
                    "Memory ran out on a single prompt; shorten the prompts, load the model in "
                    "bfloat16, or use a machine with more memory."
                ) from error
            size = max(1, min(size, stop - start) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield start, stop, result
        start = stop


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The CPU allocator raises a bare RuntimeError, known only by its text.
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
