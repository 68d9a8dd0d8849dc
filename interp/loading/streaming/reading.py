"""Reading blocks from the disk in the background, past the page cache where the system lets us.

Through the page cache a model larger than memory would push out everything else, itself included,
and each byte would be copied by the processor that is to multiply. So files are read with O_DIRECT
into a few small pieces of memory, from where numbers go to where they are used, in the dtype that
is wanted there; where O_DIRECT cannot be had, the cache is told to forget what was read.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cache.errors import StorageError
from cache.files import open_regular, storage_errors
from interp.errors import ModelError
from interp.loading.streaming.stored import Stamp, Stored, changed, check_stamps

__all__ = ["PIECE", "READERS", "Job", "Reader", "plan"]

PIECE = 8 << 20
"""Bytes that are read at once."""
READERS = 2
"""Threads that read: while one moves numbers, the other keeps the disk busy."""
_PAGE = 4096
# PyTorch divides longer copies among threads, which the model needs.
_SERIAL = 30_000


class _Part(NamedTuple):
    """Numbers of one tensor within a piece."""

    tensor: int
    first: int
    beyond: int
    at: int


@dataclass(frozen=True)
class Piece:
    """A stretch of a file.

    Attributes:
        begin, size: in bytes; whole pages, which may reach beyond the end of the file.
        needed: how many of them must be there.
        parts: what of it belongs to which tensor.
    """

    path: Path
    stamp: Stamp
    begin: int
    size: int
    needed: int
    parts: tuple[_Part, ...]


def plan(tensors: Sequence[Stored]) -> tuple[Piece, ...]:
    """The pieces in which some tensors are read, each byte once, in the order of their files."""
    order = sorted(range(len(tensors)), key=lambda i: (str(tensors[i].path), tensors[i].begin))
    pieces: list[Piece] = []
    parts: list[_Part] = []
    start = end = 0
    file: Stored | None = None

    def close() -> None:
        if file is not None and parts:
            size = -(-(end - start) // _PAGE) * _PAGE
            moved = tuple(part._replace(at=part.at - start) for part in parts)
            pieces.append(Piece(file.path, file.stamp, start, size, end - start, moved))
        parts.clear()

    for i in order:
        one, width = tensors[i], tensors[i].dtype.itemsize
        done = 0
        while done < one.numel:
            begin = one.begin + done * width
            if file is None or file.path != one.path or not start <= begin <= end + _PAGE:
                close()
            room = (start + PIECE - begin) // width if parts else 0
            if room < 1:
                close()
                file, start = one, begin // _PAGE * _PAGE
                room = (start + PIECE - begin) // width
            count = min(room, one.numel - done)
            parts.append(_Part(i, done, done + count, begin))
            done += count
            end = begin + count * width
    close()
    return tuple(pieces)


class Job:
    """Tensors on their way into memory.

    Args:
        pieces: what is read.
        stored: the tensors as the files have them.
        targets: where they go, flat, each in the dtype that is wanted [number].
    """

    def __init__(
        self, pieces: Sequence[Piece], stored: Sequence[Stored], targets: Sequence[Tensor]
    ) -> None:
        self.pieces, self.stored = pieces, stored
        self.targets: Sequence[Tensor] = targets
        self.error: Exception | None = None
        self.cancelled = False
        self.done = threading.Event()
        self._left = len(pieces)
        self._lock = threading.Lock()
        if not pieces:
            self.done.set()

    def finish(self) -> None:
        """One piece less; the last one lets go of the tensors."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self.targets = ()
        self.done.set()


