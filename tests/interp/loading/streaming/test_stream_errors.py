"""What is wrong with a file or its disk is told by whoever needs it, and only as long as it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import ModelError
from interp.loading.streaming import reading
from interp.loading.streaming.stored import stored_in
from interp.loading.streaming.stream import Stream
from tests.interp.loading.streaming.stored_groups import agree, everything

pytestmark = pytest.mark.usefixtures("small_pieces")


def broken(*_: object) -> int:
    raise OSError(errno.EIO, "Input/output error")


def test_a_changed_file_is_an_error(file: Path, stream: Stream) -> None:
    stream.state()
    os.utime(file, ns=(1, 1))
    with pytest.raises(ModelError, match="no longer the file that the model was loaded from"):
        stream.group("0")
    with pytest.raises(ModelError, match="no longer the file"):
        stream.one("0.a")
    with pytest.raises(ModelError, match="no longer the file"):
        stream.state()


def test_another_file_in_its_place_is_an_error(
    file: Path, stream: Stream, numbers: Mapping[str, Tensor]
) -> None:
    assert agree(stream.group("0"), numbers)
    status = file.stat()
    other = file.with_name("other")
    save_file({name: value + 1 for name, value in numbers.items()}, other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    with pytest.raises(ModelError, match="no longer the file"):
        everything(stream)


def test_a_truncated_file_is_an_error(
    file: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="truncated or damaged; copy the file again"):
        stored_in(file)
    # Even where nothing else tells.
    monkeypatch.setattr(reading, "check_stamps", lambda _: None)
    monkeypatch.setattr(reading.Stamp, "of", staticmethod(lambda _: stream.stamps[file]))
    with pytest.raises(ModelError, match="ends before the weights that stood in it"):
        everything(stream)


def test_a_file_that_is_gone_is_an_error(file: Path, stream: Stream) -> None:
    file.unlink()
    with pytest.raises(ModelError, match="cannot be read: it does not exist"):
        stream.group("1")


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"0.a": 3}',
        b'{"0.a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"0.a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8000]}}',
        b'{"0.a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
        b'{"0.a": {"dtype": "F32", "shape": [true, 2], "data_offsets": [0, 8]}}',
        b"[" * 50_000,
    ],
)
def test_a_damaged_header_is_an_error(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(ModelError, match="truncated or damaged"):
        stored_in(path)


def test_a_type_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    header = b'{"0.a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(ModelError, match=r"'0.a' as F4, which cannot be read from the disk"):
        stored_in(path)


def test_an_error_of_the_disk_is_told_and_gone_with_it(
    stream: Stream, numbers: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        with pytest.raises(ModelError, match="the disk reports an input/output error"):
            stream.group("0")
    assert agree(stream.group("0"), numbers)


def test_what_failed_ahead_is_read_again_when_it_is_asked_for(
    stream: Stream, numbers: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert agree(stream.group("0"), numbers)
    assert stream.coming["1"].job.done.wait(5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        assert agree(stream.group("1"), numbers)  # which was read before; "2" fails
        assert stream.coming["2"].job.done.wait(5)
    assert stream.coming["2"].job.error is not None
    for group in (2, 3, 0):
        assert agree(stream.group(str(group)), numbers)
    assert stream.slots.made <= 2


def test_what_failed_ahead_is_told_where_it_fails_again(
    stream: Stream, numbers: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.group("0")
    assert stream.coming["1"].job.done.wait(5)
    monkeypatch.setattr(os, "preadv", broken)
    stream.group("1")
    with pytest.raises(ModelError, match="the disk reports an input/output error"):
        stream.group("2")
