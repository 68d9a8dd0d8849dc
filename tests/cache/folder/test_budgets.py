"""Whatever the budget and the shards that exist: right numbers or one sentence, and an end."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache import ActivationStore
from cache.errors import StorageError
from cache.folder.fill import needed
from cache.index.queries import Index
from cache.keys.space import Ids, SiteShape
from cache.reads import Reads
from tests.cache.children import SITES, check_values, quiet
from tests.cache.fake import FakeSource, expected, prompts

pytestmark = pytest.mark.usefixtures("ends")


class ManySites(FakeSource):
    """A source with 60 narrow sites."""

    def sites(self, sites: Any) -> Sequence[SiteShape]:
        return [SiteShape(f"z.{layer}", (2,)) for layer in range(60)]


def price(
    source: FakeSource, rows: list[list[int]], sites: Sequence[str], size: int = 1 << 28
) -> int:
    """What rows take in a store that has nothing else."""
    space, shapes, ids = source.space(), source.sites(sites), source.rows(rows)
    keys = space.keys(ids)
    absent = dict.fromkeys(keys, tuple(shape.name for shape in shapes))
    return needed(space, shapes, dict(zip(keys, ids, strict=True)), absent, size)


def check(store: ActivationStore, source: FakeSource, rows: list[list[int]], sites: Any) -> None:
    found = store.rows(source, rows, sites)
    for site in source.sites(sites):
        for ids, values in zip(source.rows(rows), found[site.name], strict=True):
            assert torch.equal(values, expected(source.model, ids, site))


@pytest.mark.slow
def test_rows_that_fit_as_one_shard_and_not_as_those_that_exist(in_memory: Path) -> None:
    """Computing the second half must not evict the first, and so on for ever."""
    source = ManySites()
    rows = prompts(40, seed=5, longest=5)
    as_one = price(source, rows, [])
    as_two = price(source, rows[:20], []) + price(source, rows[20:], [])
    assert as_one < as_two
    with ActivationStore(in_memory / "store", budget=(as_one + as_two) // 2) as store:
        check(store, source, rows[:20], [])
        check(store, source, rows, [])
        assert source.runs == 20 + 40
        check(store, source, rows, [])
        assert source.runs == 20 + 40
        assert store.size() <= (as_one + as_two) // 2


@pytest.mark.slow
def test_rows_that_were_stored_one_by_one_are_put_together(in_memory: Path) -> None:
    source = ManySites()
    rows = prompts(12, seed=6)
    budget = price(source, rows, [])
    with ActivationStore(in_memory / "store", budget=budget) as store:
        for row in rows:
            check(store, source, [row], [])
            assert store.size() <= budget
        check(store, source, rows, [])
        assert len(store.folder.catalogue.ask(Index.shards)) == 1
        runs = source.runs
        check(store, source, rows, [])
        assert source.runs == runs
        # What does not fit is said before anything is lost.
        with pytest.raises(StorageError, match="but the store's budget is"):
            check(store, source, [*rows, [1, 2, 3] * 20], [])
        check(store, source, rows, [])
        assert source.runs == runs


@pytest.mark.slow
def test_the_price_of_what_is_computed_is_not_less_than_what_it_takes(in_memory: Path) -> None:
    draw = random.Random(1)
    for number in range(6):
        source = ManySites() if number % 2 else FakeSource()
        rows = prompts(draw.randint(1, 30), seed=number)
        size = draw.choice([2000, 20_000, 1 << 28])
        with ActivationStore(in_memory / str(number), shard_size=size) as store:
            store.get(source, rows, SITES)
            priced = price(source, rows, SITES, size)
            assert store.size() <= priced <= 1.01 * store.size()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_alone_every_read_that_can_fit_is_right(in_memory: Path, seed: int) -> None:
    draw = random.Random(seed)
    pool = prompts(24, seed=seed, longest=30)
    size = draw.choice([3000, 30_000, 1 << 28])
    whole = price(FakeSource(), pool, SITES, size)
    budget = int(whole * draw.uniform(0.15, 1.2))
    with ActivationStore(in_memory / "store", budget=budget, shard_size=size) as store, quiet():
        for _ in range(40):
            rows = draw.sample(pool, draw.choice([1, 1, 1, 2, 5, 12, 24]))
            sites = draw.sample(SITES, draw.randint(1, len(SITES)))
            source = FakeSource()
            if price(source, rows, sites, size) > budget:
                with pytest.raises(StorageError, match="but the store's budget is"):
                    check(store, source, rows, sites)
                assert source.runs == 0
                continue
            check(store, source, rows, sites)
            # Once for each set of sites that rows lacked.
            assert source.runs <= len(sites) * len(rows)
            assert store.size() <= budget


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_readers_that_evict_each_other_end(in_memory: Path, seed: int) -> None:
    """Each with a store of its own on one folder, as processes have."""
    draw = random.Random(seed)
    pool = prompts(16, seed=seed, longest=20)
    budget = int(price(FakeSource(), pool, SITES) * draw.uniform(0.4, 0.9))
    failures: list[BaseException] = []
    refused = []

    def read(number: int) -> None:
        mine = random.Random(f"{seed} {number}")
        try:
            with ActivationStore(in_memory / "store", budget=budget) as store:
                for _ in range(12):
                    rows = mine.sample(pool, mine.choice([1, 2, 6, 10]))
                    source = FakeSource()
                    try:
                        check(store, source, rows, mine.sample(SITES, 2))
                    except StorageError as error:
                        refused.append(str(error))
                    assert source.runs <= 10 * len(rows)
        except BaseException as error:
            failures.append(error)

    with quiet():
        threads = [threading.Thread(target=read, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert all("budget" in text and text.count(". ") == 0 for text in refused), refused


def test_rows_that_are_evicted_whenever_they_are_computed(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else always needs the room."""
    source = FakeSource()
    with ActivationStore(in_memory / "store") as store:
        real = Reads.compute

        def compute(self: Reads, *args: Any) -> set[str]:
            made = real(self, *args)
            store.folder.remove(made)
            return made

        monkeypatch.setattr(Reads, "compute", compute)
        with pytest.raises(StorageError, match="is too small for what is used at once: rows are"):
            store.get(source, prompts(4), SITES)
    assert source.runs == 5 * 4


