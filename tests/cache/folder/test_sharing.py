"""Several processes and threads use one store: rows are computed once, and nobody waits forever."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cache import ActivationStore, locks
from cache.errors import StorageError
from cache.folder import listing
from cache.folder.owners import Owner, Owners
from cache.index.queries import Index
from cache.keys.space import Ids, SiteShape
from cache.shards import writer
from cache.shards.writer import ShardWriter
from tests.cache.children import (
    SITES,
    check_left,
    check_tidy,
    check_values,
    end,
    kill,
    quiet,
    start,
)
from tests.cache.fake import FakeSource, expected, prompts

pytestmark = pytest.mark.slow

ROWS = prompts(24, seed=1)


class SlowSource(FakeSource):
    """Takes its time, and notes each row that any process computes in one file."""

    def __init__(self, log: Path, pause: float = 0.002) -> None:
        super().__init__(batch=1)
        self._log, self._pause = log, pause

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for (count, values), ids in zip(super().activations(rows, sites), rows, strict=True):
            with open(self._log, "a") as file:
                file.write(f"{os.getpid()} {ids.tolist()}\n")
            time.sleep(self._pause)
            yield count, values


class BlockedSource(FakeSource):
    """Comes to a halt in the middle of a shard, until a file is there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(batch=1)
        self.begun, self.go = folder / "begun", folder / "go"

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for number, item in enumerate(super().activations(rows, sites)):
            if number == 1:
                self.begun.touch()
                wait_for(self.go.exists)
            yield item


