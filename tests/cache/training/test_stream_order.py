"""The order of tokens: each once, shuffled well, the same everywhere, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cache.training.order import SEGMENTS, Order, permutation

TOKENS = np.array([1000, 1, 37, 4000, 500, 512, 2, 900])


def all_tokens(order: Order, epoch: int) -> list[int]:
    found = order.epoch(epoch)
    return [int(t) for pool in range(len(found.bounds) - 1) for t in found.tokens(pool)]


@pytest.mark.slow
@pytest.mark.parametrize("pool", [1, 2, 100, 1000, 3000, 10**6])
@pytest.mark.parametrize("seed", [None, 0, -3, 2**70])
def test_an_epoch_has_every_token_once(pool: int, seed: int | None) -> None:
    order = Order(TOKENS, pool, seed)
    given = all_tokens(order, 0)
    assert sorted(given) == list(range(TOKENS.sum()))
    assert (given == sorted(given)) == (seed is None)
    epoch = order.epoch(0)
    sizes = np.diff(epoch.bounds)
    assert [len(epoch.tokens(p)) for p in range(len(sizes))] == sizes.tolist()
    assert sizes.max() <= pool


def test_epochs_and_seeds_differ_and_come_again() -> None:
    orders = [all_tokens(Order(TOKENS, 1000, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all_tokens(Order(TOKENS, 1000, 1), 1) == orders[3]


def test_the_order_is_the_same_on_every_machine() -> None:
    """Numbers that were written down once: another NumPy must not change them."""
    assert permutation(12, "tokens", 0, 0, 0).tolist() == [1, 3, 8, 10, 0, 11, 6, 2, 5, 4, 7, 9]
    assert all_tokens(Order(TOKENS, 1000, 7), 3)[:6] == [751, 2697, 4685, 1873, 1491, 1858]


@pytest.mark.slow
def test_a_permutation_is_uniform() -> None:
    """Each element at each place equally often, and each of the 120 orders of five elements."""
    drawn = np.array([permutation(5, "test", seed) for seed in range(6000)])
    for place in drawn.T:
        assert stats.chisquare(np.bincount(place, minlength=5)).pvalue > 1e-4
    orders = np.unique(drawn @ [625, 125, 25, 5, 1], return_counts=True)[1]
    assert len(orders) == 120
    assert stats.chisquare(orders).pvalue > 1e-4


def test_a_store_that_fits_into_a_pool_is_shuffled_uniformly() -> None:
    """Where a token comes does not depend on where it stands, nor do neighbours stay together."""
    n = int(TOKENS.sum())
    given = np.array(all_tokens(Order(TOKENS, n * SEGMENTS, 5), 0))
    place = np.argsort(given)
    table = np.histogram2d(np.arange(n), place, bins=8)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert abs(np.corrcoef(place[1:], place[:-1])[0, 1]) < 4 / np.sqrt(n)


def test_segments_are_drawn_from_the_whole_store() -> None:
    """In which of the pools a token comes is independent of where it stands, over epochs."""
    order = Order(np.full(40, 1000), 4096, 11)
    of_token = np.empty((50, 40_000), dtype=np.int64)
    for epoch in range(50):
        found = order.epoch(epoch)
        for pool in range(len(found.bounds) - 1):
            of_token[epoch, found.tokens(pool)] = pool
    assert of_token.max() >= 9
    # One token of each shard: their segments are drawn independently.
    table = np.array(
        [np.bincount(of_token[:, t], minlength=10)[:9] for t in range(5, 40_000, 1000)]
    )
    assert stats.chi2_contingency(table).pvalue > 1e-3
    # Two tokens of different shards are not together more often than chance has it.
    together = np.mean(of_token[:, 5] == of_token[:, 20_005])
    assert abs(together - 0.1) < 0.15


def test_a_pool_mixes_many_places_of_the_store() -> None:
    """As many segments as promised, and within a pool no trace of them."""
    order = Order(np.full(10, 100_000), 128 * 100, 3)
    epoch = order.epoch(0)
    tokens = epoch.tokens(4)
    segments = tokens // 100
    assert len(set(segments.tolist())) >= SEGMENTS - 2
    half = len(tokens) // 2
    first = np.isin(np.unique(segments), segments[:half])
    assert first.all()
    shards = np.bincount(tokens[:half] // 100_000, minlength=10)
    in_all = np.bincount(tokens // 100_000, minlength=10)
    assert stats.chisquare(shards, in_all * shards.sum() / in_all.sum()).pvalue > 1e-3