def test_a_disk_that_does_not_keep_what_is_written(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FakeSource()
    with ActivationStore(in_memory / "store") as store:
        real = Reads.compute

        def compute(self: Reads, *args: Any) -> set[str]:
            made = real(self, *args)
            for path in store.path.glob("shards/*/*.safetensors"):
                path.write_bytes(bytes(path.stat().st_size))
            return made

        monkeypatch.setattr(Reads, "compute", compute)
        with quiet(), pytest.raises(StorageError, match="does not give back what was just written"):
            store.get(source, prompts(4), SITES)
    assert source.runs == 5 * 4


@pytest.mark.slow
def test_many_damaged_shards_are_all_computed_again(in_memory: Path) -> None:
    rows = prompts(12, seed=2)
    with ActivationStore(in_memory / "store") as store:
        for row in rows:
            store.get(FakeSource(), [row], SITES)
    for path in in_memory.glob("store/shards/*/*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    source = FakeSource()
    with quiet(), ActivationStore(in_memory / "store") as store:
        check_values(store, rows, source, SITES)
    assert source.runs == 12


class Slow(FakeSource):
    """Another process computes the same rows meanwhile."""

    def __init__(self, other: ActivationStore) -> None:
        super().__init__()
        self._other = other

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for number, values in super().activations(rows, sites):
            self._other.get(FakeSource(), [[5, 6, np.int32(number)]], "z.0")
            yield number, values


def test_what_others_store_meanwhile_does_not_evict_what_is_wanted(in_memory: Path) -> None:
    rows = prompts(8, seed=9)
    one = price(FakeSource(), rows, SITES)
    with (
        ActivationStore(in_memory / "store", budget=int(1.5 * one)) as store,
        ActivationStore(in_memory / "store", budget=int(1.5 * one)) as other,
    ):
        for row in rows[:4]:
            store.get(FakeSource(), [row], "resid_post.0")
        check_values(store, rows, Slow(other), SITES)
