"""A file that is changed in place while a store has it open: noticed by every reader."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cache import ActivationStore
from cache.errors import DamageError
from cache.shards import sidecar
from cache.shards.reader import ShardReader
from cache.shards.writer import read_sidecar
from tests.cache.children import check_values, quiet
from tests.cache.fake import FakeSource, expected, prompts

SITE = "resid_post.0"
ROWS = prompts(6, seed=3, longest=40, shortest=40)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with ActivationStore(tmp_path / "store") as opened:
        opened.get(FakeSource(), ROWS, SITE)
        settle()
        yield opened


def settle() -> None:
    """Wait until what is checked is trusted."""
    time.sleep(0.06)


def data(store: ActivationStore) -> Path:
    (found,) = store.path.glob("shards/*/*.safetensors")
    return found


def overwrite(path: Path, content: bytes) -> None:
    """All at once, in place; the file stays the same one."""
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, content, 0)
    os.close(descriptor)


def flipped(content: bytes) -> bytes:
    """With every activation changed; the header ends after a page."""
    return content[:4096] + bytes(byte ^ 0x40 for byte in content[4096:])


def write(path: Path) -> None:
    overwrite(path, flipped(path.read_bytes()))


def write_and_set_the_time_back(path: Path) -> None:
    before = path.stat()
    write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_through_a_map(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = flipped(memory[:])


def cut_and_write_again(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(flipped(content))


CHANGES = [write, write_and_set_the_time_back, write_through_a_map, cut_and_write_again]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", ["get", "rows"])
def test_what_is_asked_for_again_is_computed_again(
    store: ActivationStore, change: Callable[[Path], None], method: str
) -> None:
    source = FakeSource()
    check_values(store, ROWS, source, [SITE])
    assert source.runs == 0
    settle()
    check_values(store, ROWS, source, [SITE])
    change(data(store))
    with pytest.warns(UserWarning, match="is damaged"):
        found = getattr(store, method)(source, ROWS, SITE)[SITE]
    (site,) = source.sites(SITE)
    for ids, values in zip(source.rows(ROWS), found, strict=True):
        assert torch.equal(values, expected(source.model, ids, site))
    assert source.runs == len(ROWS)
    assert len(list((store.path / "quarantine").glob("*.safetensors"))) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_streams_and_single_tokens_name_the_damage(
    store: ActivationStore, change: Callable[[Path], None]
) -> None:
    dataset = store.dataset("fake", SITE)
    stream = store.stream("fake", SITE, batch_size=16)
    loader = stream.loader(2)
    readers: list[Callable[[], Any]] = [
        lambda: dataset[3],
        lambda: dataset[[200, 3]],
        lambda: list(stream),
        lambda: list(loader),
    ]
    for read in readers:
        read()
    settle()
    for read in readers:
        read()
    change(data(store))
    for read in readers:
        with pytest.raises(DamageError, match=r"is damaged \(MiB 0 of the file is not what was"):
            read()
    with quiet():
        assert len(store.verify().findings) == 1


def test_a_file_that_was_touched_stays_usable(store: ActivationStore) -> None:
    dataset = store.dataset("fake", SITE)
    before = dataset[:].clone()
    path = data(store)
    content = path.read_bytes()
    for change in (path.touch, lambda: path.chmod(0o600), lambda: overwrite(path, content)):
        change()
        assert torch.equal(dataset[:], before)
        source = FakeSource()
        check_values(store, ROWS, source, [SITE])
        assert source.runs == 0


def test_another_file_in_its_place_is_not_mixed_with_it(store: ActivationStore) -> None:
    path = data(store)
    check_values(store, ROWS, FakeSource(), [SITE])
    other = path.with_name("other")
    other.write_bytes(flipped(path.read_bytes()))
    os.replace(other, path)
    # The old file is still open, and right.
    check_values(store, ROWS, FakeSource(), [SITE])
    store.close()
    with quiet():
        check_values(store, ROWS, FakeSource(), [SITE])


def test_a_change_within_a_tick_of_the_clock_is_noticed(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older kernels, and other file systems, give two such changes the same time."""
    tick = 20_000_000
    real = os.fstat

    def coarse(descriptor: int) -> Any:
        found = real(descriptor)
        times = {
            name: getattr(found, name) // tick * tick for name in ("st_mtime_ns", "st_ctime_ns")
        }
        return SimpleNamespace(
            st_size=found.st_size, st_mode=found.st_mode, st_nlink=found.st_nlink, **times
        )

    monkeypatch.setattr(os, "fstat", coarse)
    for number in range(5):
        with quiet(), ActivationStore(in_memory / str(number)) as store:
            store.get(FakeSource(), ROWS, SITE)
            dataset = store.dataset("fake", SITE)
            dataset[5]
            write(data(store))
            with pytest.raises(DamageError):
                dataset[5]
            check_values(store, ROWS, FakeSource(), [SITE])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("method", ["vector", "vectors"])
