"""Which tokens a data set has: rows, positions and sites that were chosen, each row once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache import ActivationStore
from cache.errors import StorageError
from cache.keys.space import SiteShape
from cache.training.block import TokenInfo
from cache.training.plan import Positions, read_sidecar
from tests.cache.fake import FakeSource, expected, prompts
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

Token = tuple[tuple[int, ...], int]
"""The token ids of a row, and a position."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make_store(tmp_path_factory.mktemp("choice") / "store")


def contents(
    store: ActivationStore, sites: Any, **options: Any
) -> list[tuple[tuple[int, ...], int]]:
    """(token ids of the row, position) of every token of a data set, whose values are checked."""
    dataset = store.dataset("fake", sites, info=True, **options)
    rows = {row.number: row.ids.tolist() for row in dataset.rows()}
    names = [sites] if isinstance(sites, str) else sites
    check_values([dataset[:]], rows, names)  # type: ignore[arg-type]
    shuffled = store.stream("fake", sites, batch_size=10, pool=9000, info=True, **options)
    assert sorted(places(shuffled)) == sorted(places([dataset[:]]))
    assert len(dataset) == shuffled.n_tokens
    return sorted((tuple(rows[row]), position) for row, position in places([dataset[:]]))


def tokens_of(rows: Sequence[list[int]]) -> list[Token]:
    return sorted((tuple(row), position) for row in rows for position in range(len(row)))


SLICES = [
    slice(None), slice(1, None), slice(2, None), slice(None, 3), slice(-2, None), slice(1, -1),
    slice(None, None, 2), slice(5, 2), slice(-100, 100, 3), 0, -1, 3, -2,
]  # fmt: skip


@pytest.mark.parametrize("chosen", SLICES)
@pytest.mark.parametrize("some", [False, True])
def test_positions_are_those_of_a_python_slice(
    store: ActivationStore, chosen: int | slice, some: bool
) -> None:
    numbers = range(0, 50, 3) if some else range(50)
    wanted = []
    for row in numbers:
        all_of_row = list(range(len(ROWS[row])))
        if isinstance(chosen, slice):
            wanted += [(row, p) for p in all_of_row[chosen]]
        elif -len(all_of_row) <= chosen < len(all_of_row):
            wanted.append((row, all_of_row[chosen]))
    rows = [ROWS[number] for number in numbers]
    keys = store.keys("fake", rows)
    if not wanted:
        with pytest.raises(StorageError, match="No tokens"):
            store.dataset("fake", SITE, keys=keys, positions=chosen)
        return
    dataset = store.dataset("fake", SITE, keys=keys, positions=chosen, info=True)
    found = places([dataset[:]])
    assert sorted((numbers[row], position) for row, position in found) == wanted
    assert len(dataset) == len(wanted)
    check_values([dataset[:]], rows, [SITE])
    for number in (0, -1):
        value, info = dataset[number]
        check_values(
            [(value[None], TokenInfo(*(torch.tensor([part]) for part in info)))], rows, [SITE]
        )


@pytest.mark.parametrize("chosen", SLICES)
def test_counts_that_need_no_lengths_are_right(chosen: int | slice) -> None:
    lengths = np.random.default_rng(0).integers(1, 12, 200)
    positions = Positions.of(chosen)
    counted = sum(
        len(range(length)[chosen]) if isinstance(chosen, slice) else -length <= chosen < length
        for length in lengths.tolist()
    )
    assert positions.ranges(lengths)[1].sum() == counted
    total = positions.total(np.array([lengths.sum()]), np.array([200]))
    assert total is None or total.tolist() == [counted]


def test_backward_positions_are_refused(store: ActivationStore) -> None:
    with pytest.raises(StorageError, match="steps of -1; give a slice that goes forwards"):
        store.dataset("fake", SITE, positions=slice(None, None, -1))


