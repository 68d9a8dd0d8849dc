"""Which tokens of which prompts an intervention changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cache.arguments import typed
from interp.errors import PromptError
from interp.model.model import Model
from interp.prompts.pairs import find_span
from interp.prompts.tokens import Prompts, TokenBatch, tokenise

Where = Literal["all", "prompt", "last", "generated"]
Positions = Where | Sequence[int] | Bool[Tensor, "example position"] | npt.NDArray[np.bool_]
_WHERE = ("all", "prompt", "last", "generated")


@dataclass(frozen=True)
class TokenMask:
    """Which tokens are changed: a mask [example, position], and what follows its last column."""

    mask: Bool[Tensor, "example position"]
    beyond: bool = False

    def at(
        self,
        examples: Tensor | None,
        value: Tensor,
        axis: int,
        positions: Int[Tensor, "row token"] | None = None,
    ) -> Tensor:
        """The mask for these rows, to be broadcast against an activation.

        Args:
            axis: of the activation, the one that runs over tokens.
            positions: where its tokens stand in their texts; from 0 on if left out.
        """
        mask = self.mask if examples is None else self.mask[examples.cpu()]
        if positions is None:
            missing = value.shape[axis] - mask.shape[1]
            if missing > 0:
                mask = torch.cat([mask, mask.new_full((len(mask), missing), self.beyond)], dim=1)
            mask = mask[:, : value.shape[axis]]
        else:
            mask = self._there(mask, positions)
        shape = [1] * value.ndim
        shape[0], shape[axis] = len(mask), value.shape[axis]
        return mask.reshape(shape).to(value.device)

    def holds(self, examples: Int[Tensor, " row"], positions: Int[Tensor, "row token"]) -> bool:
        """Whether there is one of these tokens that is changed."""
        return bool(self._there(self.mask[examples.cpu()], positions).any())

    def _there(self, mask: Tensor, positions: Tensor) -> Tensor:
        positions = positions.cpu()
        inside = positions < mask.shape[1]
        found = mask.gather(1, positions.clamp(max=mask.shape[1] - 1))
        return torch.where(inside, found, torch.tensor(self.beyond))


@typed
def span_mask(
    model: Model, prompts: Prompts | str | TokenBatch, words: Sequence[str]
) -> Bool[Tensor, "example position"]:
    """Where some words stand in each prompt: a mask, to intervene there, say.

    Args:
        model: whose tokenizer reads the prompts.
        words: one piece of text for each prompt, which it holds once.

    Raises:
        PromptError: a prompt does not hold its words once, or there are not as many.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    if isinstance(words, str) or len(words) != len(batch):
        raise PromptError(f"Name the words of a span for each of the {len(batch)} prompts.")
    mask = torch.zeros(batch.ids.shape, dtype=torch.bool)
    for example, piece in enumerate(words):
        start, stop = find_span(batch, example, piece, "span")
        mask[example, start:stop] = True
    return mask


def token_mask(positions: Positions, lengths: Int[Tensor, " example"]) -> TokenMask | None:
    """The tokens that positions name in prompts of these lengths; None for all of them.

    Raises:
        PromptError: positions that a prompt does not have.
    """
    lengths = lengths.cpu()
    index = torch.arange(int(lengths.max()))
    if isinstance(positions, Tensor | np.ndarray):
        positions = torch.as_tensor(positions)
        fits = positions.ndim == 2 and len(positions) == len(lengths) and positions.shape[1] > 0
        if positions.dtype != torch.bool or not fits:
            raise PromptError(
                "A mask of positions must be true or false for each [example, position]."
            )
        return TokenMask(positions.cpu())
    if isinstance(positions, str):
        _check_where(positions)
        masks = {
            "prompt": TokenMask(index < lengths[:, None]),
            "last": TokenMask(index == lengths[:, None] - 1),
            "generated": TokenMask(index >= lengths[:, None], beyond=True),
        }
        return masks.get(positions)
    if not len(positions):
        raise PromptError("No positions are named; choose one of them, or 'all'.")
    mask = torch.zeros(len(lengths), len(index), dtype=torch.bool)
    for position in positions:
        at = position if position >= 0 else lengths + position
        outside = torch.nonzero((torch.as_tensor(at) < 0) | (torch.as_tensor(at) >= lengths))
        if len(outside):
            example = int(outside[0])
            raise PromptError(
                f"Prompt {example} has {int(lengths[example])} tokens and no position {position}."
            )
        mask[torch.arange(len(lengths)), at] = True
    return TokenMask(mask)


def fixed_mask(positions: Positions) -> TokenMask | None:
    """The tokens that positions name in any prompt; None for all of them.

    Raises:
        PromptError: positions that need to know where a prompt ends.
    """
    if isinstance(positions, str):
        _check_where(positions)
        if positions == "all":
            return None
    elif not isinstance(positions, Tensor | np.ndarray) and all(
        position >= 0 for position in positions
    ):
        mask = torch.zeros(1, max(positions, default=0) + 1, dtype=torch.bool)
        mask[0, list(positions)] = True
        return TokenMask(mask)
    raise PromptError(
        "These positions depend on the prompts; pass the interventions to capture, logits or "
        "generate, or count positions from the left."
    )


def _check_where(positions: str) -> None:
    if positions not in _WHERE:
        raise PromptError(
            f"Unknown positions '{positions}'; choose one of {', '.join(_WHERE)}, or numbers."
        )
