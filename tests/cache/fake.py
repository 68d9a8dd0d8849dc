"""A source of activations that needs no model: numbers that follow from the token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.keys.space import Ids, SiteShape, Space

WIDTHS = {"resid_post.0": (24,), "resid_post.1": (24,), "z.0": (3, 4)}


class FakeSource:
    """Activations that any process computes alike; `runs` counts the rows that were asked for."""

    def __init__(
        self, *, model: str = "a" * 32, dtype: str = "float32", batch: int = 3, policy: str = "bos"
    ) -> None:
        self.model, self.dtype, self.batch, self.policy = model, dtype, batch, policy
        self.runs = 0

    def space(self, dtype: str | None = None) -> Space:
        return Space(self.model, dtype or self.dtype, "tokenizer", self.policy, "fake")

    def rows(self, tokens: Any) -> Sequence[Ids]:
        return [np.asarray(row, dtype=np.int32) for row in tokens]

    def sites(self, sites: Any) -> Sequence[SiteShape]:
        names = [sites] if isinstance(sites, str) else list(sites)
        return [
            SiteShape(site, width)
            for name in names
            for site, width in WIDTHS.items()
            if site == name or site.startswith(f"{name}.")
        ]

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            self.runs += len(part)
            yield (
                len(part),
                {
                    site.name: torch.cat([expected(self.model, ids, site) for ids in part])
                    for site in sites
                },
            )


def expected(model: str, ids: Ids, site: SiteShape) -> Tensor:
    """What stands at `site` for each token of a row [token, *width], in float32."""
    seed = int.from_bytes(f"{model}{site.name}".encode(), "big") % (1 << 31)
    token = torch.arange(1, len(ids) + 1)[:, None] * 31 + torch.tensor(ids.tolist())[:, None] * 7
    number = torch.arange(site.numbers)[None, :]
    return torch.sin((token * (number + 1) + seed).double()).float().reshape(-1, *site.width)


def prompts(n: int, *, seed: int = 0, longest: int = 9, shortest: int = 2) -> list[list[int]]:
    """Rows of token ids, ragged unless `longest` equals `shortest`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, n)
    return [rng.integers(0, 1000, length).tolist() for length in lengths]
