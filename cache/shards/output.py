"""A file of known size, written in pieces, with the checksums of its blocks.

Through the page cache every page of a file takes a page of memory and a copy, by the processor that
is to run the model, and pushes out what others need. A harvest is mostly larger than memory, so it
goes past the page cache, where the system and the file system let it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from pathlib import Path
from typing import Any

import xxhash

from cache.files import open_regular
from cache.shards.layout import BLOCK, PAGE
from cache.shards.sidecar import digest

__all__ = ["STAGED", "WORTHWHILE", "Direct", "Output", "map_file"]

WORTHWHILE = 256 << 10
"""Bytes; smaller pieces are quicker through the page cache, which gathers them."""
STAGED = 2 << 20
"""Bytes that go past the page cache at once."""


class Output:
    """A new file. No byte of it may be written twice; what is never written is zero."""

    def __init__(self, path: Path, size: int, *, direct: bool = False) -> None:
        """Make it at its full size, so that a full disk is noticed here.

        Args:
            path: of the file.
            size: in bytes.
            direct: write past the page cache, if that can be done here.

        Raises:
            OSError: it is there already, the disk is full, and the like; nothing is left.
        """
        self._path, self._size = path, size
        self._checksums = _Checksums(size)
        self._file = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._direct: Direct | None = None
        try:
            _reserve(self._file, size)
            if direct:
                self._direct = Direct.of(path)
        except BaseException:
            self.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def write(self, data: Any, begin: int) -> None:
        """Write any buffer at byte `begin`."""
        with memoryview(data) as view, view.cast("B") as content:
            self._checksums.add(content, begin)
            # Past the page cache only whole pages go.
            first = -begin % PAGE
            last = len(content) - (begin + len(content)) % PAGE
            if self._direct is None or last - first < WORTHWHILE:
                first = last = 0
            else:
                last = first + self._direct.write(content[first:last], begin + first)
            _write(self._file, content[:first], begin)
            _write(self._file, content[last:], begin + last)

    def sync(self) -> bytes:
        """Bring everything to the disk, and give the checksums of all blocks, one after another."""
        with map_file(self._file) as content, memoryview(content) as view:
            checksums = self._checksums.all(view)
        os.fsync(self._file)
        return checksums

    def close(self) -> None:
        """Let go of the file, which stays."""
        os.close(self._file)
        if self._direct:
            self._direct.close()


class Direct:
    """The same file, past the page cache, from memory that is aligned as that needs it."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._usable = True
        self._staged = mmap.mmap(-1, STAGED)

    @classmethod
    def of(cls, path: Path) -> Direct | None:
        """None where it cannot be done: on another system than Linux, and on some file systems."""
        if not hasattr(os, "O_DIRECT"):
            return None
        try:
            return cls(open_regular(path, os.O_WRONLY | os.O_DIRECT))
        except OSError:
            return None

    def write(self, content: memoryview, begin: int) -> int:
        """Write whole pages; how many bytes were written, less where it cannot be done."""
        done = 0
        with memoryview(self._staged) as staged:
            while self._usable and done < len(content):
                size = min(STAGED, len(content) - done)
                staged[:size] = content[done : done + size]
                try:
                    written = os.pwrite(self._file, staged[:size], begin + done)
                except OSError as error:
                    # The disk wants larger pages than these.
                    if error.errno != errno.EINVAL:
                        raise
                    written = 0
                done += written
                self._usable = written == size
        return done

    def close(self) -> None:
        os.close(self._file)
        self._staged.close()


class _Checksums:
    """Of blocks whose bytes come in order; the others are read back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._begun: dict[int, tuple[Any, int]] = {}
        self._found: dict[int, bytes] = {}

    def add(self, content: memoryview, begin: int) -> None:
        place, end = begin, begin + len(content)
        while place < end:
            block = place // BLOCK
            border = min(self._size, (block + 1) * BLOCK)
            stop = min(end, border)
            if place % BLOCK == 0:
                self._begun[block] = (xxhash.xxh3_128(), place)
            running, expected = self._begun.get(block, (None, -1))
            if expected == place:
                running.update(content[place - begin : stop - begin])
                self._begun[block] = (running, stop)
                if stop == border:
                    del self._begun[block]
                    self._found[block] = running.digest()
            place = stop

    def all(self, content: memoryview) -> bytes:
        found = []
        for block, begin in enumerate(range(0, self._size, BLOCK)):
            if block in self._found:
                found.append(self._found[block])
            else:
                with content[begin : begin + BLOCK] as rest:
                    found.append(digest(rest))
        return b"".join(found)


def map_file(descriptor: int) -> mmap.mmap:
    """The whole of an open file as memory that can be read."""
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP):
                raise
    os.ftruncate(descriptor, size)


def _write(descriptor: int, content: memoryview, begin: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], begin + done)
