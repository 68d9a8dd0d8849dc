"""What the store asks of a model. It knows nothing else about models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from cache.keys.space import Ids, SiteShape, Space

__all__ = ["ActivationSource", "HasActivations"]


class ActivationSource(Protocol):
    """Something that can compute activations, and name them."""

    def space(self, dtype: str | None = None) -> Space:
        """What its activations are of, when stored as `dtype` (its own if left out)."""

    def rows(self, tokens: Any) -> Sequence[Ids]:
        """Prompts (texts, token ids, …) as rows of token ids."""

    def sites(self, sites: Any) -> Sequence[SiteShape]:
        """The sites that a user's wording names, with the shape of each."""

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Run the rows in order, some at a time.

        Yields:
            (how many rows, {site: [token, *width]}): the tokens of these rows, one row after the
            other, without padding.
        """


class HasActivations(Protocol):
    """A model that knows how to compute its activations."""

    def activation_source(self) -> ActivationSource: ...


def total_tokens(rows: Iterable[Ids]) -> int:
    return sum(len(ids) for ids in rows)
