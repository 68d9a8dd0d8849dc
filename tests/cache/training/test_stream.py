"""A stream over a store: every token once, in an order that can be gone on with anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from cache import ActivationStore
from cache.errors import StorageError
from cache.keys.space import DTYPES
from cache.shards.reader import ShardReader
from cache.training.block import Block
from cache.training.stream import TokenStream
from cache.training.tokens import TokenReader
from tests.cache.fake import FakeSource, prompts
from tests.cache.streams import (
    ROWS,
    SITE,
    SITES,
    TOKENS,
    check_values,
    make_store,
    places,
    put_shard,
    right,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    store = make_store(tmp_path_factory.mktemp("stream") / "store")
    assert sum(usage.shards for usage in store.usage()) > 20
    return store


def stream(store: ActivationStore, **options: Any) -> TokenStream:
    keys = store.keys("fake", ROWS)
    options = {"batch_size": 7, "pool": 12_000, "info": True, "keys": keys, **options}
    return store.stream("fake", SITE, **options)


@pytest.mark.parametrize("pool", [500, 12_000, "1MB"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_every_token_comes_once_with_its_value(
    store: ActivationStore, pool: int | str, shuffle: bool, batch_size: int
) -> None:
    batches = list(stream(store, pool=pool, shuffle=shuffle, batch_size=batch_size))
    assert sorted(places(batches)) == TOKENS
    sizes = [len(values) for values, _ in batches]
    assert len(sizes) == -(-len(TOKENS) // batch_size)
    assert set(sizes[:-1]) <= {batch_size}
    check_values(batches, ROWS, [SITE])


def test_all_rows_are_read_without_keys_and_numbered(store: ActivationStore) -> None:
    dataset = store.dataset("fake", SITES, info=True)
    rows = {row.number: row.ids.tolist() for row in dataset.rows()}
    assert sorted(rows) == list(range(len(ROWS)))
    assert sorted(rows.values()) == sorted(ROWS)
    batches = list(store.stream("fake", SITES, batch_size=9, pool=9000, info=True))
    assert len(set(places(batches))) == len(TOKENS)
    check_values(batches, [rows[number] for number in range(len(rows))], SITES)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_precisions_are_kept_or_cast(tmp_path: Path, dtype: str) -> None:
    with ActivationStore(tmp_path / "store") as store:
        store.get(FakeSource(), ROWS, SITE, dtype=dtype)
        (as_stored,) = store.stream("fake", SITE, batch_size=1000, shuffle=False)
        (cast,) = store.stream("fake", SITE, batch_size=1000, shuffle=False, dtype="float16")
        first = store.dataset("fake", SITE, dtype=torch.float64)[0]
        ids = next(store.dataset("fake", SITE).rows()).ids.tolist()
    assert as_stored.dtype == DTYPES[dtype]
    assert torch.equal(as_stored[0], right(ids, 0, SITE).to(DTYPES[dtype]))
    assert torch.equal(cast, as_stored.half())
    assert torch.equal(first, as_stored[0].double())


def test_epochs_differ_and_are_counted(store: ActivationStore) -> None:
    data = stream(store)
    epochs = [places(data) for _ in range(3)]
    assert data.epoch == 3
    assert sorted(epochs[0]) == sorted(epochs[1]) == TOKENS
    assert epochs[0] != epochs[1] != epochs[2]
    data.set_epoch(1)
    assert places(data) == epochs[1]
    assert places(stream(store, seed=1)) not in epochs


def test_a_last_smaller_batch_can_be_left_out(store: ActivationStore) -> None:
    data, whole = stream(store, drop_last=True), places(stream(store))
    kept = places(data)
    assert len(kept) == 7 * len(data) == len(TOKENS) // 7 * 7
    assert kept == whole[: len(kept)]
    assert data.epoch == 1
    with pytest.raises(StorageError, match="Batches of 10,000 cannot be made"):
        stream(store, drop_last=True, batch_size=10_000)


@pytest.mark.parametrize("drop_last", [False, True])
def test_it_goes_on_at_every_batch(store: ActivationStore, drop_last: bool) -> None:
    options = {"batch_size": 30, "drop_last": drop_last}
    data = stream(store, **options)
    whole = [places([batch]) for _ in range(2) for batch in data]
    data = stream(store, **options)
    cursors = [data.state_dict()]
    for _ in range(2):
        for _ in data:
            cursors.append(data.state_dict())
    assert len(cursors) == len(whole) + 1
    for number, cursor in enumerate(cursors[:-1]):
        other = stream(store, **options)
        other.load_state_dict(json.loads(json.dumps(cursor)))
        rest = [places([batch]) for batch in other]
        assert rest == whole[number : number + len(rest)]
        assert other.epoch == (1 if number < len(whole) // 2 else 2)
    assert len(json.dumps(cursors[-1])) < 300


def test_another_batch_size_goes_on_with_the_same_tokens(store: ActivationStore) -> None:
    whole = places(stream(store))
    data = stream(store)
    received = places(batch for batch, _ in zip(data, range(4), strict=False))
    other = stream(store, batch_size=11)
    other.load_state_dict(data.state_dict())
    # zip takes one batch more than it gives.
    assert received == whole[:28]
    assert places(other) == whole[35:]


def test_another_batch_size_leaves_out_the_last_smaller_batch_too(store: ActivationStore) -> None:
    data = stream(store, batch_size=7)
    next(iter(data))
    other = stream(store, batch_size=11, drop_last=True)
    other.load_state_dict(data.state_dict())
    assert [len(values) for values, _ in other] == [11] * ((len(TOKENS) - 7) // 11)
    assert other.state_dict()["token"] == 0


def test_after_a_break_the_next_batch_comes(store: ActivationStore) -> None:
    whole, data, found = places(stream(store)), stream(store), []
    while data.epoch == 0:
        for number, batch in enumerate(data):
            found += places([batch])
            if number == 3:
                break
    assert found == whole


def test_a_cursor_of_something_else_is_refused(tmp_path: Path) -> None:
    with make_store(tmp_path / "store") as store:
        all_rows = store.stream("fake", SITE, batch_size=7)
        cursor, with_keys = all_rows.state_dict(), stream(store).state_dict()
        for changed, message in (
            (stream(store), "not of these tokens"),
            (store.stream("fake", "resid_post.0", batch_size=7), "not of these tokens"),
            (store.stream("fake", SITE, batch_size=7, positions=slice(1, None)), "not of these"),
            (store.stream("fake", SITE, batch_size=7, seed=3), "seed=0, this one has seed=3"),
            (store.stream("fake", SITE, batch_size=7, pool="2GB"), "pool=1000000000, this one"),
        ):
            with pytest.raises(StorageError, match=message):
                changed.load_state_dict(cursor)
            assert changed.state_dict()["token"] == 0
        for junk in (
            {},
            {**cursor, "token": "1"},
            {**cursor, "token": 10**6},
            {**cursor, "epoch": -1},
        ):
            with pytest.raises(StorageError, match="no cursor"):
                all_rows.load_state_dict(junk)
        other_order = stream(store, keys=store.keys("fake", ROWS[::-1]))
        with pytest.raises(StorageError, match="not of these tokens"):
            other_order.load_state_dict(with_keys)
        store.get(FakeSource(), prompts(5, seed=8), SITES)
        with pytest.raises(StorageError, match=r"has changed since.*; begin a new epoch"):
            store.stream("fake", SITE, batch_size=7).load_state_dict(cursor)
        # What is opened by keys does not mind what comes besides.
        stream(store).load_state_dict(with_keys)


def test_a_cursor_tells_stores_of_like_shape_apart(tmp_path: Path) -> None:
    cursors = []
    for name in ("one", "two"):
        rows = [[token + (name == "two") for token in row] for row in ROWS]
        with make_store(tmp_path / name, rows, shard_size="1MB") as store:
            data = store.stream("fake", SITE, batch_size=7)
            assert data.n_tokens == len(TOKENS)
            cursors.append(data.state_dict())
    with pytest.raises(StorageError, match="not of these tokens"):
        data.load_state_dict(cursors[0])


def test_the_order_follows_from_the_content(tmp_path: Path) -> None:
    """A copy, a store whose index was made anew, and one that was harvested again."""
    with make_store(tmp_path / "store") as store:
        data = store.stream("fake", SITE, batch_size=7, pool=9000, info=True)
        next(iter(data))
        cursor, whole = data.state_dict(), places(data)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    for path in (tmp_path / "copy").glob("index.sqlite*"):
        path.unlink()
    make_store(tmp_path / "again").close()
    for name in ("copy", "again"):
        with ActivationStore(tmp_path / name) as other:
            data = other.stream("fake", SITE, batch_size=7, pool=9000, info=True)
            data.load_state_dict(cursor)
            assert places(data) == whole


def test_an_index_that_was_made_anew_gives_the_same_order(tmp_path: Path) -> None:
    """Also of rows that stand in several shards, which it numbers otherwise then."""
    orders = []
    with make_store(tmp_path / "store") as store:
        for begin in range(0, 50, 3):
            put_shard(store, ROWS[begin : begin + 9], SITES[: 1 + begin % 3])
        keys = store.keys("fake", ROWS)
        for _ in range(2):
            options = {"batch_size": 1000, "info": True}
            whole = places(store.stream("fake", SITES, **options))
            chosen = places(store.stream("fake", SITE, keys=keys, **options))
            orders.append((whole, chosen))
            store.folder.catalogue.rebuild("it is to be numbered otherwise")
    assert orders[0] == orders[1]


def test_workers_give_the_same_batches(store: ActivationStore) -> None:
    whole = [places([batch]) for _ in range(2) for batch in stream(store)]
    for workers in (1, 2, 4):
        loader = stream(store).loader(workers, prefetch_factor=3)
        found = [batch for _ in range(2) for batch in loader]
        assert [places([batch]) for batch in found] == whole[: len(whole) // 2] + [
            places([batch]) for batch in _second_epoch(store)
        ]
        check_values(found[:9], ROWS, [SITE])
        assert loader.epoch == 2


def _second_epoch(store: ActivationStore) -> TokenStream:
    data = stream(store)
    data.set_epoch(1)
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_counts_what_was_received(store: ActivationStore, workers: int) -> None:
    whole = [places([batch]) for batch in stream(store)]
    loader = stream(store).loader(workers)
    for number, _ in enumerate(loader, 1):
        cursor = loader.state_dict()
        assert cursor["token"] == (7 * number if number < len(whole) else 0)
        if number == 5:
            break
    assert loader.state_dict() == cursor
    other = stream(store).loader(2 - workers)
    other.load_state_dict(cursor)
    assert [places([batch]) for batch in other] == whole[5:]
    # The first one goes on too; its workers had read further.
    assert [places([batch]) for batch in loader] == whole[5:]
    loader.load_state_dict(cursor)
    assert places([next(iter(loader))]) == whole[5]
    assert len(loader) == len(whole)


def test_a_cursor_that_is_loaded_outlasts_an_iteration_that_was_open(
    store: ActivationStore,
) -> None:
    whole = [places([batch]) for batch in stream(store)]
    loader = stream(store).loader(1)
    cursor = loader.state_dict()
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(cursor)
    iterator.close()
    assert loader.state_dict() == cursor
    assert [places([batch]) for batch in loader] == whole


def test_processes_that_are_spawned_read_too(store: ActivationStore) -> None:
    """From where the stream had come to; one, which takes seconds to import torch."""
    whole = [places([batch]) for batch in stream(store)]
    data = stream(store)
    next(iter(data))
    loader = data.loader(1, multiprocessing_context="spawn")
    assert [places([batch]) for batch in loader] == whole[1:]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_plain_dataloader_takes_a_stream(store: ActivationStore, persistent: bool) -> None:
    data = stream(store)
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=persistent)
    for epoch in (0, 3):
        data.set_epoch(epoch)
        other = stream(store)
        other.set_epoch(epoch)
        assert places(loader) == places(other)


def test_a_worker_reads_only_the_tokens_of_its_batches(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    take = ShardReader.take

    def counted(self: ShardReader, site: str, tokens: Any, out: Any) -> None:
        read.append(len(tokens) if site == SITE else 0)
        take(self, site, tokens, out)

    monkeypatch.setattr(ShardReader, "take", counted)
    for worker in range(3):
        here = SimpleNamespace(id=worker, num_workers=3)
        monkeypatch.setattr("cache.training.stream.get_worker_info", lambda here=here: here)
        read.clear()
        data = stream(store)
        found = list(data)
        assert sum(read) == sum(len(info.row) for _, info in found)
        assert len(found) == len(range(worker, len(data), 3))


def test_a_pool_stays_within_its_bytes(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    read = TokenReader.read

    def counted(self: TokenReader, tokens: Any, out: Block) -> None:
        read(self, tokens, out)
        parts = [*out.values.values(), *(out.info or ())]
        memory = {part.untyped_storage().data_ptr(): part.untyped_storage() for part in parts}
        held.append(sum(storage.nbytes() for storage in memory.values()) + tokens.nbytes)

    monkeypatch.setattr(TokenReader, "read", counted)
    assert len(places(stream(store, pool=5000))) == len(TOKENS)
    assert len(held) > 5
    assert max(held) <= 5000


def test_a_dataset_gives_single_tokens_and_many(store: ActivationStore) -> None:
    keys = store.keys("fake", ROWS)
    dataset = store.dataset("fake", SITE, keys=keys, info=True)
    assert len(dataset) == sum(map(len, ROWS))
    (all_at_once,) = stream(store, shuffle=False, batch_size=10_000)
    check_values([dataset[:]], ROWS, [SITE])
    singles = [dataset[number] for number in range(len(dataset))]
    for together in (
        dataset[:],
        default_collate(singles),
        default_collate(dataset.__getitems__(range(len(dataset)))),
    ):
        assert torch.equal(together[0], all_at_once[0])
        for found, wanted in zip(together[1], all_at_once[1], strict=True):
            assert torch.equal(found, wanted)
    for chosen in ([3, 1, 3, -1], torch.tensor([0, 200]), np.array([5]), slice(-9, None, 2)):
        plain = store.dataset("fake", SITES, keys=keys)[chosen]
        rows = (
            list(range(len(dataset)))[chosen]
            if isinstance(chosen, slice)
            else [int(c) for c in chosen]
        )
        assert torch.equal(plain[SITE], all_at_once[0][rows])
    assert torch.equal(dataset[-1][0], dataset[len(dataset) - 1][0])
    assert dataset[[]][0].shape == (0, 24)
    for beyond in (len(dataset), -len(dataset) - 1, [0, len(dataset)]):
        with pytest.raises(IndexError):
            dataset[beyond]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("info", [False, True])
@pytest.mark.parametrize("sites", [SITE, SITES])
def test_a_plain_dataloader_takes_a_dataset(
    store: ActivationStore, workers: int, info: bool, sites: Any
) -> None:
    dataset = store.dataset("fake", sites, info=info)
    loader = DataLoader(dataset, batch_size=50, num_workers=workers)
    for number, batch in enumerate(loader):
        wanted = dataset[50 * number : 50 * (number + 1)]
        torch.testing.assert_close(batch, wanted, rtol=0, atol=0)


def test_a_pinned_loader_gives_what_it_should(store: ActivationStore) -> None:
    loader = stream(store).loader(1, pin_memory=True)
    check_values(loader, ROWS, [SITE])
    if torch.cuda.is_available():
        values, info = next(iter(loader))
        assert values.is_pinned()
        assert info.row.is_pinned()
