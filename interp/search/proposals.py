"""Which swaps are tried, and in which order: those first that the gradient promises most of.

Per round (the free tokens as they are until a swap is taken) all swaps of the pool stand in one
order: by blocks of each slot's best tokens, within a block shuffled by the seed. Attempts take the
next of it, so none is tried twice, and when it ends no swap of one token lowers the loss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Indices = npt.NDArray[np.int64]


class Proposals:
    """All swaps of one round, in the order in which they are tried."""

    def __init__(
        self,
        pool: Indices,
        streams: Tensor,
        tokens: tuple[int, ...],
        by_slot: Tensor,
        top_k: int,
        seed: tuple[int, int],
    ) -> None:
        """The order.

        Args:
            pool: allowed tokens [token].
            streams: of these before the first block, up to what their place adds [token, d_model].
            tokens: the free tokens as they are.
            by_slot: gradient of the score by the stream at each of them [slot, d_model].
            top_k: tokens of each slot in a block.
            seed: of the search, and the number of the round.
        """
        promised = (streams.float() @ by_slot.T).T.double().cpu()  # [slot, token]
        same = torch.from_numpy(pool)[None] == torch.tensor(tokens)[:, None]
        # What stands there already is no swap; it comes last, and is left out below.
        order = torch.sort(
            promised.masked_fill(same, -torch.inf), dim=1, descending=True, stable=True
        ).indices
        left = (~same).sum(1).numpy()
        rank = np.arange(len(pool))
        slot, at = np.nonzero(rank[None] < left[:, None])
        rng = np.random.default_rng(seed)
        turn = np.lexsort((rng.random(len(slot)), at // top_k))
        self._slot = slot[turn]
        self._token = pool[order.numpy()[self._slot, at[turn]]]
        self._tokens = np.array(tokens)

    def __len__(self) -> int:
        return len(self._slot)

    def take(self, start: int, n: int) -> Indices:
        """The free tokens after each of the next `n` swaps [candidate, slot]."""
        slot, token = self._slot[start : start + n], self._token[start : start + n]
        out = np.tile(self._tokens, (len(slot), 1))
        out[np.arange(len(slot)), slot] = token
        return out
