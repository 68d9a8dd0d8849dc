"""Stores of fake activations to read from, and what must come out, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache import ActivationStore
from tests.cache.fake import WIDTHS, FakeSource, expected, prompts

SITES = list(WIDTHS)
SITE = "resid_post.1"
ROWS = prompts(50)
TOKENS = [(row, position) for row, ids in enumerate(ROWS) for position in range(len(ids))]


def make_store(path: Path, rows: list[list[int]] = ROWS, **options: Any) -> ActivationStore:
    """A store of many small shards that hold `rows` at all sites."""
    store = ActivationStore(path, **{"shard_size": 4000, **options})
    store.get(FakeSource(), rows, SITES)
    return store


def right(row: list[int], position: int, site: str) -> Tensor:
    """What stands at a position, worked out without the store."""
    source = FakeSource()
    (shape,) = source.sites(site)
    return expected(source.model, source.rows([row])[0], shape)[position]


def places(batches: Iterable[Any]) -> list[tuple[int, int]]:
    """(row, position) of all tokens of batches with info, in their order."""
    return [
        place
        for _, info in batches
        for place in zip(info.row.tolist(), info.position.tolist(), strict=True)
    ]


def check_values(batches: Iterable[Any], rows: list[list[int]], sites: list[str]) -> None:
    """That every value and token id is the one of its row and position."""
    for values, info in batches:
        for number, (row, position) in enumerate(
            zip(info.row.tolist(), info.position.tolist(), strict=True)
        ):
            assert info.token[number] == rows[row][position]
            for site in sites:
                value = values if isinstance(values, Tensor) else values[site]
                assert torch.equal(value[number], right(rows[row], position, site))


def put_shard(store: ActivationStore, rows: Sequence[list[int]], sites: Sequence[str]) -> None:
    """Commit one shard of these rows at these sites, whatever the store has already."""
    source = FakeSource()
    ids, shapes = source.rows(rows), [s for s in source.sites(SITES) if s.name in sites]
    with store.folder.writer(source.space(), shapes, ids) as writer:
        for _, values in source.activations(ids, shapes):
            writer.append(values)
        store.folder.catalogue.enter(writer.commit())
