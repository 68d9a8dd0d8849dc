"""Folders for weights that must be written anew before they can be read block by block.

Each model has one of its own in the offload folder, so that nothing of another model or of a user's
is replaced. It is locked while its process lives; one that a killed process has left is removed
when the next is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["own_folder"]

_PREFIX = "obverse-offloaded-"
_NAME = re.compile(re.escape(_PREFIX) + r"\w{8}")


def own_folder(folder: Path, written: contextlib.ExitStack) -> Path:
    """A new folder in an offload folder.

    Args:
        written: removes it when it is closed.

    Raises:
        OSError: there is no room for one.
    """
    for left in _ours(folder):
        descriptor = _locked(left)
        if descriptor is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    while True:
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        descriptor = _locked(made)
        if descriptor is None or made.is_dir():  # nobody has taken it for left behind meanwhile
            break
        os.close(descriptor)
    written.callback(_remove, made, descriptor, os.getpid())
    return made


def _ours(folder: Path) -> Iterator[Path]:
    """Folders that were made here, and hold nothing but weights."""
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                if all(one.suffix == ".safetensors" for one in path.iterdir()):
                    yield path


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None where somebody else has it, or none can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path, descriptor: int | None, process: int) -> None:
    if os.getpid() != process:  # a forked one ends earlier
        return
    shutil.rmtree(folder, ignore_errors=True)
    if descriptor is not None:
        os.close(descriptor)
