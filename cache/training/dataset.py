"""Stored tokens by number: what PyTorch calls a map-style dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cache.training.block import Block, TokenInfo
from cache.training.plan import Plan, Row
from cache.training.tokens import TokenReader

__all__ = ["Form", "TokenDataset"]


@dataclass(frozen=True)
class Form:
    """What tokens are given as.

    Attributes:
        site: the one site whose tensor is given alone; None for {site: tensor}.
        dtype: what activations are cast to; None to leave them as they are stored.
        info: whether each comes with its `TokenInfo`.
    """

    site: str | None
    dtype: torch.dtype | None
    info: bool

    def __call__(self, block: Block) -> Any:
        cast = {site: value.to(self.dtype or value.dtype) for site, value in block.values.items()}
        given = cast if self.site is None else cast[self.site]
        return given if block.info is None else (given, block.info)


class TokenDataset(Dataset[Any]):
    """The tokens of a store, numbered shard by shard, row by row, position by position.

    `dataset[i]` is one token's activation [*width] (with several sites {site: [*width]}),
    `dataset[[i, j, …]]` or a slice gives several at once [token, *width]; with `info=True` they
    come with their `TokenInfo`. A `torch.utils.data.DataLoader` takes it as it is; with
    `batch_size=None` and a `BatchSampler` as its `sampler` it reads a batch at once, which is
    quickest. To go through all tokens in random order a `TokenStream` is much quicker, since it
    reads the disk in long pieces.
    """

    def __init__(self, plan: Plan, form: Form) -> None:
        self.plan, self.form = plan, form
        self._reader = TokenReader(plan, info=form.info)

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay in the process that opened them.
        return {"plan": self.plan, "form": self.form}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return self.plan.n_tokens

    def __getitem__(self, chosen: int | slice | Sequence[int] | np.ndarray | Tensor) -> Any:
        """One token, or several.

        Raises:
            IndexError: there are fewer tokens.
            DamageError: what they stand in is damaged.
            GoneError: it was evicted meanwhile.
        """
        if isinstance(chosen, int | np.integer):
            number = int(chosen)
            if not -len(self) <= number < len(self):
                raise IndexError(f"token {number} of {len(self)}")
            return self.form(self._reader.read_one(number % len(self)))
        if isinstance(chosen, slice):
            chosen = np.arange(*chosen.indices(len(self)))
        numbers = np.asarray(chosen, dtype=np.int64)
        if len(numbers) and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"tokens {numbers.min()} to {numbers.max()} of {len(self)}")
        distinct, place = np.unique(numbers % len(self), return_inverse=True)
        read, out = self._reader.empty(len(distinct)), self._reader.empty(len(numbers))
        self._reader.read(distinct, read)
        read.gather(place, out)
        return self.form(out)

    def __getitems__(self, chosen: Sequence[int]) -> list[Any]:
        """Tokens as a list: what a DataLoader asks for, which puts them together again."""
        found, info = self[chosen] if self.form.info else (self[chosen], None)
        given: list[Any]
        if self.form.site is not None:
            given = list(found.unbind())
        else:
            by_site = zip(*(values.unbind() for values in found.values()), strict=True)
            given = [dict(zip(found, values, strict=True)) for values in by_site]
        if info is None:
            return given
        where = zip(*(numbers.tolist() for numbers in info), strict=True)
        return [(one, TokenInfo(*of_one)) for one, of_one in zip(given, where, strict=True)]

    def rows(self) -> Iterator[Row]:
        """The rows of these tokens in their order, for labels and for splits by prompt."""
        return self._reader.rows()