def test_opening_reads_no_more_sidecars_than_it_must(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(root: Path, shard: str) -> Any:
        read.append(shard)
        return read_sidecar(root, shard)

    monkeypatch.setattr("cache.training.plan.read_sidecar", counted)
    store.stream("fake", SITE, batch_size=10, positions=slice(1, None))
    assert len(read) == 1
    store.stream("fake", SITE, batch_size=10, keys=store.keys("fake", ROWS[:1]))
    assert len(set(read)) <= 2


def test_rows_are_chosen_by_keys_and_numbered_in_their_order(store: ActivationStore) -> None:
    rows = [ROWS[7], ROWS[40], ROWS[7], ROWS[3]]
    keys = store.keys(FakeSource(), rows)
    found = places(store.stream("fake", SITE, batch_size=5, keys=keys, info=True))
    assert sorted(found) == [(n, p) for n in (0, 1, 3) for p in range(len(rows[n]))]
    assert contents(store, SITES, keys=keys) == tokens_of([ROWS[7], ROWS[40], ROWS[3]])
    # On the disk they stand as before.
    in_order = [row.key for row in store.dataset("fake", SITE).rows()]
    keys = store.keys("fake", ROWS[::2])
    chosen = [row.key for row in store.dataset("fake", SITE, keys=keys).rows()]
    assert chosen == [key for key in in_order if key in set(keys)]


def test_rows_that_are_not_stored_are_not_left_out_silently(store: ActivationStore) -> None:
    keys = store.keys("fake", [*ROWS[:3], *prompts(2, seed=9)])
    with pytest.raises(StorageError, match=f"lacks 2 of 5 rows at {SITE}; harvest them"):
        store.dataset("fake", SITE, keys=keys)
    with pytest.raises(StorageError, match="No tokens"):
        store.dataset("fake", SITE, keys=[])


def test_rows_are_chosen_by_a_predicate(store: ActivationStore) -> None:
    asked: list[tuple[int, ...]] = []

    def even(row: Any) -> bool:
        asked.append(tuple(row.ids.tolist()))
        assert store.keys("fake", [row.ids])[0] == row.key
        return row.ids[0] % 2 == 0

    assert contents(store, SITE, where=even) == tokens_of([r for r in ROWS if r[0] % 2 == 0])
    assert sorted(asked[: len(ROWS)]) == sorted(map(tuple, ROWS))
    keys = store.keys("fake", ROWS[10:20])
    kept = store.dataset("fake", SITE, keys=keys, where=lambda row: row.number >= 5, info=True)
    assert sorted(places([kept[:]])) == [
        (number, p) for number in range(5, 10) for p in range(len(ROWS[10 + number]))
    ]
    with pytest.raises(StorageError, match="No tokens"):
        store.dataset("fake", SITE, where=lambda row: False)


def test_a_split_by_keys_keeps_prompts_apart_and_numbers(store: ActivationStore) -> None:
    parts = [
        store.dataset("fake", SITE, where=part, info=True)
        for part in (lambda row: row.key[0] < 128, lambda row: row.key[0] >= 128)
    ]
    whole = store.dataset("fake", SITE, info=True)
    found = [places([part[:]]) for part in parts]
    assert sorted(found[0] + found[1]) == sorted(places([whole[:]]))
    assert min(map(len, found)) > 0
    assert not {row for row, _ in found[0]} & {row for row, _ in found[1]}


def test_a_row_of_several_shards_counts_once(tmp_path: Path) -> None:
    with make_store(tmp_path / "store") as store:
        put_shard(store, [*ROWS[5:30], *prompts(3, seed=4)], SITES)
        put_shard(store, ROWS[::7], SITES)
        put_shard(store, ROWS[::7], SITES)
        rows = [*ROWS, *prompts(3, seed=4)]
        assert contents(store, SITE) == tokens_of(rows)
        assert contents(store, SITES, positions=slice(1, None)) == [
            token for token in tokens_of(rows) if token[1] > 0
        ]
        keys = store.keys("fake", ROWS)
        found = places(store.stream("fake", SITE, batch_size=9, keys=keys, info=True))
        assert sorted(found) == TOKENS


def test_sites_that_stand_in_different_shards_come_together(tmp_path: Path) -> None:
    extra = prompts(4, seed=5)
    with ActivationStore(tmp_path / "store", shard_size=4000) as store:
        store.get(FakeSource(), ROWS, SITE)
        store.get(FakeSource(), [*ROWS[20:][::-1], *extra], "z.0")
        put_shard(store, ROWS[45:], [SITE, "z.0"])
        put_shard(store, [*ROWS[10:25:2], ROWS[46]], ["z.0"])
        both = ROWS[10:20:2] + ROWS[20:]
        assert contents(store, [SITE, "z.0"]) == tokens_of(both)
        assert contents(store, SITE) == tokens_of(ROWS)
        assert contents(store, "z.0", positions=-1) == sorted(
            (tuple(row), len(row) - 1) for row in [*both, *extra]
        )
        keys = store.keys("fake", both[::-3])
        assert contents(store, ["z.0", SITE], keys=keys) == tokens_of(both[::-3])
        with pytest.raises(StorageError, match=r"lacks 15 of 50 rows at z\.0"):
            store.dataset("fake", "z.0", keys=store.keys("fake", ROWS))


def test_one_site_is_a_tensor_and_a_family_is_not(store: ActivationStore) -> None:
    assert store.dataset("fake", "z.0")[0].shape == (3, 4)
    assert store.dataset("fake", "z.0")[:].shape == (len(TOKENS), 3, 4)
    assert list(store.dataset("fake", "resid_post")[0]) == ["resid_post.0", "resid_post.1"]
    assert list(store.dataset("fake", ["z", SITE])[[0]]) == ["resid_post.1", "z.0"]
    with pytest.raises(StorageError, match=r"not at 'resid_mid.3'; choose among these"):
        store.dataset("fake", ["z.0", "resid_mid.3"])
    with pytest.raises(StorageError, match="not at ''"):
        store.dataset("fake", [])


def test_what_activations_are_of_must_be_clear(tmp_path: Path) -> None:
    source = FakeSource()
    with ActivationStore(tmp_path / "store") as store:
        with pytest.raises(
            StorageError, match=r"no activations of 'fake' \(it holds nothing yet\)"
        ):
            store.dataset("fake", SITE)
        store.get(source, ROWS[:5], SITE, dtype="bfloat16")
        assert store.dataset(source, SITE)[0].dtype == torch.bfloat16
        with pytest.raises(StorageError, match=r"no activations of 'other' \(it holds fake\)"):
            store.dataset("other", SITE)
        with pytest.raises(StorageError, match="no activations of"):
            store.dataset(FakeSource(model="b" * 32), SITE)
        store.get(source, ROWS[:3], SITE)
        for model in (source, "fake"):
            with pytest.raises(StorageError, match=r"several ways \(.*\); give one of the store's"):
                store.dataset(model, SITE)
        with pytest.raises(StorageError, match="several ways"):
            store.keys("fake", ROWS)
        for space in store.spaces():
            wanted = {"float32": ROWS[:3], "bfloat16": ROWS[:5]}[space.dtype]
            assert len(store.dataset(space, SITE)) == sum(map(len, wanted))
        store.remove(source.space())
        assert len(store.dataset("fake", SITE)) == sum(map(len, ROWS[:5]))


def test_what_is_streamed_counts_as_used(tmp_path: Path) -> None:
    parts = [prompts(10, seed=seed, shortest=8, longest=8) for seed in range(4)]
    with ActivationStore(tmp_path / "store") as store:
        for part in parts[:3]:
            store.get(FakeSource(), part, SITES)
        three = store.size()
    # Sidecars are not all of one size, to the byte.
    with ActivationStore(tmp_path / "store", budget=three + 100) as store:
        keys = store.keys("fake", parts[0])
        data = store.stream("fake", SITE, batch_size=5, keys=keys)
        next(iter(data.loader(1)))
        store.get(FakeSource(), parts[3], SITES)
        assert [store.missing(FakeSource(), part, SITES) for part in parts] == [0, 10, 0, 0]


def test_a_wide_site_is_checked_whole(tmp_path: Path) -> None:
    """Vectors of more than two MiB, one of which has a damaged byte in its middle."""
    shape = SiteShape("wide.0", (3 << 18,))
    source = FakeSource()
    ids = source.rows(ROWS[:1])
    with ActivationStore(tmp_path / "store") as store:
        with store.folder.writer(source.space(), [shape], ids) as writer:
            writer.append({"wide.0": expected(source.model, ids[0], shape)})
            store.folder.catalogue.enter(sidecar := writer.commit())
        (path,) = (tmp_path / "store" / "shards").glob("*/*.safetensors")
        field = sidecar.layout.fields["wide.0"]
        with open(path, "r+b") as file:
            file.seek(field.begin + (3 << 20) + (3 << 19))
            file.write(b"\xff")
        dataset = store.dataset("fake", "wide.0")
        assert torch.equal(dataset[2], expected(source.model, ids[0], shape)[2])
        for chosen in (1, [1], [1, 2]):
            with pytest.raises(StorageError, match="is damaged"):
                store.dataset("fake", "wide.0")[chosen]
