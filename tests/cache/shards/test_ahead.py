"""The disk is told which blocks are read next, of those that are not in memory yet."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from cache import ActivationStore
from cache.keys.space import SiteShape
from cache.shards import reader
from cache.shards.layout import BLOCK
from cache.shards.reader import ShardReader
from tests.cache.fake import FakeSource, expected

ROWS = [[token] for token in range(20)]


class Wide(FakeSource):
    """One token is a MiB."""

    def sites(self, sites: object) -> list[SiteShape]:
        return [SiteShape("a", (1 << 18,))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with ActivationStore(tmp_path / "store") as store:
        store.rows(Wide(), ROWS, "a")
    time.sleep(0.06)  # what is younger than a tick of the file system's clock is read twice
    return tmp_path / "store"


def read_all(path: Path) -> None:
    source = Wide()
    with ActivationStore(path) as store:
        for ids, found in zip(source.rows(ROWS), store.rows(source, ROWS, "a")["a"], strict=True):
            assert torch.equal(found, expected(source.model, ids, source.sites("a")[0]))
    assert source.runs == 0


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """("told", block) and ("loaded", block), where nothing is in memory."""
    events: list[tuple[str, int]] = []

    def absent(*_: object) -> int:
        raise BlockingIOError

    def told(_: int, begin: int, size: int, advice: int) -> None:
        assert (size, advice) == (BLOCK, os.POSIX_FADV_WILLNEED)
        events.append(("told", begin // BLOCK))

    load = ShardReader.load_block

    def loaded(self: ShardReader, block: int) -> None:
        events.append(("loaded", block))
        load(self, block)

    monkeypatch.setattr(os, "preadv", absent)
    monkeypatch.setattr(os, "posix_fadvise", told)
    monkeypatch.setattr(ShardReader, "load_block", loaded)
    return events


@pytest.mark.slow
def test_some_blocks_ahead_are_told_each_once(path: Path, events: list[tuple[str, int]]) -> None:
    read_all(path)
    told = [block for what, block in events if what == "told"]
    loaded = [block for what, block in events if what == "loaded"]
    assert told == loaded
    assert len(set(told)) == len(told) >= len(ROWS)
    for at, (what, block) in enumerate(events):
        if what == "loaded":
            before = [b for w, b in events[:at] if w == "told"]
            ahead = len(before) - 1 - before.index(block)
            assert ahead == min(reader.AHEAD, len(told) - 1 - told.index(block))


def test_a_single_vector_is_no_reason_to_read_more(
    path: Path, events: list[tuple[str, int]]
) -> None:
    with ActivationStore(path) as store:
        dataset = store.dataset(Wide(), "a")
        events.clear()
        dataset[7]
    told = [block for what, block in events if what == "told"]
    assert 1 <= len(told) <= 2
    assert max(told) - min(told) == len(told) - 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in memory", "refused", "unknown", "no such call"])
def test_nobody_need_listen(path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def refused(*_: object) -> None:
        raise BlockingIOError if how == "refused" else OSError(95, "not supported")

    def never(*_: object) -> None:
        raise AssertionError("advice about what is in memory costs more than it saves")

    if how == "in memory":
        monkeypatch.setattr(os, "posix_fadvise", never)
    elif how == "no such call":
        monkeypatch.delattr(os, "preadv")
    else:
        monkeypatch.setattr(os, "preadv", refused)
        monkeypatch.setattr(os, "posix_fadvise", refused)
    read_all(path)
