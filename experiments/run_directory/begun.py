"""Work on a run's model that has begun and not ended, for whoever opens the run after a crash.

explored/NAME.begun   what is computed, locked by the process that does; the system frees the lock
                      when that process ends, however it ends
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cache.files import make_folder, open_regular, real_folder, remove, storage_errors
from experiments.errors import ObverseError, StorageError
from experiments.run_directory.layout import EXPLORED, to_json
from experiments.run_directory.schema import parse

__all__ = ["Interrupted", "begun", "dismiss", "interrupted"]

_NAME = re.compile(r"[a-z][a-z-]{0,30}-[0-9a-f]{32}\Z")
_SUFFIX = ".begun"
_MOST_BYTES = 1 << 16
_MOST_LISTED = 100


@dataclass(frozen=True)
class Interrupted:
    """Work whose process has ended before it.

    Attributes:
        name: of the result that it would have had.
        title: what it is, for people.
        link: the state of the screen on which it was asked for.
        created: when it began, ISO 8601, UTC.
    """

    name: str
    title: str
    link: Mapping[str, str]
    created: str


@contextlib.contextmanager
def begun(directory: Path, name: str, title: str, link: Mapping[str, str]) -> Iterator[None]:
    """Inside, the work is going on; it is none of the interrupted ones when the block ends.

    Where nothing can be noted, or another process has noted the same, nothing is.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ObverseError, OSError):
            path = _path(directory, name)
            make_folder(real_folder(directory, EXPLORED))
            descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stack.callback(dismiss, directory, name)
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            told = {"title": title, "link": dict(link), "created": now}
            os.ftruncate(descriptor, 0)
            os.write(descriptor, to_json(told))
        yield


def dismiss(directory: Path, name: str) -> None:
    """Have it forgotten that some work was interrupted, where it was."""
    with contextlib.suppress(ObverseError):
        remove(_path(directory, name))


def interrupted(directory: Path) -> list[Interrupted]:
    """The work that has begun and whose process is gone, the latest first."""
    found = []
    with contextlib.suppress(ObverseError, OSError):
        folder = real_folder(directory, EXPLORED)
        names = sorted(path.stem for path in folder.glob(f"*{_SUFFIX}"))
        for name in filter(_NAME.match, names[:_MOST_LISTED]):
            with contextlib.suppress(ObverseError, OSError, ValueError, KeyError, TypeError):
                one = _read(directory, name)
                if one is not None:
                    found.append(one)
    return sorted(found, key=lambda one: (one.created, one.name), reverse=True)


def _read(directory: Path, name: str) -> Interrupted | None:
    """None where it goes on."""
    path = _path(directory, name)
    with storage_errors(path, "read"):
        descriptor = open_regular(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            data = os.read(descriptor, _MOST_BYTES)
        except BlockingIOError:
            return None
        finally:
            os.close(descriptor)
    told = parse(data, path)
    title, link, created = str(told["title"]), dict(told["link"]), str(told["created"])
    datetime.fromisoformat(created)
    if not all(isinstance(text, str) for pair in link.items() for text in pair):
        raise ValueError("its link is none")
    return Interrupted(name, title, link, created)


def _path(directory: Path, name: str) -> Path:
    if not _NAME.match(name):
        raise StorageError(f"{name!r} names no result; choose one from the list.")
    return real_folder(directory, EXPLORED) / f"{name}{_SUFFIX}"
