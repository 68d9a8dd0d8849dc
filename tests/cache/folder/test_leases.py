"""Leases and heartbeats tell who writes and who computes which rows; the dead hold nobody up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from cache import ActivationStore
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
    check_values,
    end,
    kill,
    start,
)
from tests.cache.fake import FakeSource, prompts
from tests.cache.sharing import BlockedSource, grow_old, wait_for

pytestmark = pytest.mark.slow

ROWS = prompts(24, seed=1)


@pytest.fixture
def path(in_memory: Path) -> Path:
    return in_memory / "store"


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
