"""Weights in files, brought group by group: the next is read while one computes.

A group is what is used together: a block, or another module. While one is in use the next is read:
the one above in a pass upwards, the one below in a pass downwards, and the first one again after
the last. So two are in memory at a time, besides what somebody else still holds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from interp.errors import ModelError, first_sentence
from interp.loading.streaming.reading import PIECE, READERS, Job, Piece, Reader, plan
from interp.loading.streaming.slots import ALIGNED, NoMemory, Slots
from interp.loading.streaming.stored import Stored, check_stamps
from interp.model.memory import is_out_of_memory

__all__ = ["Source", "Stream"]

T = TypeVar("T")

_TOGETHER = 2


@dataclass(frozen=True)
class Source:
    """A weight that is read from the disk.

    Attributes:
        stored: where it stands.
        dtype: in which it is wanted.
    """

    stored: Stored
    dtype: torch.dtype


@dataclass(frozen=True)
class _Group:
    """What is brought together, and how.

    Attributes:
        files: weights that are read, by name.
        held: weights that are in memory, perhaps elsewhere.
        pieces: in which files are read.
        offsets, size: where each weight goes in memory, and how much there is.
    """

    files: Mapping[str, Source]
    held: Mapping[str, Tensor]
    pieces: tuple[Piece, ...]
    offsets: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, weights: Mapping[str, Source | Tensor]) -> _Group:
        files = {name: one for name, one in weights.items() if isinstance(one, Source)}
        held = {name: one for name, one in weights.items() if isinstance(one, Tensor)}
        offsets, end = [], 0
        for one in files.values():
            offsets.append(end)
            end += -(-one.stored.numel * one.dtype.itemsize // ALIGNED) * ALIGNED
        pieces = plan([one.stored for one in files.values()])
        return cls(files, held, pieces, tuple(offsets), end)


class _Coming:
    """A group on its way."""

    def __init__(self, job: Job, tensors: dict[str, Tensor]) -> None:
        self.job, self.tensors = job, tensors


class Stream:
    """What `interp.model.elsewhere` asks for weights; read ahead of need.

    Args:
        groups: in the order in which a pass uses them, of each its weights by name.
        device: where they are wanted.

    Attributes:
        reads: how often each group was read, or begun to be.
        waited: seconds for which somebody had to wait for weights.
    """

    def __init__(
        self, groups: Mapping[str, Mapping[str, Source | Tensor]], device: torch.device
    ) -> None:
        self._device = device
        self._groups = {name: _Group.of(weights) for name, weights in groups.items()}
        # What is in memory already is not read ahead.
        self._order = [name for name, group in self._groups.items() if group.files]
        self._place = {name: number for number, name in enumerate(self._order)}
        self._weights = {name: one for weights in groups.values() for name, one in weights.items()}
        sizes = sorted(group.size for group in self._groups.values() if group.files)
        # Tables of a large vocabulary are larger than blocks, and fewer.
        usual = sizes[len(sizes) // 2] if sizes else 0
        size = max((n for n in sizes if n <= usual * 5 // 4), default=0)
        self.slots = Slots(size, _TOGETHER)
        self._larger = max((n for n in sizes if n > size), default=0)
        self.stamps = {
            one.stored.path: one.stored.stamp
            for one in self._weights.values()
            if isinstance(one, Source)
        }
        self._reader = Reader()
        self._lock, self._process = threading.RLock(), os.getpid()
        self.coming: dict[str, _Coming] = {}
        self._leaving: Job | None = None
        self._current, self._step = -1, 1
        self.reads = dict.fromkeys(self._order, 0)
        self.waited = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that it takes while the model runs: two groups, and what is being read."""
        return self.slots.nbytes + self._larger + READERS * PIECE

    @property
    def to_take(self) -> int:
        """What of that it has not taken yet."""
        return self.slots.nbytes + self._larger - self.slots.taken

    @property
    def stored_bytes(self) -> int:
        """Bytes that a whole pass reads."""
        files = (one for group in self._groups.values() for one in group.files.values())
        return sum(one.stored.nbytes for one in files)

    # -- what is asked for -------------------------------------------------------------------------

    def group(self, name: str) -> Mapping[str, Tensor]:
        """All weights of a group by name, in their dtype, where they are wanted.

        They are the caller's: their memory is used again when nobody holds them any more.

        Raises:
            ModelError: they cannot be read, or are not those that were there before.
        """
        held = {n: one.to(self._device) for n, one in self._groups[name].held.items()}
        if name not in self._place:
            return held
        with self._lock:
            self._renew()
            foreseen = self.coming.pop(name, None)
            coming = foreseen or self._room(lambda: self._begin(name), slot=True)
            # Where there is no memory to look ahead it is read when it is asked for.
            with contextlib.suppress(NoMemory):
                self._look_ahead(name)
            self._finish(coming)
            if foreseen is not None and coming.job.error is not None:
                # Maybe that was long ago, for somebody who never came to ask for it.
                del foreseen, coming  # and their memory
                coming = self._room(lambda: self._begin(name), slot=True)
            tensors = self._wait(coming)
        return tensors | held

    def one(self, name: str, begin: int = 0) -> Tensor:
        """One weight by name, in its dtype; on the CPU if it is read, and nothing else is.

        Args:
            begin: its address in memory, modulo `ALIGNED`.
        """
        one = self._weights[name]
        if isinstance(one, Tensor):
            return one
        alone = _Group.of({name: one})
        with self._lock:
            self._renew()
            memory = self._room(
                lambda: torch.empty(alone.size + ALIGNED, dtype=torch.uint8), slot=False
            )
            memory = memory[(begin - memory.data_ptr()) % ALIGNED :][: alone.size]
            return self._wait(self._start(alone, memory))[name]

    def is_stored(self, name: str) -> bool:
        """Whether a weight is read from a file."""
        return isinstance(self._weights[name], Source)

    def state(self) -> Hashable:
        """The same as long as the weights are.

        Raises:
            ModelError: a file is no longer the one that was looked at.
        """
        check_stamps(self.stamps)
        held = (one for one in self._weights.values() if isinstance(one, Tensor))
        return (*self.stamps.items(), *((one.data_ptr(), one._version) for one in held))

    def close(self) -> None:
        """Let go of what was read ahead and end the threads; what is asked for next is read."""
        with self._lock:
            self._forget()
            self._reader.close()

    # -- reading ahead -----------------------------------------------------------------------------

    def _renew(self) -> None:
        if self._process != os.getpid():
            # A forked process has no threads that read.
            self._process, self._reader = os.getpid(), Reader()
            self.coming.clear()
            self._leaving = None

    def _look_ahead(self, name: str) -> None:
        here, n = self._place[name], len(self._order)
        # One above or below the last, or a new beginning, which is mostly from below.
        self._step = -1 if 0 <= here == self._current - 1 and self._current < n else 1
        self._current = here
        ahead = here + self._step
        if not 0 <= ahead < n:
            ahead = 0 if ahead == n else min(1, n - 1)
        wanted = self._order[ahead]
        if wanted != name and wanted not in self.coming:
            self._forget()
            self.coming[wanted] = self._begin(wanted)

    def _forget(self) -> None:
        """What was foreseen is not wanted."""
        for coming in self.coming.values():
            coming.job.cancelled = True
            self._leaving = coming.job
        self.coming.clear()

    def _room(self, take: Callable[[], T], *, slot: bool) -> T:
        """What is asked for now, if need be in place of what was read ahead.

        Args:
            slot: whether it goes where that was read to.
        """
        try:
            return take()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._forget()
        self._leave()
        if not slot:
            self.slots.release()
        return take()

    def _leave(self) -> None:
        """Wait, no longer than for the pieces that are being read, until its memory is free."""
        if self._leaving is not None:
            self._leaving.done.wait()
            self._leaving = None

    def _begin(self, name: str) -> _Coming:
        self._leave()
        group = self._groups[name]
        on_cpu = self._device.type == "cpu"
        if on_cpu:
            memory = self.slots.take(group.size)
        else:
            memory = torch.empty(group.size, dtype=torch.uint8, device=self._device)
        coming = self._start(group, memory)
        self.reads[name] += 1
        return coming

    def _start(self, group: _Group, memory: Tensor) -> _Coming:
        # Under inference mode they could never take part in a gradient.
        with torch.inference_mode(False), torch.no_grad():
            flat = [
                memory[at : at + one.stored.numel * one.dtype.itemsize].view(one.dtype)
                for at, one in zip(group.offsets, group.files.values(), strict=True)
            ]
            tensors = {
                name: values.view(one.stored.shape)
                for (name, one), values in zip(group.files.items(), flat, strict=True)
            }
        stored: Sequence[Stored] = [one.stored for one in group.files.values()]
        job = Job(group.pieces, stored, flat)
        self._reader.start(job)
        return _Coming(job, tensors)

    def _finish(self, coming: _Coming) -> None:
        if not coming.job.done.is_set():
            begun = time.perf_counter()
            coming.job.done.wait()
            self.waited += time.perf_counter() - begun

    def _wait(self, coming: _Coming) -> dict[str, Tensor]:
        self._finish(coming)
        error = coming.job.error
        if isinstance(error, ModelError):
            raise error
        if error is not None:
            raise ModelError(
                f"Weights cannot be read from the disk: {first_sentence(error)}"
            ) from error
        return coming.tensors
