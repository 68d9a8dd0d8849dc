"""Weights that are read from files ahead of need are those that stand in the files, or an error."""

from __future__ import annotations

import errno
import gc
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import ModelError
from interp.loading.streaming import reading, slots
from interp.loading.streaming.stored import stored_in
from interp.loading.streaming.stream import Source, Stream
from interp.model.memory import is_out_of_memory

N = 4
SHAPES = {"a": (33, 70), "b": (5,), "c": (200, 64), "d": (), "e": (0, 3)}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the tests are cut into several pieces, as large ones are."""
    monkeypatch.setattr(reading, "PIECE", 8192)


@pytest.fixture
def numbers() -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(0)
    return {
        f"{group}.{name}": torch.randn(shape, generator=made).to(
            torch.bfloat16 if name == "c" else torch.float32
        )
        for group in range(N)
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def file(tmp_path: Path, numbers: Mapping[str, Tensor]) -> Path:
    save_file(dict(numbers), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def stream(file: Path) -> Iterator[Stream]:
    made = of(file)
    yield made
    made.close()


def of(file: Path, dtype: torch.dtype | None = None) -> Stream:
    """Groups 0 to 3 of a file; in the dtype of the file if none is given."""
    groups: dict[str, dict[str, Source | Tensor]] = {str(i): {} for i in range(N)}
    for name, stored in stored_in(file).items():
        groups[name[0]][name] = Source(stored, dtype or stored.dtype)
    return Stream(groups, torch.device("cpu"))


def everything(stream: Stream) -> None:
    for group in range(N):
        stream.group(str(group))


def agree(found: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> bool:
    return len(found) == len(SHAPES) and all(
        value.dtype == numbers[name].dtype and torch.equal(value, numbers[name])
        for name, value in found.items()
    )


def test_a_group_is_what_the_file_holds(stream: Stream, numbers: Mapping[str, Tensor]) -> None:
    for group in range(N):
        found = stream.group(str(group))
        assert agree(found, numbers)
        assert all(value.data_ptr() % 64 == 0 for value in found.values() if value.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_another_dtype_is_what_pytorch_makes_of_it(
    file: Path, numbers: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    stream = of(file, dtype)
    for group in range(N):
        assert agree(stream.group(str(group)), {n: v.to(dtype) for n, v in numbers.items()})
    assert torch.equal(stream.one("2.c"), numbers["2.c"].to(dtype))
    stream.close()


def test_numbers_may_lie_anywhere_in_a_file(tmp_path: Path) -> None:
    """Safetensors asks for no alignment: here every tensor begins at an odd byte."""
    values = {f"{i}.{n}": torch.randn(3, 1500) for i in range(N) for n in "abcde"}
    header, data = {}, b""
    for name, value in values.items():
        raw = value.numpy().tobytes()
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": place}
        data += raw
    told = json.dumps(header).encode()
    told += b" " * (len(told) % 2)  # so that numbers begin at 8 and an even number…
    path = tmp_path / "odd.safetensors"
    path.write_bytes((len(told) + 1).to_bytes(8, "little") + told + b" " + data)  # … and one more
    stream = of(path)
    for group in range(N):
        found = stream.group(str(group))
        assert all(torch.equal(found[name], values[name]) for name in found)
    stream.close()


def test_in_a_pass_each_group_is_read_once(stream: Stream) -> None:
    for group in range(N):
        stream.group(str(group))
    before = dict(stream.reads)
    for _ in range(3):
        for group in range(N):
            stream.group(str(group))
    assert {name: n - before[name] for name, n in stream.reads.items()} == dict.fromkeys(before, 3)


def test_on_the_way_down_each_group_is_read_once_too(stream: Stream) -> None:
    for group in reversed(range(N)):
        stream.group(str(group))
    # The last is taken for the end of a way up, after which comes the first.
    assert stream.reads == {"0": 2, "1": 2, "2": 1, "3": 1}


def test_what_comes_next_is_read_before_it_is_asked_for(stream: Stream) -> None:
    stream.group("0")
    assert stream.coming["1"].job.done.wait(5)
    stream.group("1")
    assert stream.coming["2"].job.done.wait(5)


def test_memory_that_somebody_sees_is_not_used_again(
    stream: Stream, numbers: Mapping[str, Tensor]
) -> None:
    held = stream.group("0")["0.c"][3:, 5:].T
    kept = torch.nn.Parameter(stream.group("2")["2.a"], requires_grad=False)
    for _ in range(5):
        for group in range(N):
            assert agree(stream.group(str(group)), numbers)
    assert torch.equal(held, numbers["0.c"][3:, 5:].T)
    assert torch.equal(kept, numbers["2.a"])


def test_two_groups_are_in_memory_and_no_more(stream: Stream) -> None:
    pieces = set()
    for number in range(5 * N):
        found = stream.group(str(number % N))
        pieces.add(next(iter(found.values())).untyped_storage().data_ptr())
        del found
    gc.collect()
    assert len(pieces) <= 2
    assert stream.slots.made <= 2
    assert stream.to_take == 0


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
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        with pytest.raises(ModelError, match="the disk reports an input/output error"):
            stream.group("0")
    assert agree(stream.group("0"), numbers)


def test_where_the_page_cache_cannot_be_passed_by_it_is_used(
    stream: Stream, numbers: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, refused = os.preadv, []

    def picky(descriptor: int, buffers: list[memoryview], begin: int) -> int:
        import fcntl

        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(begin)
            raise OSError(errno.EINVAL, "Invalid argument")
        return plain(descriptor, buffers, begin)

    monkeypatch.setattr(os, "preadv", picky)
    for group in range(N):
        assert agree(stream.group(str(group)), numbers)
    # A file system in memory has no O_DIRECT at all, and a network gives less than is asked for.
    monkeypatch.setattr(reading, "opened", lambda path: (os.open(path, os.O_RDONLY), False))
    monkeypatch.setattr(os, "preadv", lambda d, buffers, at: plain(d, [buffers[0][:1000]], at))
    for group in range(N):
        assert agree(stream.group(str(group)), numbers)


def test_an_interrupt_leaves_it_usable(
    stream: Stream, numbers: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, hold, waiting = os.preadv, threading.Event(), threading.Event()

    def slow(*given: object) -> int:
        waiting.set()
        hold.wait(10)
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", slow)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        waiting.wait(10)
        signal.pthread_kill(main, signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(KeyboardInterrupt):
        everything(stream)
    hold.set()
    other.join()
    for group in range(N):
        assert agree(stream.group(str(group)), numbers)


def test_threads_do_not_get_into_each_others_way(
    stream: Stream, numbers: Mapping[str, Tensor]
) -> None:
    wrong: list[int] = []

    def ask(seed: int) -> None:
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed)).tolist()
        for group in order * 5:
            if not agree(stream.group(str(group)), numbers):
                wrong.append(group)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_weights_in_memory_go_with_those_on_the_disk(file: Path) -> None:
    stored, held = stored_in(file)["0.a"], torch.randn(3)
    stream = Stream(
        {"0": {"0.a": Source(stored, torch.float32), "0.x": held}, "1": {"1.x": held}},
        torch.device("cpu"),
    )
    assert stream.group("0")["0.x"] is held
    assert stream.group("1")["1.x"] is held
    assert list(stream.reads) == ["0"]
    stream.close()


def test_without_memory_for_the_next_one_it_is_not_read_ahead(
    stream: Stream, numbers: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = stream.group("0")
    stream.group("1")

    def none(_: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(slots, "new_memory", none)
    found = stream.group("2")  # which was read ahead, as was "3" into what "1" left
    again = stream.group("0")  # into what "3" leaves, which is wanted less
    with pytest.raises(RuntimeError, match="can't allocate memory") as told:
        stream.group("1")
    assert is_out_of_memory(told.value)
    for one in (held, found, again):
        assert agree(one, numbers)
    del found
    assert agree(stream.group("1"), numbers)


def test_a_weight_alone_takes_the_place_of_what_was_read_ahead(
    stream: Stream, numbers: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[weakref.ref[mmap.mmap]] = []
    plain, empty = slots.new_memory, torch.empty

    def noted(size: int) -> mmap.mmap:
        memory = plain(size)
        taken.append(weakref.ref(memory))
        return memory

    def limited(*given: Any, **more: Any) -> Tensor:
        if any(one() is not None for one in taken):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return empty(*given, **more)

    monkeypatch.setattr(slots, "new_memory", noted)
    monkeypatch.setattr(torch, "empty", limited)
    assert len(stream.group("0")) == len(SHAPES)
    assert len(taken) == 2
    assert torch.equal(stream.one("2.a"), numbers["2.a"])
    held = stream.group("0")
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        stream.one("2.a")
    assert agree(held, numbers)


def test_it_can_be_closed_and_goes_on(stream: Stream, numbers: Mapping[str, Tensor]) -> None:
    others = set(threading.enumerate())  # of other tests
    stream.group("0")
    stream.close()
    left = set(threading.enumerate()) - others
    assert not [one for one in left if one.name.startswith("weights-")]
    assert agree(stream.group("1"), numbers)


def test_a_process_ends_while_something_is_being_read(file: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from typing import Any
from tests.interp.loading.streaming.test_stream import of, reading
import os, time
plain = os.preadv
os.preadv = lambda *given: (time.sleep(0.3), plain(*given))[1]
stream = of(Path({str(file)!r}))
stream.group("0")
if not os.fork():
    os.preadv = plain
    assert len(stream.group("2")) == {len(SHAPES)}  # a process of its own has threads of its own
    os._exit(3)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
print("done", flush=True)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "done\n", "")
