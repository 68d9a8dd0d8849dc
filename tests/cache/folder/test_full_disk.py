"""A disk that is full, or becomes so at the worst moment, and one that can only be read."""

from __future__ import annotations

import contextlib
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from cache import ActivationStore
from cache.errors import DamageError, ObverseError, StorageError
from cache.folder.budget import Room
from cache.index.queries import Index
from cache.keys.space import Ids, SiteShape
from cache.shards.sidecar import Sidecar
from cache.shards.writer import ShardWriter
from tests.cache.children import SITES, check_left, check_values, end, quiet, start
from tests.cache.fake import FakeSource, prompts

OLD, NEW = prompts(6, seed=1), prompts(6, seed=2)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        refused = mounted.stderr.strip() if mounted.returncode else ""
    except FileNotFoundError:
        refused = "there is no mount command"
    if refused:
        pytest.skip(f"cannot mount a small disk here: {refused}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def path(disk: Path) -> Path:
    """A store on the small disk, with some shards, which nobody has open."""
    with ActivationStore(disk / "store", floor=0, shard_size=3000) as store:
        store.get(FakeSource(), OLD, SITES)
    return disk / "store"


def fill_up(disk: Path) -> None:
    with open(disk / "hog", "wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    assert os.statvfs(disk).f_bavail == 0


def free_up(disk: Path) -> None:
    (disk / "hog").unlink()


@contextlib.contextmanager
def refusal(*words: str) -> Iterator[None]:
    """An error of the block is one sentence with advice."""
    with pytest.raises(StorageError) as caught:
        yield
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith(".")
    assert message.count(". ") == 0
    assert "\n" not in message
    assert ";" in message


class HogSource(FakeSource):
    """While it computes, somebody else takes all that is left of the disk."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self._disk = disk

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        fill_up(self._disk)
        yield from super().activations(rows, sites)


def test_what_cannot_fit_is_refused_before_it_is_run(path: Path) -> None:
    source = FakeSource()
    with ActivationStore(path, floor=0) as store:
        with refusal("tokens at 3 sites take", "free, of which 65.5 kB stay free"):
            store.get(source, prompts(2500, seed=3), SITES)
        assert source.runs == 0
        check_values(store, OLD, source)
        assert source.runs == 0
    with ActivationStore(path, floor="1TB") as store, refusal("of which 1 TB stay free"):
        store.get(source, NEW, SITES)


def test_the_disk_fills_up_between_reservation_and_sidecar(path: Path, disk: Path) -> None:
    with ActivationStore(path, floor=0) as store:
        with refusal("no space left"):
            store.get(HogSource(disk), NEW, SITES)
        source = FakeSource()
        check_values(store, OLD, source)
        assert source.runs == 0
        assert not list(path.glob("shards/*/.partial-*"))
        free_up(disk)
        assert store.folder.catalogue.ask(Index.holders) == set()
        check_values(store, NEW, source)
    check_left(path, OLD + NEW)


def test_the_disk_is_full_when_room_is_reserved(
    path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "make", lambda *_: fill_up(disk))
    with ActivationStore(path, floor=0) as store:
        with refusal("no space left"):
            store.get(FakeSource(), NEW, SITES)
        monkeypatch.undo()
        source = FakeSource()
        check_values(store, OLD, source)
        assert source.runs == 0
        free_up(disk)
        check_values(store, NEW, source)
    check_left(path, OLD + NEW)


@pytest.mark.parametrize("when", ["while it is open", "after it was opened again"])
def test_the_disk_fills_up_between_sidecar_and_index(
    path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What was committed is not computed again once the index can be written."""
    commit = ShardWriter.commit

    def commit_and_fill(writer: ShardWriter) -> Sidecar:
        done = commit(writer)
        fill_up(disk)
        return done

    monkeypatch.setattr(ShardWriter, "commit", commit_and_fill)
    store = ActivationStore(path, floor=0)
    with refusal("no space left"):
        store.get(FakeSource(), NEW, SITES)
    monkeypatch.undo()
    source = FakeSource()
    check_values(store, OLD, source)
    if when == "after it was opened again":
        store.close()
        free_up(disk)
        store = ActivationStore(path, floor=0)
    else:
        free_up(disk)
    check_values(store, NEW, source)
    assert source.runs == 0
    store.close()
    check_left(path, OLD + NEW)


def test_who_could_not_enter_a_shard_lets_the_next_one_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, source = tmp_path / "store", FakeSource()

    def refuse(*_: object) -> None:
        raise StorageError("no space; free some.")

    store = ActivationStore(path)
    monkeypatch.setattr(Index, "add", refuse)
    with pytest.raises(StorageError):
        store.get(FakeSource(), NEW, SITES)
    store.close()
    monkeypatch.undo()
    with ActivationStore(path) as store:
        check_values(store, NEW, source)
    assert source.runs == 0
    check_left(path, NEW)


def test_a_full_disk_can_be_read_and_made_room_on(path: Path, disk: Path) -> None:
    fill_up(disk)
    with ActivationStore(path, floor=0) as store:
        source = FakeSource()
        check_values(store, OLD, source)
        assert source.runs == 0
        assert store.usage()
        assert store.missing(source, OLD + NEW, SITES) == len(NEW)
        before = store.size()
        assert store.remove(source.space()) == before
        assert os.statvfs(disk).f_bavail > 0
        check_values(store, NEW, source)
    free_up(disk)
    check_left(path, NEW)


def test_a_full_disk_without_anything_to_evict(disk: Path) -> None:
    path = disk / "store"
    ActivationStore(path).close()
    fill_up(disk)
    with ActivationStore(path, floor=0) as store:
        with refusal("tokens at 3 sites take", "has 0 B free"):
            store.get(FakeSource(), NEW, SITES)
        with refusal("do not fit", "free some space"):
            store.room.make(1)
        # Another process is not kept waiting by a lease of this one.
        assert store.folder.catalogue.ask(Index.holders) == set()
        free_up(disk)
        check_values(store, NEW, FakeSource())
    check_left(path, NEW)


@pytest.mark.slow
def test_eviction_makes_room_on_a_full_disk(path: Path, disk: Path) -> None:
    more = prompts(30, seed=4)
    with ActivationStore(path, floor=0, shard_size=3000) as store:
        store.get(FakeSource(), more, SITES)
    fill_up(disk)
    with ActivationStore(path, floor=0, shard_size=3000) as store:
        check_values(store, NEW[:2], FakeSource())
        assert 0 < store.missing(FakeSource(), OLD + more, SITES) < len(OLD + more)
    free_up(disk)
    check_left(path, OLD + NEW + more)


def test_a_process_that_dies_on_a_full_disk(path: Path, disk: Path) -> None:
    def work() -> None:
        store = ActivationStore(path, floor=0)
        with contextlib.suppress(StorageError):
            store.get(HogSource(disk), NEW, SITES)
        os.kill(os.getpid(), 9)

    assert end(start(work))
    with ActivationStore(path, floor=0) as store:
        source = FakeSource()
        check_values(store, OLD, source)
        assert source.runs == 0
    free_up(disk)
    check_left(path, OLD + NEW)


def test_repair_on_a_full_disk(path: Path, disk: Path) -> None:
    data = sorted(path.glob("shards/*/*.safetensors"))[0]
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    fill_up(disk)
    with ActivationStore(path, floor=0) as store:
        (finding,) = store.verify().findings
        assert data.stem in finding.message
        with quiet(), contextlib.suppress(StorageError):
            store.get(FakeSource(), OLD, SITES)
        free_up(disk)
        with quiet():
            check_values(store, OLD, FakeSource())
        assert store.verify().findings == ()


@pytest.fixture
def remount(disk: Path) -> Callable[[str], None]:
    def change(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)

    return change


def test_a_read_only_store_gives_what_it_has(path: Path, remount: Callable[[str], None]) -> None:
    remount("ro")
    source = FakeSource()
    with ActivationStore(path) as store:
        assert store.read_only
        check_values(store, OLD, source)
        assert store.missing(source, OLD + NEW, SITES) == len(NEW)
        assert sum(usage.rows for usage in store.usage()) == len(OLD) * len(SITES)
        assert [space.label for space in store.spaces()] == ["fake"]
        assert store.verify().findings == ()
        with refusal("is read-only, and it lacks some of what is asked for"):
            store.get(source, NEW, SITES)
        with refusal("is read-only, and nothing can be removed"):
            store.remove(source.space())
        with refusal("is read-only, and nothing can be removed"):
            store.gc()

        def read() -> None:
            check_values(store, OLD, FakeSource())

        assert not end(start(read))
    assert source.runs == 0
    remount("rw")
    with ActivationStore(path, floor=0) as store:
        check_values(store, OLD + NEW, source)
    check_left(path, OLD + NEW)


def test_damage_in_a_read_only_store_is_named_and_not_returned(
    path: Path, remount: Callable[[str], None]
) -> None:
    data = sorted(path.glob("shards/*/*.safetensors"))[0]
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    remount("ro")
    with ActivationStore(path) as store:
        with refusal(f"Shard {data.stem}", "is damaged"):
            store.get(FakeSource(), OLD, SITES)
        with pytest.raises(DamageError):
            store.get(FakeSource(), OLD, SITES)
        (finding,) = store.verify().findings
        assert data.stem in finding.message
        assert "set aside" not in finding.message
        with refusal("is read-only, and what is damaged cannot be computed again"):
            store.verify(FakeSource())
    remount("rw")
    assert data.exists()


def test_a_store_that_becomes_read_only_while_it_is_open(
    path: Path, remount: Callable[[str], None]
) -> None:
    store = ActivationStore(path, floor=0)
    source = FakeSource()
    check_values(store, OLD, source)
    # A disk with files that are open for writing cannot be remounted; the object lives on.
    store.close()
    remount("ro")
    assert not store.read_only
    check_values(store, OLD, source)
    with refusal("read-only"):
        store.get(source, NEW, SITES)
    store.close()
    remount("rw")
    check_values(store, OLD + NEW, source)
    store.close()
    check_left(path, OLD + NEW)


@pytest.mark.parametrize("left", ["nothing", "marker"])
def test_a_read_only_folder_that_is_no_store(
    disk: Path, remount: Callable[[str], None], left: str
) -> None:
    (disk / "store").mkdir()
    if left == "marker":
        (disk / "store" / "shards").mkdir()
        (disk / "store" / "store.json").write_text("{")
    remount("ro")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ObverseError, match=r"read-only.*; (choose|copy)"):
            ActivationStore(disk / "store")
        with pytest.raises(ObverseError, match=r"read-only; choose"):
            ActivationStore(disk / "another")
