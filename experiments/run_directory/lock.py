"""One process per run directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cache.files import open_regular, storage_errors
from experiments.errors import RunError, StorageError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block. It holds the owner's process id.

    The system releases the lock when the process ends, however it ends; the empty file stays, since
    removing it would let two others in.

    Raises:
        RunError: another process holds it.
        StorageError: the file cannot be made, or is a link.
    """
    with storage_errors(path, "locked"):
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        # Another name of a file that is somebody's: it would be emptied under both.
        if os.fstat(descriptor).st_nlink > 1:
            raise StorageError(f"'{path}' is a hard link to another file; remove it.")
        with storage_errors(path, "locked"):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                who = f"process {owner}" if owner.isdigit() else "another process"
                raise RunError(
                    f"'{path.parent}' is in use by {who}; wait until it has ended, or choose "
                    "another --out."
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
