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
import weakref
from pathlib import Path
from typing import Any, Protocol

from cache.errors import StorageError
from cache.files import flush, is_real, make_folder, open_regular, real_folder, storage_errors
from cache.locks import ThreadLock
from cache.shards.sidecar import digest

__all__ = ["BEAT", "LIFETIME", "Membership", "Owner", "Owners", "born", "place"]

LIFETIME = 60.0
"""Seconds without a heartbeat after which a writer on another machine counts as dead."""
BEAT = 10.0

_NAME = re.compile(
    r"(?P<token>[0-9a-f]{16})\.(?P<place>[0-9a-f]{12})\.(?P<pid>[0-9]{1,10})\.(?P<born>[0-9]+)"
)


class Work(Protocol):
    """Something that a writer has begun."""

    @property
    def is_open(self) -> bool: ...


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
        self._begun: weakref.WeakSet[Work] = weakref.WeakSet()
        self._path = folder / f"{self.token}.{place()}.{self.pid}.{born(self.pid)}"
        make_folder(real_folder(folder.parent, folder.name))
        with storage_errors(self._path, "written"):
            os.close(open_regular(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            # Whatever it leaves must not outlive its name when the machine goes down.
            flush(folder)
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="obverse-heartbeat").start()

    @property
    def is_current(self) -> bool:
        """Whether it is of this process, and nobody has taken it for dead meanwhile."""
        return self.pid == os.getpid() and is_real(self._path)

    def new_shard(self) -> str:
        """An id that no other shard has, and that tells its writer."""
        with self._lock:
            self._count += 1
            return f"{self.token}-{self._count:06x}"

    def began(self, work: Work) -> None:
        """Note what must have ended before it can leave in order."""
        self._begun.add(work)

    def leave(self, *, clean: bool) -> None:
        """Stop the heartbeat.

        Args:
            clean: everything is in order; else whoever comes next puts it in order.
        """
        if os.getpid() != self.pid:
            return
        self._ended.set()
        with contextlib.suppress(OSError):
            if clean and not any(work.is_open for work in list(self._begun)):
                self._path.unlink()
            else:
                # As old as can be, so that nobody waits for another heartbeat.
                os.utime(self._path, (0, 0), follow_symlinks=False)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._path, follow_symlinks=False)


class Membership:
    """Makes a process a writer of a store when it first needs to be one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = ThreadLock()
        self._owner: Owner | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def owner(self) -> Owner:
        """This process as a writer; a new one if others took the last for dead.

        Raises:
            StorageError: the folder cannot be written.
        """
        with self._lock:
            if self._owner is None or not self._owner.is_current:
                self.leave(clean=False)
                self._owner = Owner(self._folder)
                # At the end of the process, if nobody leaves before.
                self._finalizer = weakref.finalize(self, Owner.leave, self._owner, clean=True)
            return self._owner

    def leave(self, *, clean: bool) -> None:
        """See `Owner.leave`."""
        with self._lock:
            if self._owner is not None and self._finalizer is not None:
                self._finalizer.detach()
                self._owner.leave(clean=clean)
                self._owner = None

    def is_own(self, token: str) -> bool:
        """Whether this process is the writer of that token."""
        return self._owner is not None and self._owner.token == token


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

    def discharge(self, token: str) -> None:
        """Remove a writer's file, unless it lives: others have put in order what it left."""
        for path, alive in self._all().items():
            if path.name.startswith(token) and not alive:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _all(self) -> dict[Path, bool]:
        real_folder(self._folder.parent, self._folder.name)
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(
                f"'{self._folder}' cannot be read ({error.strerror}); check its permissions."
            ) from error
        paths = (self._folder / name for name in names if _NAME.fullmatch(name))
        return {path: _lives(path) for path in paths if path.is_symlink() or not path.is_dir()}


def _lives(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    try:
        age = time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return False
    # What lies in the future is no heartbeat, and nobody would ever see its end.
    if match is None or abs(age) > LIFETIME:
        return False
    # On this machine the system knows better than the clock.
    return match["place"] != place() or born(int(match["pid"])) == match["born"]


def place() -> str:
    """Where process ids mean the same: this start of this machine, and this container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return digest("\n".join(parts).encode()).hex()[:12]


def born(pid: int) -> str:
    """When a process started, in the system's ticks; "" if there is no such process.

    Tells a process from a later one of the same number; "0" where the system does not say.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "0"
    # A zombie has ended; only its parent has not asked yet.
    return "" if fields[0] == "Z" else fields[19]
