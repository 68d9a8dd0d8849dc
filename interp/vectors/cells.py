"""From where to where: the cells of a transplant, and the table of vectors that they are run as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from interp.errors import PromptError
from interp.prompts.places import TokenPlaces
from interp.vectors.table import Vectors

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Routes:
    """Every way from a place of one prompt to a place of another, token by token.

    Attributes:
        source, target: the places.
        route: which way each pair of tokens belongs to, an index of [example, source place,
            target place] flattened [pair], ascending.
        token: which of the tokens that are read is carried [pair].
        position: the token that is written [pair].
        read: the tokens that are read, as (example, position) [token].
    """

    source: TokenPlaces
    target: TokenPlaces
    route: Indices
    token: Indices
    position: Indices
    read: tuple[Indices, Indices]

    @classmethod
    def between(cls, source: TokenPlaces, target: TokenPlaces) -> Routes:
        """Pair the tokens of all places: one with each, or as many with as many, in order.

        Raises:
            PromptError: places of several tokens each, of unequal numbers.
        """
        n = len(source.tokens[0])
        number: dict[tuple[int, int], int] = {}
        for example in range(n):
            for position in sorted({t for place in source.tokens for t in place[example]}):
                number[example, position] = len(number)
        pairs: list[tuple[int, int, int]] = []
        for route, (example, one, other) in enumerate(np.ndindex(n, len(source), len(target))):
            here, there = source.tokens[one][example], target.tokens[other][example]
            if not here or not there:
                continue
            if len(here) not in (1, len(there)):
                raise PromptError(
                    f"In example {example} the place '{source.names[one]}' of the source prompt "
                    f"has {len(here)} tokens and '{target.names[other]}' of the target prompt "
                    f"{len(there)}; carry a single token (such as 'subject -1'), or places of as "
                    "many tokens."
                )
            carried = here * len(there) if len(here) == 1 else here
            pairs += [(route, number[example, a], b) for a, b in zip(carried, there, strict=True)]
        if not pairs:
            raise PromptError("No example has tokens at both places; name others.")
        route_, token, position_ = (np.array(column) for column in zip(*pairs, strict=True))
        tokens = np.array(list(number), dtype=np.int64)
        return cls(source, target, route_, token, position_, (tokens[:, 0], tokens[:, 1]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Examples, source places, target places."""
        return len(self.source.tokens[0]), len(self.source), len(self.target)


def rows(
    routes: Routes,
    site: str,
    vectors: Float[Tensor, "source_layer token ..."],
    target_layers: Sequence[int],
    wanted: Mask | None = None,
    head: int | None = None,
) -> tuple[Vectors, Indices]:
    """A row for every way, source layer and target layer, and where each row stands in the grid.

    Args:
        vectors: what the tokens that are read have at each source layer.
        wanted: which layers go to which [source layer, target layer]; all if left out.
        head: the only head that is carried.

    Returns:
        The table, and indices of [example, source layer, target layer, source place, target place]
        flattened [row].
    """
    n_source, n_tokens = vectors.shape[:2]
    n_target = len(target_layers)
    every = np.ones((n_source, n_target), dtype=np.bool_) if wanted is None else wanted
    from_layer, to_layer = np.nonzero(every)  # [combination]
    ways, first, size = np.unique(routes.route, return_index=True, return_counts=True)
    # Rows run over ways, and for each over combinations of layers; its cells over pairs of tokens.
    n_rows = len(ways) * len(from_layer)
    way, combination = np.divmod(np.arange(n_rows), len(from_layer))
    n_cells = size[way]
    row = np.repeat(np.arange(n_rows), n_cells)
    pair = np.repeat(first[way] - (np.cumsum(n_cells) - n_cells), n_cells) + np.arange(len(row))
    n_examples, n_from, n_to = routes.shape
    example, one, other = np.unravel_index(ways[way], routes.shape)
    table = Vectors(
        site,
        vectors.flatten(0, 1) if head is None else vectors[:, :, head].flatten(0, 1),
        example=example[row],
        layer=np.asarray(target_layers)[to_layer[combination]][row],
        position=routes.position[pair],
        vector=from_layer[combination][row] * n_tokens + routes.token[pair],
        row=row,
        head=None if head is None else np.full(len(row), head),
    )
    shape = (n_examples, n_source, n_target, n_from, n_to)
    where = (example, from_layer[combination], to_layer[combination], one, other)
    return table, np.asarray(np.ravel_multi_index(where, shape))
