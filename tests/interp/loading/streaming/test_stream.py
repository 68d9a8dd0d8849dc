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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.loading.streaming import reading, slots
from interp.loading.streaming.stored import stored_in
from interp.loading.streaming.stream import Source, Stream
from interp.model.memory import is_out_of_memory
from tests.interp.loading.streaming.stored_groups import SHAPES, N, agree, everything, of

pytestmark = pytest.mark.usefixtures("small_pieces")


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


@pytest.mark.slow
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


@pytest.mark.slow
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