class Reader:
    """A few threads that do jobs in the order in which they are handed in.

    They are started by the first job, and end with `close`, with this object, or with the process.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Job, Piece] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._process = os.getpid()
        self._end = weakref.finalize(self, _end, self._work, self._threads)

    def start(self, job: Job) -> None:
        if self._process != os.getpid():
            # A forked process has the queue, but no threads, and somebody may hold its lock.
            self._work, self._threads = queue.SimpleQueue(), []
            self._process = os.getpid()
            self._end.detach()
            self._end = weakref.finalize(self, _end, self._work, self._threads)
        if not self._threads:
            for number in range(READERS):
                thread = threading.Thread(
                    target=_work, args=(self._work,), name=f"weights-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        for piece in job.pieces:
            self._work.put((job, piece))

    def close(self) -> None:
        """End the threads, and wait for what they are doing; the next job starts others."""
        _end(self._work, self._threads)


def _end(
    work: queue.SimpleQueue[tuple[Job, Piece] | None], threads: list[threading.Thread]
) -> None:
    while True:
        try:
            left = work.get_nowait()
        except queue.Empty:
            break
        if left is not None:
            left[0].error = ModelError("The model was closed while its weights were being read.")
            left[0].finish()
    for _ in threads:
        work.put(None)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(timeout=5)
    threads.clear()


def _work(work: queue.SimpleQueue[tuple[Job, Piece] | None]) -> None:
    staged = torch.frombuffer(mmap.mmap(-1, PIECE + _PAGE), dtype=torch.uint8)
    files = _Files()
    try:
        while (got := work.get()) is not None:
            job, piece = got
            try:
                if not job.cancelled and job.error is None:
                    _read(files, job, piece, staged)
            except Exception as error:
                job.error = error
            finally:
                job.finish()
            del job, piece, got
            if work.empty():
                files.close()  # nobody waits, and a file that is open cannot be unmounted
    finally:
        files.close()


def _read(files: _Files, job: Job, piece: Piece, staged: Tensor) -> None:
    try:
        with storage_errors(piece.path, "read"):
            found = files.read(piece, staged)
    except StorageError as error:
        raise ModelError(str(error)) from error
    if found < piece.needed:
        raise ModelError(
            f"'{piece.path}' ends before the weights that stood in it; copy the file again and "
            "load the model anew."
        )
    for part in piece.parts:
        stored, target = job.stored[part.tensor], job.targets[part.tensor]
        size = (part.beyond - part.first) * stored.dtype.itemsize
        raw = staged[part.at : part.at + size]
        if part.at % stored.dtype.itemsize:
            raw = raw.clone()  # files need not align what they hold
        move(raw.view(stored.dtype), target[part.first : part.beyond])


def move(values: Tensor, to: Tensor) -> None:
    """Copy numbers, in another dtype where that is wanted, with one thread."""
    if to.device.type != "cpu":
        to.copy_(values)
        return
    for first in range(0, len(values), _SERIAL):
        to[first : first + _SERIAL].copy_(values[first : first + _SERIAL])


class _Files:
    """Files that are open for reading."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[int, bool]] = {}

    def read(self, piece: Piece, staged: Tensor) -> int:
        """Fill `staged`; how many bytes there were."""
        descriptor, direct = self._opened(piece)
        with staged.numpy().data as view:
            try:
                done = _fill(descriptor, view[: piece.size], piece.begin, direct)
            except OSError as error:
                # The disk wants larger pages than these.
                if not direct or error.errno != errno.EINVAL:
                    raise
                os.close(descriptor)
                descriptor, direct = open_regular(piece.path, links=True), False
                self._open[piece.path] = descriptor, direct
                done = _fill(descriptor, view[: piece.size], piece.begin, direct)
        if not direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, piece.begin, piece.size, os.POSIX_FADV_DONTNEED)
        # Looked at afterwards: what was read is what was there.
        if Stamp.of(os.fstat(descriptor)) != piece.stamp:
            raise changed(piece.path)
        check_stamps({piece.path: piece.stamp})
        return done

    def _opened(self, piece: Piece) -> tuple[int, bool]:
        found = self._open.get(piece.path)
        if found is None:
            found = self._open[piece.path] = opened(piece.path)
        return found

    def close(self) -> None:
        for descriptor, _ in self._open.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._open.clear()


def opened(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether it goes past the page cache."""
    with contextlib.suppress(OSError):
        if hasattr(os, "O_DIRECT"):
            return open_regular(path, os.O_RDONLY | os.O_DIRECT, links=True), True
    return open_regular(path, links=True), False


def _fill(descriptor: int, view: memoryview, begin: int, direct: bool) -> int:
    done = 0
    while done < len(view):
        got = os.preadv(descriptor, [view[done:]], begin + done)
        done += got
        # Past the page cache only the last part of a file is no whole page; elsewhere it may be
        # that a network gave less than was asked for.
        if not got or (direct and got % _PAGE):
            break
    return done
