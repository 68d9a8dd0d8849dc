"""Who writes into a store, and whether they are still alive.

A writer leaves an empty file whose name says who it is; the file's age is the heartbeat. What a
dead writer left behind (partial files, leases) can be told by its token.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import threading
import time
from pathlib import Path

from cache.errors import StorageError
from cache.files import make_folder, storage_errors
from cache.sidecar import digest

__all__ = ["BEAT", "LIFETIME", "Owner", "Owners"]

LIFETIME = 60.0
"""Seconds without a heartbeat after which a writer on another machine counts as dead."""
BEAT = 10.0

_NAME = re.compile(r"(?P<token>[0-9a-f]{16})\.(?P<place>[0-9a-f]{12})\.(?P<pid>\d+)\.(?P<born>\d+)")


class Owner:
    """This process as a writer: its token, and a thread that keeps its file fresh."""

    def __init__(self, folder: Path) -> None:
        """Enter the folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        self.token = secrets.token_hex(8)
        self.pid = os.getpid()
        self._count = 0
        self._lock = threading.Lock()
        self._path = folder / f"{self.token}.{_place()}.{self.pid}.{_born(self.pid)}"
        make_folder(folder)
        with storage_errors(self._path, "written"):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC))
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="obverse-heartbeat").start()

    def new_shard(self) -> str:
        """An id that no other shard has, and that tells its writer."""
        with self._lock:
            self._count += 1
            return f"{self.token}-{self._count:06x}"

    def leave(self, *, clean: bool) -> None:
        """Stop the heartbeat; where everything was put in order, remove the file too."""
        self._ended.set()
        if clean and os.getpid() == self.pid:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._path)


class Owners:
    """All writers of a store, as their files tell."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def dead(self) -> list[Path]:
        """Files of writers that ended without putting things in order."""
        return [path for path, alive in self._all().items() if not alive]

    def alive(self) -> set[str]:
        """Tokens of the writers that live."""
        return {path.name[:16] for path, alive in self._all().items() if alive}

    def _all(self) -> dict[Path, bool]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(
                f"'{self._folder}' cannot be read ({error.strerror}); check its permissions."
            ) from error
        return {self._folder / n: _lives(self._folder / n) for n in names if _NAME.fullmatch(n)}


def _lives(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if match is None or age > LIFETIME:
        return False
    # On this machine the system knows better than the clock.
    return match["place"] != _place() or _born(int(match["pid"])) == match["born"]


def _place() -> str:
    """Where process ids mean the same: this start of this machine, and this container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return digest("\n".join(parts).encode()).hex()[:12]


def _born(pid: int) -> str:
    """When a process started, in the system's ticks; "" if there is no such process.

    Tells a process from a later one of the same number; "0" where the system does not say.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "0"
    # A zombie has ended; only its parent has not asked yet.
    return "" if fields[0] == "Z" else fields[19]
