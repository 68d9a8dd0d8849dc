"""What is damaged, gone, or not as the index says is never given as data."""

from __future__ import annotations

import gc
import sqlite3
import weakref
from pathlib import Path
from typing import Any

import pytest

from cache import ActivationStore
from cache.errors import DamageError, GoneError, StorageError
from cache.training.stream import TokenStream
from tests.cache.fake import FakeSource
from tests.cache.streams import (
    ROWS,
    SITE,
    SITES,
    TOKENS,
    check_values,
    make_store,
    places,
    put_shard,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return make_store(tmp_path / "store")


def stream(store: ActivationStore, pool: int = 9000) -> TokenStream:
    keys = store.keys("fake", ROWS)
    return store.stream("fake", SITE, batch_size=5, pool=pool, info=True, keys=keys)


def damage(store: ActivationStore, number: int = 3) -> str:
    """Change a byte in the middle of a shard's data; returns the shard's id."""
    path = sorted((store.path / "shards").glob("*/*.safetensors"))[number]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path.stem


def change_index(store: ActivationStore, change: str) -> None:
    store.folder.close()
    with sqlite3.connect(store.path / "index.sqlite") as db:
        db.execute(change)
    db.close()


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_damage_is_one_sentence_and_the_batches_before_are_right(
    store: ActivationStore, workers: int | None
) -> None:
    data = stream(store)
    whole = places(stream(store))
    shard = damage(store)
    batches = data if workers is None else data.loader(workers)
    received: list[Any] = []
    with pytest.raises(DamageError) as error:
        received.extend(batches)
    check_values(received, ROWS, [SITE])
    assert places(received) == whole[: 5 * len(received)]
    assert str(error.value) == (
        f"Shard {shard} of '{store.path}' is damaged (MiB 0 of the file is not what was written); "
        "run `obverse cache verify`, and open the data again."
    )
    assert batches.state_dict()["token"] == 5 * len(received)
    # Repaired, it goes on where it stopped: the rows are the same, if in another file.
    assert store.verify(FakeSource()).repaired
    again = stream(store)
    again.load_state_dict(batches.state_dict())
    assert places(received) + places(again) == whole


def test_a_single_token_of_a_damaged_shard_is_not_given(store: ActivationStore) -> None:
    dataset = store.dataset("fake", SITES)
    damage(store)
    good = 0
    for number in range(len(dataset)):
        try:
            dataset[number]
            good += 1
        except DamageError:
            pass
    assert 0 < good < len(dataset)


def test_a_damaged_sidecar_and_a_missing_file_are_damage(store: ActivationStore) -> None:
    for suffix in (".json", ".safetensors"):
        data = stream(store)
        path = sorted((store.path / "shards").glob(f"*/*{suffix}"))[0]
        content = path.read_bytes()
        if suffix == ".json":
            path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
        else:
            path.unlink()
        with pytest.raises(
            DamageError, match=f"Shard {path.stem} of .* run `obverse cache verify`"
        ):
            list(data)
        path.write_bytes(content)
        assert sorted(places(stream(store))) == TOKENS


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_has_failed_is_gone_when_it_is_let_go_of(
    store: ActivationStore, workers: int
) -> None:
    damage(store)
    loader = stream(store).loader(workers)
    seen = weakref.ref(loader)
    gc.disable()
    try:
        with pytest.raises(DamageError):
            list(loader)
        del loader
        assert seen() is None
    finally:
        gc.enable()


def test_a_file_that_loses_its_end_while_it_is_open_is_damage(store: ActivationStore) -> None:
    """Reading a map beyond its file would end the process."""
    dataset = store.dataset("fake", SITE)
    assert len(dataset[:]) == len(TOKENS)
    for path in (store.path / "shards").glob("*/*.safetensors"):
        with open(path, "r+b") as file:
            file.truncate(100)
    for chosen in (3, [3, 9]):
        with pytest.raises(DamageError, match="has 100 bytes instead of"):
            dataset[chosen]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_was_evicted_is_one_sentence(store: ActivationStore, workers: int) -> None:
    data, dataset = stream(store), store.dataset("fake", SITE)
    iterator = iter(data.loader(workers))
    next(iterator)
    first = dataset[0]
    shards = [path.stem for path in (store.path / "shards").glob("*/*.json")]
    store.folder.remove(shards)
    # What is open stays readable; what is not is gone.
    assert (dataset[0] == first).all()
    for read in (lambda: list(iterator), lambda: dataset[:]):
        with pytest.raises(GoneError, match="was evicted or removed meanwhile; open the data"):
            read()
    with pytest.raises(StorageError, match="holds no activations of 'fake'"):
        stream(store)


@pytest.mark.parametrize(
    "change",
    [
        "update shards set tokens = tokens + 1",
        "update shards set rows = rows + 1, tokens = tokens + 1",
        "update shards set content = zeroblob(16)",
    ],
)
def test_an_index_that_is_wrong_is_noticed(store: ActivationStore, change: str) -> None:
    change_index(store, change)
    for positions in (None, slice(1, None)):
        with pytest.raises(DamageError, match=r"The index of .* does not fit shard"):
            list(store.stream("fake", SITE, batch_size=5, positions=positions))
    store.verify()
    assert len(store.dataset("fake", SITE)) == len(TOKENS)


def test_rows_that_stand_elsewhere_than_the_index_says_are_noticed(store: ActivationStore) -> None:
    keys = store.keys("fake", ROWS)
    change_index(store, "update rows set row = case row when 0 then 1 when 1 then 0 else row end")
    with pytest.raises(DamageError, match=r"The index of .* does not fit shard"):
        store.dataset("fake", SITE, keys=keys)


def test_a_row_that_stands_elsewhere_at_another_site_is_noticed(tmp_path: Path) -> None:
    rows = [row[:4] for row in ROWS if len(row) >= 4]
    with ActivationStore(tmp_path / "store") as store:
        put_shard(store, rows, [SITE])
        put_shard(store, rows[::-1], ["z.0"])
        assert len(store.dataset("fake", SITES[1:])[:][SITE]) == 4 * len(rows)
        swapped = "update rows set row = case row when 0 then 1 when 1 then 0 else row end"
        change_index(store, f"{swapped} where shard = 2")
        change_index(store, f"{swapped} where shard = 1")
        for numbers in (0, [0, 5]):
            with pytest.raises(DamageError, match=r"The index of .* does not fit shard"):
                store.dataset("fake", SITES[1:])[numbers]


def test_what_was_evicted_is_not_kept_open(store: ActivationStore) -> None:
    dataset = store.dataset("fake", SITE)
    dataset[: len(dataset) // 2]
    store.folder.remove([path.stem for path in (store.path / "shards").glob("*/*.json")][:10])
    with pytest.raises(GoneError):
        dataset[:]
    maps = Path("/proc/self/maps").read_text()
    assert str(store.path) in maps
    assert not [
        line for line in maps.splitlines() if str(store.path) in line and "(deleted)" in line
    ]


def test_a_stream_outlives_the_store_object(tmp_path: Path) -> None:
    with make_store(tmp_path / "store") as store:
        data = stream(store)
    assert sorted(places(data)) == TOKENS
