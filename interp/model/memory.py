"""How much to compute at once: from an estimate, and halved when memory runs out after all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from interp.errors import ObverseError
from interp.model.limits import available_memory
from interp.model.model import Model
from interp.model.threads import threads_for

__all__ = [
    "MemoryExhausted",
    "available_memory",
    "batches",
    "fitting_threads",
    "is_out_of_memory",
    "memory_budget",
    "room_to_keep",
    "rows_that_fit",
]

T = TypeVar("T")

# On a CPU a batch should be large enough that reading a block's weights is shared by many rows,
# and beyond that small enough that activations stay near the caches. Measured on two cores: a
# 0.3 M-parameter model is twice as fast at 32 MiB as at 256, GPT-2 small is fastest from about
# eleven times a block's weights on.
_CPU_BUDGET = 32 << 20
_CPU_WEIGHTS = 11
# What may be kept where the system does not tell how much there is.
_CPU_KEPT = 1 << 30


class MemoryExhausted(ObverseError):
    """Not even one row fits."""


def memory_budget(model: Model) -> int:
    """Bytes that one batch may take: half of a GPU's free memory; on a CPU what is fastest.

    What a sweep has recorded of its prompts, as many at a time as fit, may take as much again.
    """
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        # What torch keeps for later use is free as well.
        kept = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
        return (free + kept) // 2
    wanted = max(_CPU_BUDGET, _CPU_WEIGHTS * model.block_bytes)
    available = available_memory()
    if available is None:
        return wanted
    if model.elsewhere is not None:
        # Each batch brings all blocks, which takes longer than anything that a larger one costs.
        return max(1 << 20, (available - model.elsewhere.reader.to_take) // 3)
    return max(1 << 20, min(wanted, available // 4))


def room_to_keep(model: Model) -> int:
    """Bytes that may be kept from pass to pass, beside what each pass takes."""
    if model.device.type == "cuda":
        return memory_budget(model) // 2
    available = available_memory()
    if available is not None and model.elsewhere is not None:
        available = max(0, available - model.elsewhere.reader.to_take)
    return _CPU_KEPT if available is None else available // 4


@contextlib.contextmanager
def fitting_threads(model: Model) -> Iterator[None]:
    """Inside, a small model on the CPU is computed by one thread."""
    with threads_for(model.n_parameters, model.device):
        yield


def rows_that_fit(model: Model, bytes_per_row: int) -> int:
    """How many rows to put into one batch; at least 1."""
    return max(1, memory_budget(model) // max(1, bytes_per_row))


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
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise MemoryExhausted(
                    "Memory ran out on a single prompt; shorten the prompts, load the model in "
                    "bfloat16, or use a machine with more memory."
                ) from error
        else:
            yield start, stop, result
            start = stop
            continue
        # Here the error is gone, and with it what the failed piece held.
        size = max(1, min(size, stop - start) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the allocator of a CPU or GPU raised this."""
    # The CPU allocator raises a bare RuntimeError, known only by its text.
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
