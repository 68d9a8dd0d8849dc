"""What the store asks of a model, and is asked itself. It knows nothing else of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from cache.errors import StorageError
from cache.keys.space import Ids, SiteShape, Space

__all__ = ["ActivationSource", "HasActivations", "Request", "source_of"]


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


def source_of(model: HasActivations | ActivationSource) -> ActivationSource:
    """What computes the activations of a model, which may be that itself."""
    return model.activation_source() if hasattr(model, "activation_source") else model


class Request(NamedTuple):
    """Rows at sites, in the store's terms."""

    source: ActivationSource
    space: Space
    rows: Sequence[Ids]
    sites: Sequence[SiteShape]

    @classmethod
    def of(
        cls, model: HasActivations | ActivationSource, tokens: Any, sites: Any, dtype: str | None
    ) -> Request:
        """What a user's words mean.

        Raises:
            StorageError: there are no prompts or no sites.
            ObverseError: what the model refuses.
        """
        source = source_of(model)
        rows = source.rows(tokens)
        if not all(map(len, rows)) or not rows:
            raise StorageError("There are no prompts, or one without tokens; leave empty ones out.")
        # A site may be named twice, on its own and as one of all layers.
        shapes = list({site.name: site for site in source.sites(sites)}.values())
        if not shapes:
            raise StorageError("No sites are asked for; name one, such as 'resid_post'.")
        return cls(source, source.space(dtype), rows, shapes)
