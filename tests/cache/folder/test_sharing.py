"""Several processes and threads use one store: rows are computed once, and nobody waits forever."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest
import torch

from cache import ActivationStore, locks
from cache.errors import StorageError
from cache.index.queries import Index
from tests.cache.children import (
    SITES,
    check_left,
    check_tidy,
    check_values,
    end,
    quiet,
    start,
)
from tests.cache.fake import FakeSource, expected, prompts
from tests.cache.sharing import SlowSource, computed, end_well, wait_for

pytestmark = pytest.mark.slow

ROWS = prompts(24, seed=1)


@pytest.fixture
def path(in_memory: Path) -> Path:
    return in_memory / "store"


def test_four_processes_compute_the_same_rows_once(path: Path, in_memory: Path) -> None:
    def work() -> None:
        with ActivationStore(path, shard_size=3000) as store:
            wait_for((in_memory / "go").exists)
            check_values(store, ROWS, SlowSource(in_memory / "log"))

    children = [start(work) for _ in range(4)]
    time.sleep(0.1)
    (in_memory / "go").touch()
    end_well(children)
    assert sorted(computed(in_memory / "log")) == sorted(map(str, ROWS))
    check_left(path, ROWS)


def test_processes_with_overlapping_rows_in_opposite_orders(path: Path, in_memory: Path) -> None:
    """Each wants what another has begun; nobody waits for somebody who waits for it."""

    def work(number: int) -> None:
        draw = random.Random(number)
        with ActivationStore(path, shard_size=1500) as store:
            wait_for((in_memory / "go").exists)
            for _ in range(3):
                rows = draw.sample(ROWS, 16)
                rows = rows if number % 2 else rows[::-1]
                check_values(store, rows, SlowSource(in_memory / "log"))

    children = [start(lambda number=number: work(number)) for number in range(4)]
    time.sleep(0.1)
    (in_memory / "go").touch()
    end_well(children)
    found = computed(in_memory / "log")
    assert len(found) == len(set(found))
    check_left(path, ROWS)


def test_threads_of_a_process_compute_rows_once(path: Path, in_memory: Path) -> None:
    failures = []
    with ActivationStore(path, shard_size=1500) as store:

        def work(number: int) -> None:
            try:
                rows = random.Random(number).sample(ROWS, 16)
                check_values(store, rows, SlowSource(in_memory / "log"))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures
        found = computed(in_memory / "log")
        assert len(found) == len(set(found))
        assert store.folder.catalogue.ask(Index.holders) == set()


def test_maps_stay_right_while_everything_is_evicted(path: Path) -> None:
    same = prompts(6, seed=4, shortest=5, longest=5)
    with ActivationStore(path) as store:
        source = FakeSource()
        rows = store.rows(source, ROWS, SITES)
        whole = store.get(source, same, SITES)
        with ActivationStore(path, budget="60kB") as other:
            for seed in range(5, 9):
                other.get(FakeSource(), prompts(4, seed=seed), SITES)
        assert store.missing(source, ROWS, SITES) == len(ROWS)
        for site in source.sites(SITES):
            for number, ids in enumerate(source.rows(ROWS)):
                right = expected(source.model, ids, site)
                assert torch.equal(rows[site.name][number], right)
            for number, ids in enumerate(source.rows(same)):
                assert torch.equal(whole[site.name][number], expected(source.model, ids, site))
        source.runs = 0
        check_values(store, ROWS, source)
        assert source.runs == len(ROWS)


def test_readers_and_evicting_writers_at_the_same_time(path: Path) -> None:
    """What a reader finds in the index may be gone when it opens it; it gets right values still."""

    def work(number: int) -> None:
        draw = random.Random(number)
        budget = "150kB" if number % 2 else None
        until = time.monotonic() + 1.0
        with ActivationStore(path, budget=budget, shard_size=1500) as store:
            while time.monotonic() < until:
                check_values(store, draw.sample(ROWS, 3), FakeSource())

    children = [start(lambda number=number: work(number)) for number in range(3)]
    end_well(children)
    check_left(path, ROWS)


def test_children_read_and_write_with_the_store_that_they_inherit(path: Path) -> None:
    more = prompts(8, seed=6)
    with ActivationStore(path, shard_size=3000) as store:
        check_values(store, ROWS, FakeSource())

        def read() -> None:
            source = FakeSource()
            check_values(store, ROWS, source)
            assert source.runs == 0

        def write() -> None:
            check_values(store, more, FakeSource())

        children = [start(read), start(read), start(write)]
        end_well(children)
        read()
        # The children did not take this process's name away when they ended.
        assert store.folder.owner.is_current
        assert store.missing(FakeSource(), more, SITES) == 0
    # The writing child ended without closing the store.
    check_left(path, ROWS + more)


def test_children_that_are_forked_while_threads_work(path: Path) -> None:
    """No lock is held for ever in a child because a thread of its parent held it."""
    stop = threading.Event()
    with ActivationStore(path, shard_size=1500) as store:
        check_values(store, ROWS, FakeSource())

        def work(seed: int) -> None:
            while not stop.is_set():
                seed += 100
                store.get(FakeSource(), prompts(2, seed=seed), SITES)
                store.usage()
                store.keys("fake", ROWS)

        threads = [threading.Thread(target=work, args=(number,)) for number in (50, 51)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(15):
                child = start(lambda: check_values(store, ROWS[:3], FakeSource()))
                assert not end(child)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert store.verify().findings == ()


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_processes_survive_that_the_index_is_made_anew(
    path: Path, in_memory: Path, how: str
) -> None:
    """Nothing that one of them enters meanwhile is lost with the old one."""
    index = path / "index.sqlite"

    def work(number: int) -> None:
        with ActivationStore(path, shard_size=1500) as store:
            for seed in range(20 * number, 20 * number + 12):
                check_values(store, prompts(1, seed=seed), FakeSource())

    ActivationStore(path).close()
    children = [start(lambda number=number: work(number)) for number in range(1, 4)]
    for _ in range(4):
        time.sleep(0.05)
        if how == "deleted":
            index.unlink(missing_ok=True)
        elif index.exists():
            with open(index, "r+b") as file:
                file.write(b"no database")
    end_well(children)
    with quiet(), ActivationStore(path) as store:
        source = FakeSource()
        for number in range(1, 4):
            for seed in range(20 * number, 20 * number + 12):
                check_values(store, prompts(1, seed=seed), source)
        assert source.runs == 0
        assert store.verify().findings == ()
    check_tidy(path)


def test_an_index_that_another_made_anew_is_not_made_once_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what was leased and noted in the new one would be lost."""
    close = Index.close
    with quiet(), ActivationStore(path) as first, ActivationStore(path) as second:
        first.get(FakeSource(), ROWS[:3], SITES)
        assert second.size() > 0

        def late(index: Index) -> None:
            monkeypatch.setattr(Index, "close", close)
            # Both have seen the damage; the other one is faster.
            first.folder.catalogue.ask(Index.claim, [b"a"], f"{first.folder.owner.token}.0")
            index.close()

        with open(path / "index.sqlite", "r+b") as file:
            # Beyond the counter of changes too, without which SQLite trusts what it remembers.
            file.write(b"no database " * 10)
        monkeypatch.setattr(Index, "close", late)
        assert second.size() > 0
        assert first.folder.catalogue.ask(Index.holders) == {f"{first.folder.owner.token}.0"}
        first.folder.catalogue.ask(Index.release, [f"{first.folder.owner.token}.0"])


def test_one_sentence_where_a_stopped_process_holds_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    with ActivationStore(path) as store:
        lock = locks.StoreLock(path)
        with lock.exclusive(1.0) as got:
            assert got
            with pytest.raises(StorageError, match="does not go on; end that process, and try"):
                store.size()
            with lock.exclusive(0.05) as got:
                assert not got
        with lock.shared():
            assert store.size() == 0
            # Whoever would clear up leaves it for another time.
            (line,) = store.folder.reconcile(patience=0.05)
            assert line.startswith("nothing was put in order")


def test_many_scattered_rows_need_few_open_files(path: Path) -> None:
    """A call opens each shard once, not each row; the limit of a process is often 1,024 files."""
    rows = prompts(1500, seed=8)
    with ActivationStore(path) as store:
        source = FakeSource(batch=1500)
        store.get(source, rows, "z.0")
        before = len(os.listdir("/proc/self/fd"))
        found = store.rows(source, rows[::-1], "z.0")["z.0"]
        assert len(os.listdir("/proc/self/fd")) <= before + 4
        check = expected(source.model, source.rows(rows)[3], source.sites("z")[0])
        assert torch.equal(found[-4], check)
