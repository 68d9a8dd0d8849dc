"""Files that are either wholly there or not there at all.

A file is written beside its final place, flushed to the disk, and only then renamed over the old
one; whoever reads it, after a crash too, finds the old content or the new, never a part. What the
operating system refuses (a full disk, a missing permission) becomes a `StorageError` of one
sentence.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from cache.errors import StorageError

__all__ = [
    "TEMPORARY_PREFIX",
    "atomic_path",
    "expanded",
    "flush",
    "is_real",
    "make_folder",
    "open_regular",
    "read_bytes",
    "real_folder",
    "remove",
    "remove_temporaries",
    "sha256",
    "storage_errors",
    "write_atomic",
]

TEMPORARY_PREFIX = ".partial-"

_ADVICE = {
    errno.ENOSPC: "there is no space left on the disk; free some, or choose a folder elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose a folder elsewhere",
    errno.EROFS: "the file system is read-only; choose a folder that can be written",
    errno.EACCES: "permission is denied; choose a folder of yours, or change its permissions",
    errno.EPERM: "the operation is not permitted; choose a folder of yours",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EISDIR: "it is a folder, not a file; choose another path",
    errno.EEXIST: "a file of that name is in the way; choose another path",
    errno.ENOENT: "it does not exist; check the path",
    errno.EIO: "the disk reports an input/output error; check the disk, or choose another one",
    errno.EFBIG: "the file would be larger than this system allows; raise the limit",
    errno.EMFILE: "too many files are open; raise the limit on open files",
    errno.ENOLCK: "the file system has no locks; choose a folder on another one",
    errno.ENOSYS: "the file system has no locks; choose a folder on another one",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "it is a symbolic link, which is not followed; put the file itself there",
}
_SPECIAL = "it is not a regular file but a device, a FIFO or a socket; remove it"
_PIECE = 1 << 20


def open_regular(
    path: Path | str, flags: int = os.O_RDONLY, *, mode: int = 0o666, links: bool = False
) -> int:
    """Open a regular file and nothing else; returns a descriptor, which the caller closes.

    A device or a FIFO is not even opened, so that nothing blocks and no device notices. With
    `os.O_CREAT` a file is made where nothing is; where a dangling link is, nothing is made.

    Args:
        flags: of `os.open`. Not `os.O_TRUNC`: `write_atomic` replaces a file.
        links: whether `path` may be a symbolic link, as where a user names a file. The folders
            above it are followed in any case: see `real_folder`.

    Raises:
        OSError: it is missing, a link (`errno.ELOOP`), no regular file, and the like. Within
            `storage_errors` that becomes a sentence.
    """
    with contextlib.suppress(FileNotFoundError):
        _check_regular(os.stat(path, follow_symlinks=links))
    # What was put there since is opened without waiting, and looked at again.
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, mode)
    try:
        _check_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, _SPECIAL)


def is_real(path: Path | str) -> bool:
    """Whether a regular file has that name: not a link, a folder or something special."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def real_folder(root: Path, *names: str) -> Path:
    """The folder `root/names…`, after a look at each folder below `root`.

    `root` itself, and what is above it, may be symbolic links; that is where the user pointed.

    Raises:
        StorageError: one of the folders is a symbolic link or no folder. One that does not exist
            is no error: nothing is read or removed there, and `make_folder` makes a real one.
    """
    path = root
    for name in names:
        path = path / name
        with storage_errors(path, "used"):
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
        if not stat.S_ISDIR(mode):
            if stat.S_ISLNK(mode):
                what = "is a symbolic link, which is not followed; put the folder itself there"
            else:
                what = "is not a folder; remove it, or choose another path"
            raise StorageError(f"'{path}' {what}.")
    return path


def write_atomic(path: Path | str, data: bytes | str, *, temporary: str | None = None) -> None:
    """Write `data` (text as UTF-8) to `path`, all of it or nothing.

    Args:
        temporary: the name of the partial file; a random one if left out.

    Raises:
        StorageError: the disk is full, the folder missing or read-only, and the like; the old
            file, if there was one, is unchanged.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_path(path, temporary) as partial:
        # Not a file, nor a link to one, that somebody has put there.
        partial.unlink(missing_ok=True)
        new = open_regular(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(new, "wb") as file:
            file.write(content)


@contextlib.contextmanager
def atomic_path(path: Path | str, temporary: str | None = None) -> Iterator[Path]:
    """A path in the same folder to write to; it becomes `path` when the block ends well.

    For libraries that want a path of their own. On any exception the partial file is removed and
    the old one stays.

    Raises:
        StorageError: an OSError from the block or from here.
    """
    target = Path(path)
    # The random part keeps two processes apart; the suffix stays, since libraries look at it.
    random = f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{target.name}"
    partial = target.with_name(temporary or random)
    with storage_errors(target, "written"):
        try:
            yield partial
            flush(partial)
            os.replace(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        flush(target.parent)


def read_bytes(path: Path | str, most: int = 1 << 40, *, links: bool = True) -> bytes:
    """The content of a regular file, or a StorageError that says why it cannot be read.

    Args:
        most: do not read beyond so many bytes, whatever size the file claims.
        links: whether `path` may be a symbolic link; False for what stands in a folder of ours.
    """
    with storage_errors(Path(path), "read"), open(open_regular(path, links=links), "rb") as file:
        # Not `read(most)` at once, which would take that much memory for a small file too.
        pieces: list[bytes] = []
        while most > 0 and (piece := file.read(min(most, _PIECE))):
            pieces.append(piece)
            most -= len(piece)
        return b"".join(pieces)


def expanded(path: Path | str) -> Path:
    """The path with its `~` written out. Raises StorageError where nobody has that home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise StorageError(
            f"'{path}' names a home folder that is not known; write the path in full."
        ) from error


def make_folder(path: Path | str) -> None:
    """Make a folder and the ones above it; a StorageError says what is in the way."""
    with storage_errors(Path(path), "made"):
        Path(path).mkdir(parents=True, exist_ok=True)


def remove(path: Path | str) -> None:
    """Remove a file, which need not exist."""
    with storage_errors(Path(path), "removed"):
        Path(path).unlink(missing_ok=True)


def remove_temporaries(folder: Path | str) -> None:
    """Remove what killed writers left in `folder`. The caller must be its only writer."""
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        remove(leftover)


def sha256(path: Path | str, *, links: bool = True) -> str:
    """The SHA-256 of a regular file's content, as 64 hexadecimal digits; `links` as above."""
    digest = hashlib.sha256()
    with storage_errors(Path(path), "read"), open(open_regular(path, links=links), "rb") as file:
        while block := file.read(_PIECE):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def storage_errors(path: Path, verb: str) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError: "'<path>' cannot be <verb>: …"."""
    try:
        yield
    except OSError as error:
        reason = _ADVICE.get(error.errno or 0) or f"{error.strerror or error}"
        if ";" not in reason:
            reason += "; check the path"
        raise StorageError(f"'{path}' cannot be {verb}: {reason}.") from error


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the rename is atomic there all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
