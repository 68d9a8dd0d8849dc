"""Prompts as token ids: right-padded, so that no mask is needed.

In a causal model a padded position on the right is never seen by a real one, and positions count
from the first token, so right-padded prompts give the same activations as unpadded ones. Left
padding would need a mask, which TransformerLens' own patching does not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.model import Model

Prompts = Sequence[str] | Int[Tensor, "example position"]


@dataclass(frozen=True)
class TokenBatch:
    """Prompts of one or several lengths.

    Attributes:
        ids: token ids [example, position]; 0 beyond each prompt's length.
        lengths: tokens in each prompt [example].
        texts: the prompts as text.
        offsets: for each prompt the characters (start, end) of each token, where known.
    """

    ids: Int[Tensor, "example position"]
    lengths: Int[Tensor, " example"]
    texts: tuple[str, ...]
    offsets: tuple[list[tuple[int, int]] | None, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def row(self, example: int) -> list[int]:
        """The token ids of one prompt, without padding."""
        return [int(i) for i in self.ids[example, : int(self.lengths[example])]]

    def subset(self, examples: Sequence[int]) -> TokenBatch:
        """Some of the prompts, padded to the longest of them."""
        rows = [self.row(i) for i in examples]
        texts = tuple(self.texts[i] for i in examples)
        return pad(rows, texts, tuple(self.offsets[i] for i in examples))


def tokenise(model: Model, prompts: Prompts | str, *, what: str = "prompts") -> TokenBatch:
    """Turn prompts into token ids; BOS is added to text as the model expects it, never to ids.

    Args:
        prompts: texts, or token ids [example, position] of equal length without padding.
        what: what to call them in an error.

    Raises:
        PromptError: no prompts, an empty prompt, one longer than the context, or ids that the
            vocabulary does not have.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    if len(prompts) == 0:
        raise PromptError(f"There are no {what}; give at least one.")
    if isinstance(prompts, Tensor):
        return _from_ids(model, prompts, what)
    for number, text in enumerate(prompts):
        if not isinstance(text, str):
            raise PromptError(f"Each of the {what} must be text; number {number} is not.")
    encoded = model.encode(prompts, what=what)
    for number, (ids, _) in enumerate(encoded):
        if len(ids) <= model.prepends_bos:
            raise PromptError(f"Number {number} of the {what} is empty; give text to read.")
        check_vocabulary(model, ids, what)
    offsets = tuple(spans for _, spans in encoded)
    batch = pad([ids for ids, _ in encoded], tuple(prompts), offsets)
    check_length(model, int(batch.lengths.max()), what)
    return batch


def pad(
    rows: Sequence[Sequence[int]],
    texts: tuple[str, ...],
    offsets: tuple[list[tuple[int, int]] | None, ...] | None = None,
) -> TokenBatch:
    """Put rows of unequal length into one tensor, padded with 0 on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(list(row))
    return TokenBatch(ids, lengths, texts, offsets or (None,) * len(rows))


def blank(
    values: Float[Tensor, "example ..."], lengths: Int[Tensor, " example"], axis: int
) -> None:
    """Put NaN, in place, where prompts have ended: what is computed there belongs to no token."""
    width = values.shape[axis]
    for number in (lengths < width).nonzero().flatten().tolist():
        length = int(lengths[number])
        values[number : number + 1].narrow(axis, length, width - length).fill_(torch.nan)


def token_table(model: Model, batch: TokenBatch) -> npt.NDArray[np.object_]:
    """What stands at each [example, position]; "" beyond a prompt's end."""
    out = np.full(tuple(batch.ids.shape), "", dtype=object)
    for example in range(len(batch)):
        row = batch.row(example)
        out[example, : len(row)] = model.token_strings(row)
    return out


def check_length(model: Model, length: int, what: str) -> None:
    """Raise a PromptError if `length` tokens do not fit into the model's context."""
    if length > model.n_ctx:
        raise PromptError(
            f"The longest of the {what} takes {length} tokens, but {model.name} reads at most "
            f"{model.n_ctx}; shorten it."
        )


def check_vocabulary(model: Model, ids: Sequence[int], what: str) -> None:
    """Raise a PromptError if the model has no embedding for one of the token ids."""
    if not all(0 <= i < model.d_vocab for i in ids):
        raise PromptError(
            f"The {what} hold token ids outside of {model.name}'s vocabulary "
            f"(0 to {model.d_vocab - 1}); were they made by another tokenizer?"
        )


def _from_ids(model: Model, ids: Tensor, what: str) -> TokenBatch:
    if ids.ndim != 2 or ids.shape[1] == 0 or ids.is_floating_point():
        raise PromptError(f"Token ids of {what} must be integers of shape [example, position].")
    check_vocabulary(model, [int(ids.min()), int(ids.max())], what)
    check_length(model, ids.shape[1], what)
    ids = ids.detach().cpu().long()
    texts = tuple(model.decode(row.tolist()) for row in ids)
    return TokenBatch(ids, torch.full((len(ids),), ids.shape[1]), texts, (None,) * len(ids))
