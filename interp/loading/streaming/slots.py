"""Memory that blocks are read into, one after another.

Memory is used again only when nobody can see it any more: neither a tensor, nor a view of one, nor
what PyTorch keeps for a gradient. Each use has an array of its own, and the end of that tells.
"""

from __future__ import annotations

import contextlib
import mmap
import queue
import weakref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["ALIGNED", "NoMemory", "Slots"]

ALIGNED = 64
"""Bytes. PyTorch lays tensors out like this; elsewhere some products differ in the last bit."""

NONE = "can't allocate memory: {} bytes for weights"


class NoMemory(RuntimeError):
    """There is none left; in the words of PyTorch's own allocator, so that batches get smaller."""


class Slots:
    """Pieces of memory of one size, handed out as tensors of bytes.

    Args:
        size: of each, in bytes.
        most: how many are meant to be used at a time; others are not kept.
    """

    def __init__(self, size: int, most: int) -> None:
        self.size = max(1, size)
        self._most = most
        # Filled from wherever the last tensor goes, which may be anywhere in Python.
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self.made = 0

    @property
    def nbytes(self) -> int:
        """What is meant to be used."""
        return self._most * self.size

    @property
    def taken(self) -> int:
        """What of that was asked of the system."""
        return min(self.made, self._most) * self.size

    def release(self) -> None:
        """Give back to the system what nobody uses."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait()
                self.made = min(self.made, self._most) - 1

    def take(self, size: int) -> Tensor:
        """So many bytes, whatever they hold; they come back when no tensor looks at them."""
        if size > self.size:
            try:
                return torch.empty(size, dtype=torch.uint8)
            except RuntimeError as error:
                raise NoMemory(NONE.format(size)) from error
        try:
            memory = self._free.get_nowait()
        except queue.Empty:
            try:
                memory = new_memory(self.size)
            except OSError as error:
                raise NoMemory(NONE.format(self.size)) from error
            self.made += 1
        array: npt.NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)
        back = weakref.finalize(array, _back, self._free, memory, self._most)
        back.atexit = False
        return torch.from_numpy(array)[:size]


def _back(free: queue.SimpleQueue[mmap.mmap], memory: mmap.mmap, most: int) -> None:
    if free.qsize() < most - 1:  # at least one is in use
        free.put(memory)


def new_memory(size: int) -> mmap.mmap:
    # Private memory counts for a limit on what a process may take.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
