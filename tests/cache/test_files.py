from __future__ import annotations

import builtins
import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cache.errors import StorageError
from cache.files import (
    TEMPORARY_PREFIX,
    atomic_path,
    is_real,
    make_folder,
    open_regular,
    read_bytes,
    real_folder,
    remove,
    remove_temporaries,
    sha256,
    storage_errors,
    write_atomic,
)


def test_bytes_and_text_are_written_as_they_are(tmp_path: Path) -> None:
    write_atomic(tmp_path / "bytes", b"\x00\xff\r\n")
    write_atomic(tmp_path / "text", "Ⅎ\n\r\n")
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff\r\n"
    assert (tmp_path / "text").read_bytes() == "Ⅎ\n\r\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "text"]


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "a long old content")
    write_atomic(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("halfway"), KeyboardInterrupt()])
def test_an_exception_midway_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_temporary_is_in_the_same_folder_with_the_same_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "table.parquet") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".parquet"
        assert not (tmp_path / "table.parquet").exists()
        temporary.write_bytes(b"x")
    assert (tmp_path / "table.parquet").read_bytes() == b"x"


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    """A writer killed between write and rename leaves the old content under the name."""
    path = tmp_path / "file"
    path.write_text("old")
    script = (
        "import os, signal, sys; from cache.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    leftovers = [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(leftovers) == 1
    assert leftovers[0].name.startswith(TEMPORARY_PREFIX)
    remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_and_then_its_folder_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        is_folder = os.path.isdir(f"/dev/fd/{descriptor}")
        events.append("sync folder" if is_folder else "sync file")
        real_fsync(descriptor)

    def replace(source: Any, target: Any) -> None:
        events.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomic(tmp_path / "file", "content")
    assert events == ["sync file", "rename", "sync folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_sentence_that_names_the_path() -> None:
    path = Path("/dev/full")
    with pytest.raises(StorageError) as caught, storage_errors(path, "written"):
        path.write_bytes(b"x" * 10_000)
    assert str(caught.value) == (
        "'/dev/full' cannot be written: there is no space left on the disk; free some, or choose "
        "a folder elsewhere."
    )


def test_a_disk_that_fills_midway_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    real_open = builtins.open

    def open_on_a_full_disk(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        opened = real_open(file, mode, *rest, **options)
        if "w" in mode:
            real_write = opened.write

            class Full:
                def __enter__(self) -> Full:
                    return self

                def __exit__(self, *_: object) -> None:
                    opened.close()

                def write(self, data: bytes) -> int:
                    real_write(data[:3])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            return Full()
        return opened

    monkeypatch.setattr(builtins, "open", open_on_a_full_disk)
    with pytest.raises(StorageError, match="no space left"):
        write_atomic(path, "the new content")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_limit_on_file_size_is_met_by_the_real_system(tmp_path: Path) -> None:
    """No monkeypatch: the kernel itself stops the write, as it does on a full disk."""
    path = tmp_path / "file"
    path.write_text("old")
    script = (
        "import resource, sys; from cache.files import write_atomic; from cache.errors import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_atomic(sys.argv[1], b'x' * 100_000)\n"
        "except StorageError as error: print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True
    )
    assert "cannot be written: the file would be larger than this system allows" in ended.stdout
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/inner' cannot be written: .* not a folder"):
        write_atomic(tmp_path / "file" / "inner", "x")
    with pytest.raises(StorageError, match=r"cannot be made: .* not a folder"):
        make_folder(tmp_path / "file" / "inner")
    with pytest.raises(StorageError, match=r"file' cannot be made: a file of that name"):
        make_folder(tmp_path / "file")


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="it is a folder, not a file"):
        write_atomic(tmp_path / "folder", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_missing_folder_is_not_made_silently(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="it does not exist"):
        write_atomic(tmp_path / "missing" / "file", "x")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "permission is denied"),
        (errno.EROFS, "read-only"),
        (errno.EDQUOT, "quota"),
        (errno.ELOOP, "symbolic link"),
        (errno.ENXIO, "check the path"),
    ],
)
def test_every_refusal_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=words) as caught:
        write_atomic(tmp_path / "file", "x")
    message = str(caught.value)
    assert str(tmp_path / "file") in message
    assert message.endswith(".")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_reading_and_removing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(StorageError, match="cannot be read: it does not exist"):
        read_bytes(path)
    path.write_bytes(b"content")
    assert read_bytes(path) == b"content"
    remove(path)
    remove(path)
    assert not path.exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be removed"):
        remove(tmp_path / "folder")


def test_sha256_of_a_file_larger_than_one_block(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def _special(folder: Path) -> list[Path]:
    """A FIFO, a socket, a device and a folder where a file belongs."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
    (folder / "folder").mkdir()
    return [folder / "fifo", folder / "socket", folder / "folder", Path("/dev/zero")]


def test_nothing_but_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    os.close(open_regular(tmp_path / "file"))
    for path in _special(tmp_path):
        assert not is_real(path)
        for read in (read_bytes, sha256):
            with pytest.raises(StorageError, match=r"cannot be read: it is (not a reg|a folder)"):
                read(path)
        for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
            with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
                open_regular(path, flags)


def test_a_link_is_followed_only_where_a_user_names_it(tmp_path: Path) -> None:
    target, link, dangling = (tmp_path / name for name in ("target", "link", "dangling"))
    target.write_text("content")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "outside")
    assert read_bytes(link) == b"content"
    assert not is_real(link)
    for path in (link, dangling):
        with pytest.raises(StorageError, match="it is a symbolic link, which is not followed"):
            read_bytes(path, links=False)
        with pytest.raises(StorageError, match="symbolic link"):
            sha256(path, links=False)
        with pytest.raises(OSError, match="symbolic links"):
            open_regular(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    assert target.read_text() == "content"
    assert not (tmp_path / "outside").exists()


def test_a_link_in_the_place_of_a_partial_file_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "partial").symlink_to(tmp_path / "outside")
    (tmp_path / "file").symlink_to(tmp_path / "outside")
    write_atomic(tmp_path / "file", "new", temporary="partial")
    assert (tmp_path / "outside").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


def test_a_folder_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "a" / "b").mkdir(parents=True)
    elsewhere.mkdir()
    assert real_folder(root, "a", "b") == root / "a" / "b"
    assert real_folder(root, "missing", "b") == root / "missing" / "b"
    (root / "link").symlink_to(elsewhere)
    (root / "a" / "link").symlink_to(elsewhere)
    (root / "file").write_text("")
    for names in (("link",), ("link", "b"), ("a", "link", "b"), ("file",)):
        with pytest.raises(StorageError, match=r"is (a symbolic link, which|not a folder;)"):
            real_folder(root, *names)
    # The root may be one: that is where the user pointed.
    (tmp_path / "root_link").symlink_to(root)
    assert real_folder(tmp_path / "root_link", "a").is_dir()


def test_a_file_that_claims_no_size_or_too_much_is_read_to_the_bound(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert read_bytes(tmp_path / "sparse", 5000) == bytes(5000)
    assert read_bytes(tmp_path / "sparse", 0) == b""