def wait_for(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def end_well(children: list[int]) -> None:
    for child in children:
        assert not end(child)


def computed(log: Path) -> list[str]:
    """The rows that were computed, each time that one was."""
    return [line.partition(" ")[2] for line in log.read_text().splitlines()]


def grow_old(path: Path) -> None:
    """Let a writer's last heartbeat be long ago."""
    for file in (path / "owners").iterdir():
        os.utime(file, (1, 1))


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


def test_the_lease_of_a_killed_process_ends_at_once(path: Path, in_memory: Path) -> None:
    source = BlockedSource(in_memory)

    def work() -> None:
        ActivationStore(path).get(source, ROWS, SITES)

    child = start(work)
    wait_for(source.begun.exists)
    with ActivationStore(path) as store:
        done = threading.Event()
        waiting = threading.Thread(
            target=lambda: (check_values(store, ROWS, FakeSource()), done.set())
        )
        waiting.start()
        assert not done.wait(0.3), "it did not wait for the process that computes the rows"
        kill(child)
        assert done.wait(5), "it waits for a dead process"
        waiting.join()
    check_left(path, ROWS)


def test_a_process_on_another_machine_is_judged_by_its_heartbeat(path: Path) -> None:
    ActivationStore(path).close()
    source = FakeSource()
    token = "0123456789abcdef"
    owner = path / "owners" / f"{token}.{'f' * 12}.1.1"
    with ActivationStore(path) as store:
        store.get(source, ROWS[:1], SITES)
        keys = source.space().keys(source.rows(ROWS))
        owner.touch()
        store.folder.catalogue.ask(Index.claim, keys, f"{token}.0")
        partial = next(path.glob("shards/*")) / f".partial-{token}-000001.safetensors"
        partial.write_bytes(b"half")
        store.gc()
        assert partial.exists()
        done = threading.Event()
        waiting = threading.Thread(
            target=lambda: (check_values(store, ROWS, FakeSource()), done.set())
        )
        waiting.start()
        assert not done.wait(1.5), "a process with a fresh heartbeat was taken for dead"
        os.utime(owner, (1, 1))
        assert done.wait(5)
        waiting.join()
    check_left(path, ROWS)


def test_the_heartbeat_keeps_a_writer_alive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.folder.owners.BEAT", 0.01)
    owners = Owners(path)
    owner = Owner(path)
    grown = next(iter(path.iterdir()))
    os.utime(grown, (1, 1))
    wait_for(lambda: time.time() - grown.stat().st_mtime < 10)
    assert owners.alive() == {owner.token}
    owner.leave(clean=True)


@pytest.mark.parametrize("cleared", [False, True])
def test_a_stopped_process_that_comes_back_does_no_harm(
    path: Path, in_memory: Path, cleared: bool
) -> None:
    """Meanwhile others took it for dead, computed its rows, and removed what it was writing."""
    source = BlockedSource(in_memory)

    def work() -> None:
        with ActivationStore(path, shard_size=3000) as store:
            check_values(store, ROWS, source)

    child = start(work)
    wait_for(source.begun.exists)
    os.kill(child, signal.SIGSTOP)
    grow_old(path)
    with ActivationStore(path, shard_size=1500) as store:
        check_values(store, ROWS, FakeSource())
        if cleared:
            store.gc()
            assert not list(path.glob("shards/*/.partial-*"))
        source.go.touch()
        os.kill(child, signal.SIGCONT)
        assert not end(child)
        assert store.verify().findings == ()
    check_left(path, ROWS)


def test_nobody_clears_up_in_the_middle_of_a_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data have their name, the sidecar is about to come, and the writer seems to be dead."""
    write = writer.write_atomic
    tried = []

    def late(target: Path, content: bytes, *, temporary: str) -> None:
        grow_old(path)
        tried.append(other.folder.reconcile(patience=0.05))
        write(target, content, temporary=temporary)

    with ActivationStore(path) as store, ActivationStore(path) as other:
        monkeypatch.setattr(writer, "write_atomic", late)
        check_values(store, ROWS, FakeSource())
        monkeypatch.undo()
        ((line,),) = tried
        assert line.startswith("nothing was put in order")
        assert store.verify().findings == ()
    check_left(path, ROWS)


def test_a_sidecar_that_comes_while_orphans_are_listed_saves_its_data(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ActivationStore(path) as store:
        check_values(store, ROWS, FakeSource())
        data = list(path.glob("shards/*/*.safetensors"))
        # As it was a moment ago.
        monkeypatch.setattr(listing, "orphans", lambda _: iter(data))
        assert store.folder.reconcile() == []
        assert all(file.exists() for file in data)


def test_leases_that_another_took_over_are_not_released(path: Path) -> None:
    source = FakeSource()
    keys = source.space().keys(source.rows(ROWS))
    with ActivationStore(path) as store:
        folder = store.folder
        with folder.lease(keys) as held:
            assert sorted(held) == sorted(keys)
            (holder,) = folder.catalogue.ask(Index.holders)
            # As if this process had been away for long.
            folder.catalogue.ask(Index.release, [holder])
            folder.catalogue.ask(Index.claim, keys, "somebody else")
        assert folder.catalogue.ask(Index.holders) == {"somebody else"}
        folder.catalogue.ask(Index.release, ["somebody else"])


def test_a_lease_that_cannot_be_released_keeps_nobody_waiting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the rows are given up, and this process lives on."""
    source = FakeSource()
    keys = source.space().keys(source.rows(ROWS))
    with ActivationStore(path) as store:

        def refuse(*_: object) -> None:
            raise StorageError("no space")

        with monkeypatch.context() as patch:
            patch.setattr(Index, "release", refuse)
            with store.folder.lease(keys):
                pass
        assert store.folder.catalogue.ask(Index.holders)
        check_values(store, ROWS, source)
        assert store.folder.catalogue.ask(Index.holders) == set()


def test_a_failing_model_gives_up_its_rows(path: Path) -> None:
    class Failing(FakeSource):
        def activations(
            self, rows: Sequence[Ids], sites: Sequence[SiteShape]
        ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
            yield from super().activations(rows[:1], sites)
            raise KeyboardInterrupt

    with ActivationStore(path) as store:
        with pytest.raises(KeyboardInterrupt):
            store.get(Failing(), ROWS, SITES)
        assert store.folder.catalogue.ask(Index.holders) == set()
        assert not list(path.glob("shards/*/*"))
        check_values(store, ROWS, FakeSource())


def test_a_new_writer_is_not_taken_for_a_dead_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It enters, leases and writes while another clears up; nothing of it may go."""
    source = FakeSource()
    others: list[ActivationStore] = []
    writers: list[ShardWriter] = []
    with ActivationStore(path) as store:
        store.get(source, ROWS[:3], SITES)
        store.folder.catalogue.ask(Index.claim, [b"dead"], f"{'0' * 16}.0")
        asked = Owners.alive

        def late(owners: Owners) -> set[str]:
            found = asked(owners)
            # Between asking who lives and acting on it; the first time the index is locked.
            other = ready.pop()
            folder = other.folder
            writers.append(folder.writer(source.space(), source.sites(SITES), source.rows(ROWS)))
            if others:
                folder.catalogue.ask(Index.claim, [folder.owner.token.encode()], folder.owner.token)
            others.append(other)
            return found

        # Open, but not writers yet.
        ready = [ActivationStore(path) for _ in range(4)]
        monkeypatch.setattr(Owners, "alive", late)
        store.gc()
        monkeypatch.undo()
        assert len(others) > 1
        assert store.folder.catalogue.ask(Index.holders) == {
            o.folder.owner.token for o in others[1:]
        }
        assert len(list(path.glob("shards/*/.partial-*"))) == len(writers)
        for writer, other in zip(writers, others, strict=True):
            writer.__exit__()
            other.folder.catalogue.ask(Index.release, [other.folder.owner.token])
            other.close()
    check_left(path, ROWS)


def test_what_another_commits_before_the_lease_is_not_computed_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Index.claim

    def late(index: Index, keys: Sequence[bytes], holder: str) -> list[bytes]:
        monkeypatch.setattr(Index, "claim", claim)
        with ActivationStore(path) as other:
            other.get(FakeSource(), ROWS, SITES)
        return claim(index, keys, holder)

    source = FakeSource()
    with ActivationStore(path) as store:
        monkeypatch.setattr(Index, "claim", late)
        check_values(store, ROWS, source)
        assert source.runs == 0


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