def test_what_is_copied_while_a_file_changes_is_what_was_checked(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch, told: bool, method: str
) -> None:
    """Between a look and a copy; where the time does not tell, because the write had begun."""
    path = data(store)
    right = path.read_bytes()
    reader = ShardReader(store.path, read_sidecar(store.path, path.stem))
    tokens = np.array([7, 100])
    whole = reader.vectors(SITE, np.arange(240)).clone()
    real_stat, real_digest = os.fstat, sidecar.digest
    now = time.time_ns() + 10**10
    looks = 0

    def untold(descriptor: int) -> Any:
        found = real_stat(descriptor)
        return SimpleNamespace(st_size=found.st_size, st_mtime_ns=now, st_ctime_ns=now)

    def changed_after(content: Any) -> bytes:
        nonlocal looks
        found = real_digest(content)
        looks += 1
        overwrite(path, flipped(right))
        return found

    monkeypatch.setattr("cache.shards.reader.digest", changed_after)
    if not told:
        monkeypatch.setattr(os, "fstat", untold)
    for _ in range(3):
        overwrite(path, right)
        try:
            copied = reader.vector(SITE, 7) if method == "vector" else reader.vectors(SITE, tokens)
        except DamageError:
            assert told
        else:
            assert torch.equal(copied, whole[7] if method == "vector" else whole[tokens])
    assert looks


def test_wrong_numbers_get_no_checksum_that_fits(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sites are removed, the others are copied into a new file."""
    with quiet():
        store.get(FakeSource(), prompts(3, seed=8), "resid_post")
    path = max(store.path.glob("shards/*/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    real = ShardReader.tensor

    def tensor(self: ShardReader, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = real(self, *args, **kwargs)
        write(path)
        return found

    monkeypatch.setattr(ShardReader, "tensor", tensor)
    space = FakeSource().space()
    with quiet():
        store.remove(space, ["resid_post.1"])
    monkeypatch.undo()
    with quiet():
        check_values(store, prompts(3, seed=8), FakeSource(), [SITE])


def test_a_file_that_is_cut_while_it_is_open_does_not_end_the_process(
    store: ActivationStore,
) -> None:
    dataset = store.dataset("fake", SITE)
    assert len(list(dataset.rows())) == len(ROWS)
    os.truncate(data(store), 100)
    with pytest.raises(DamageError, match="has 100 bytes instead of"):
        list(dataset.rows())


def test_a_file_that_is_changed_while_rows_are_gathered(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several lengths are copied out of the map, which takes a while."""
    from cache import store as module

    path, gathered = data(store), module.padded
    changed: list[Path] = []

    def slowly(pieces: Any, lengths: Any) -> torch.Tensor:
        if not changed:
            changed.append(path)
            write(path)
        return gathered(pieces, lengths)

    monkeypatch.setattr(module, "padded", slowly)
    with quiet():
        check_values(store, [ROWS[k] for k in (3, 0, 5)], FakeSource(), [SITE])
    assert changed
