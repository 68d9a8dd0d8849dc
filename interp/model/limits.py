"""How much memory this process may still take: what is free, and what it is limited to.

A batch system or a container lets a process have less than the machine has, and ends it when it
takes more; `ulimit` makes it run out.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_memory"]

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# From here on it is what the older kind of group says where there is no limit. To ask for the rest
# takes longer than anything else here: the kernel adds up what all processors have counted.
_NONE = 1 << 60


def available_memory() -> int | None:
    """Bytes that a process can have without others being swapped out, where the system tells."""
    return min(
        (max(0, n) for n in (*_free(), *_left_by_ulimit(), *_left_by_groups())), default=None
    )


def _free() -> Iterator[int]:
    with contextlib.suppress(OSError, KeyError, ValueError, IndexError):
        yield _counted(PROC / "meminfo", "MemAvailable") << 10
        return
    with contextlib.suppress(ValueError, OSError, AttributeError):
        yield os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_by_ulimit() -> Iterator[int]:
    with contextlib.suppress(ImportError, OSError, KeyError, ValueError, IndexError):
        import resource

        limits = {"VmSize": resource.RLIMIT_AS, "VmData": resource.RLIMIT_DATA}
        set_ = {name: resource.getrlimit(limit)[0] for name, limit in limits.items()}
        if all(limit == resource.RLIM_INFINITY for limit in set_.values()):
            return
        for name, limit in set_.items():
            if limit != resource.RLIM_INFINITY:
                yield limit - (_counted(PROC / "self" / "status", name) << 10)


def _left_by_groups() -> Iterator[int]:
    """What the control groups leave that a container or batch system has put this process in."""
    with contextlib.suppress(OSError, ValueError):
        for top, folders, names in _groups(_read(PROC / "self" / "cgroup"), CGROUPS):
            # Inside a container the path may be that of the host; then the group is the top one.
            for folder in folders if folders[0].is_dir() else (top,):
                yield from _left_in(folder, *names)


@functools.lru_cache(maxsize=8)
def _groups(told: str, root: Path) -> list[tuple[Path, list[Path], tuple[str, str, str]]]:
    """Of what /proc tells of groups that limit memory: the top one, this process's own and those
    that it lies in, and the files that say limit and use.

    Raises:
        ValueError: it is told in another way.
    """
    found = []
    for line in told.splitlines():
        _, kinds, path = line.split(":", 2)
        if not kinds:
            names, top = ("memory.max", "memory.current", "inactive_file"), root
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "memory"
        else:
            continue
        here = top / path.lstrip("/")
        inside = itertools.takewhile(top.parent.__ne__, (here, *here.parents))
        found.append((top, list(inside), names))
    return found


def _left_in(folder: Path, limit: str, current: str, files: str) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        most = int(_read(folder / limit))  # "max" where there is none
        if most >= _NONE:
            return
        # What only holds what is on the disk anyway is given up when memory is short.
        given_up = _counted(folder / "memory.stat", files)
        yield most - int(_read(folder / current)) + given_up


def _read(path: Path) -> str:
    """A short file of the kernel's; as a stream of text it would take several times as long, and
    this is asked for before each batch."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 16), b"")).decode()
    finally:
        os.close(descriptor)


def _counted(path: Path, name: str) -> int:
    """The number beside a name, in lines of names and numbers.

    Raises:
        KeyError: there is none.
    """
    found = re.search(rf"^{name}:?\s+(\d+)\b", _read(path), re.MULTILINE)
    if found is None:
        raise KeyError(name)
    return int(found[1])
