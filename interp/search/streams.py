"""What tokens bring into the first block, at each place where they may stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.forward.passes import TOLERANCE, embedded, relative_error
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model

Indices = npt.NDArray[np.int64]


def token_streams(model: Model, tokens: Indices) -> Float[Tensor, "token d_model"]:
    """Streams of tokens that begin a text: up to what their place adds, those anywhere."""

    def work(start: int, stop: int) -> Tensor:
        return embedded(model, torch.from_numpy(tokens[start:stop])[:, None])[:, 0]

    return torch.cat([found for _, _, found in batches(len(tokens), _at_once(model, 1), work)])


def placed_streams(
    model: Model, offset: int, tokens: Sequence[Sequence[int]] | Indices
) -> Float[Tensor, "row slot d_model"]:
    """Streams of tokens that stand from `offset` on."""
    given = torch.as_tensor(np.asarray(tokens))
    length = offset + given.shape[1]

    def work(start: int, stop: int) -> Tensor:
        ids = torch.zeros(stop - start, length, dtype=torch.long)
        ids[:, offset:] = given[start:stop]
        return embedded(model, ids)[:, offset:]

    pieces = batches(len(given), _at_once(model, length), work)
    return torch.cat([found for _, _, found in pieces])


class Placed:
    """Streams of candidates at the places of the free tokens, each computed once.

    Attributes:
        values: one for each place in the text and token that occurs there [vector, d_model].
    """

    def __init__(
        self, model: Model, offsets: Sequence[int], candidates: Int[Tensor, "candidate slot"]
    ) -> None:
        """What is needed.

        Args:
            offsets: where the first free token of each prompt stands [example].
        """
        check_position_wise(model)
        self._offset, self._offsets = np.unique(np.asarray(offsets), return_inverse=True)
        columns = [np.unique(column, return_inverse=True) for column in candidates.numpy().T]
        most = max(len(used) for used, _ in columns)
        self._index = np.stack([index for _, index in columns], 1)
        self._most = most
        k = len(columns)
        # Tokens stand beside each other that never do in a text; none sees the others yet.
        grid = np.zeros((most, k), np.int64)
        for slot, (used, _) in enumerate(columns):
            grid[: len(used), slot] = used
        self._k = k
        self.values = torch.cat(
            [placed_streams(model, int(at), grid).flatten(0, 1) for at in self._offset]
        )

    def number(self, example: Indices, candidate: Indices) -> Int[Tensor, "row slot"]:
        """Which of the values stand in each row's slots."""
        at, index = self._offsets[example], self._index[candidate]
        slot = np.arange(self._k)
        return torch.from_numpy((at[:, None] * self._most + index) * self._k + slot)


def check_position_wise(model: Model) -> None:
    """See that a token's stream into the first block does not depend on the other tokens.

    Raises:
        ModelError: it does.
    """

    def trial() -> bool:
        ids = torch.arange(4)[None] % model.d_vocab
        other = ids.clone()
        other[:, [0, 1, 3]] = model.d_vocab - 1
        here, there = (embedded(model, one)[0, 2] for one in (ids, other))
        return relative_error(here, there) <= TOLERANCE[model.dtype]

    if not model.once("embeds tokens alone", trial):
        raise ModelError(
            f"{model.name} mixes tokens before its first block, so that swapped ones cannot be "
            "tried alone; choose another architecture, such as GPT-2 or Llama."
        )


def _at_once(model: Model, length: int) -> int:
    masks = 2 * length * length
    return rows_that_fit(model, (8 * model.d_model * length + masks) * model.dtype.itemsize)
