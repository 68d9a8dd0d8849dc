"""A process may be killed at any moment: what it had committed stays, the rest leaves no trace."""

from __future__ import annotations

import functools
import os
import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from cache import ActivationStore
from cache.folder import folder, verify
from cache.shards import output
from cache.shards.layout import PAGE
from cache.shards.writer import ShardWriter
from tests.cache.children import (
    SITES,
    check_left,
    check_values,
    every_step,
    kill,
    killed_at,
    quiet,
    sidecars,
    start,
)
from tests.cache.fake import FakeSource, prompts

pytestmark = pytest.mark.slow

OLD, NEW = prompts(4, seed=1), prompts(4, seed=2)
SMALL = 1500  # bytes of a shard: two or three rows


def make(path: Path, rows: list[list[int]] = OLD) -> None:
    """A store with some shards."""
    with ActivationStore(path, shard_size=SMALL) as store:
        store.get(FakeSource(), rows, SITES)


def damage_one(path: Path) -> str:
    """Change a byte in a shard; returns its id."""
    data = sorted(path.glob("shards/*/*.safetensors"))[0]
    with open(data, "r+b") as file:
        file.seek(-2000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))
    return data.stem


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else evicts here, so that `verify` need not wait for it."""
    monkeypatch.setattr(verify, "MOMENT", 0.0)


@pytest.fixture
def path(in_memory: Path) -> Path:
    return in_memory / "store"


@pytest.fixture
def template(in_memory: Path) -> Path:
    make(in_memory / "template")
    return in_memory / "template"


def again(path: Path, template: Path | None = None) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if template is not None:
        shutil.copytree(template, path)


def test_making_a_store_and_filling_it(path: Path) -> None:
    def work() -> None:
        with ActivationStore(path, shard_size=SMALL) as store:
            store.get(FakeSource(), NEW, SITES)

    steps = 0
    committed = set()
    for _ in every_step(work, lambda: again(path), path):
        committed.add(len(sidecars(path)) if path.exists() else -1)
        check_left(path, NEW)
        steps += 1
    assert steps > 40
    # It was killed before the folder was there, and before and after each shard.
    assert {-1, 0, 1, 2} <= committed


def test_filling_a_store_past_the_page_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "WORTHWHILE", PAGE)
    monkeypatch.setattr(folder, "ShardWriter", functools.partial(ShardWriter, direct=True))
    rows = prompts(3, longest=250, shortest=200)

    def work() -> None:
        with ActivationStore(path) as store:
            store.get(FakeSource(), rows, SITES)

    committed = set()
    for _ in every_step(work, lambda: again(path), path):
        committed.add(len(sidecars(path)) if path.exists() else -1)
        check_left(path, rows)
    assert committed == {-1, 0, 1}


def test_adding_to_a_store_and_entering_it_anew(path: Path, template: Path) -> None:
    def work() -> None:
        store = ActivationStore(path, shard_size=SMALL)
        store.get(FakeSource(), OLD[:2], SITES)
        store.close()
        store.get(FakeSource(), NEW[:2], SITES)
        store.close()

    for _ in every_step(work, lambda: again(path, template), path):
        before = sidecars(template)
        assert before <= sidecars(path)
        check_left(path, OLD + NEW[:2])


def test_eviction(path: Path, template: Path) -> None:
    with ActivationStore(template) as store:
        budget = store.size() + 1000

    def work() -> None:
        with ActivationStore(path, budget=budget, shard_size=SMALL) as store:
            store.get(FakeSource(), NEW[:2], SITES)
            assert store.size() <= budget

    evicted = set()
    for _ in every_step(work, lambda: again(path, template), path):
        evicted.add(len(sidecars(template) - sidecars(path)))
        check_left(path, OLD + NEW[:2])
    assert {0, 1} <= evicted


def test_eviction_by_a_process_that_writes_nothing_else(path: Path, template: Path) -> None:
    def work() -> None:
        with ActivationStore(path, budget=1) as store:
            store.gc()

    evicted = set()
    for _ in every_step(work, lambda: again(path, template), path):
        evicted.add(len(sidecars(path)))
        check_left(path, OLD)
    assert 0 in evicted
    assert len(sidecars(template)) in evicted


def test_setting_aside_what_is_damaged(path: Path, template: Path) -> None:
    shard = damage_one(template)

    def work() -> None:
        with ActivationStore(path, shard_size=SMALL) as store:
            check_values(store, OLD, FakeSource())

    for _ in every_step(work, lambda: again(path, template), path):
        check_left(path, OLD, findings=f"shard {shard}: 1 damaged MiB", also=["quarantine"])


def test_verifying_and_repairing(path: Path, template: Path) -> None:
    shard = damage_one(template)

    def work() -> None:
        with ActivationStore(path, shard_size=SMALL) as store:
            assert store.verify(FakeSource()).repaired
            assert store.gc()

    for _ in every_step(work, lambda: again(path, template), path):
        check_left(path, OLD, findings=f"shard {shard}: 1 damaged MiB", also=["quarantine"])


@pytest.mark.parametrize("how", ["missing", "damaged", "of another store"])
def test_making_the_index_anew(path: Path, template: Path, how: str, in_memory: Path) -> None:
    make(in_memory / "other", NEW)
    index = template / "index.sqlite"
    if how == "missing":
        index.unlink()
    elif how == "damaged":
        index.write_bytes(index.read_bytes()[:4096] + bytes(8192))
    else:
        shutil.copy(in_memory / "other" / "index.sqlite", index)

    def work() -> None:
        with ActivationStore(path) as store:
            store.verify()
            source = FakeSource()
            store.get(source, OLD, SITES)
            assert source.runs == 0

    for _ in every_step(work, lambda: again(path, template), path):
        if how == "of another store":
            # Nothing tells it from a right one but what it says, which `verify` compares.
            with quiet(), ActivationStore(path) as store:
                store.verify()
        check_left(path, OLD)


def test_removing_a_site_and_a_model(path: Path, template: Path) -> None:
    def work() -> None:
        with ActivationStore(path) as store:
            store.remove(FakeSource().space(), ["z.0"])
            store.remove(FakeSource().space())

    for _ in every_step(work, lambda: again(path, template), path):
        check_left(path, OLD)


def test_putting_in_order_what_another_left(path: Path, template: Path) -> None:
    """The process that clears up after a killed one may be killed as well."""

    def begin() -> None:
        with ActivationStore(template, shard_size=SMALL) as store:
            store.get(FakeSource(), NEW, SITES)

    # Killed after one shard was committed and while another was written.
    step = 20
    while not (list(template.glob("shards/*/.partial-*")) and len(sidecars(template)) > 3):
        shutil.rmtree(template)
        make(template)
        assert killed_at(step, begin)
        step += 1
    left = sorted(template.glob("shards/*/*.safetensors"))[0]
    left.with_suffix(".json").unlink(missing_ok=True)

    def work() -> None:
        with ActivationStore(path) as store:
            store.gc()

    steps = 0
    for _ in every_step(work, lambda: again(path, template), path):
        check_left(path, OLD + NEW)
        steps += 1
    assert steps > 5


def test_eighty_kills_at_random_moments(path: Path) -> None:
    """Two processes fill, read, evict, remove and verify one store until both are killed."""
    draw = random.Random(5)
    rows = prompts(12, seed=3)
    make(path, rows)

    def work(seed: int) -> None:
        own = random.Random(seed)
        while True:
            budget = own.choice([None, None, 150_000])
            with ActivationStore(path, budget=budget, shard_size=SMALL) as store:
                for _ in range(own.randrange(6)):
                    part = own.sample(rows, own.randrange(1, 6))
                    check_values(store, part, FakeSource())
                if own.random() < 0.2:
                    store.remove(FakeSource().space(), [own.choice(SITES)])
                if own.random() < 0.1:
                    store.gc()

    for turn in range(40):
        children = [start(lambda seed=2 * turn + n: work(seed)) for n in range(2)]
        for child in children:
            time.sleep(draw.random() * 0.03)
            kill(child)
        check_left(path, rows)


def test_a_journal_that_a_killed_process_left_is_played_back(path: Path, template: Path) -> None:
    """SQLite itself: killed within a transaction, with a part of it on the disk."""

    def work() -> None:
        db = sqlite3.connect(path / "index.sqlite", isolation_level=None)
        db.execute("pragma cache_size = 1")
        db.execute("pragma cache_spill = 1")
        db.execute("begin immediate")
        db.execute("update shards set bytes = 0, content = zeroblob(9000)")
        db.execute("delete from rows")
        os.kill(os.getpid(), 9)

    again(path, template)
    assert killed_at(10**9, work)
    assert (path / "index.sqlite-journal").stat().st_size > 0
    check_left(path, OLD)


def test_a_journal_of_the_old_index_is_not_played_back_into_the_new_one(
    path: Path, template: Path
) -> None:
    """A process dies within a transaction, and the index is damaged before the next one comes."""
    again(path, template)
    journal, index = path / "index.sqlite-journal", path / "index.sqlite"
    db = sqlite3.connect(index, isolation_level=None)
    db.execute("pragma cache_size = 1")
    db.execute("begin immediate")
    db.execute("update shards set bytes = 0, content = zeroblob(30000)")
    kept = journal.read_bytes()
    db.execute("rollback")
    db.close()
    journal.write_bytes(kept)
    index.unlink()
    check_left(path, OLD)


def test_what_is_committed_reaches_the_disk_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a power cut, which no test can bring about: data, their name, the sidecar, its name."""
    events = []
    fsync, replace = os.fsync, os.replace

    def what(name: str) -> str:
        kind = "folder" if os.path.isdir(name) else Path(name).suffix
        return kind if "shards" in name else ""

    def noting_fsync(descriptor: int) -> None:
        events.append(f"flush {what(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def noting_replace(old: Path, new: Path) -> None:
        events.append(f"name {what(str(new))}")
        replace(old, new)

    with ActivationStore(path) as store:
        monkeypatch.setattr(os, "fsync", noting_fsync)
        monkeypatch.setattr(os, "replace", noting_replace)
        store.get(FakeSource(), NEW, SITES)
        monkeypatch.undo()
    order = [event for event in events if not event.endswith(" ")]
    assert order[-6:] == [
        "flush .safetensors",
        "name .safetensors",
        "flush folder",
        "flush .json",
        "name .json",
        "flush folder",
    ]
    # The folder of the shard is new, and so is its name in the one above it.
    assert order[:-6] == ["flush folder"]
