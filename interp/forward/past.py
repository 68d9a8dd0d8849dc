"""Keys and values of what was read, so that a text can be read on token by token.

Prompts are read padded on the right, as everywhere. Behind that, the keys and values of each row
are moved to the end, so that all rows go on in the same slot: from there on it is Hugging Face's
own way of writing a batch, padded on the left, with its masks, windows and position biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from interp.model.identity.structure import walk
from interp.model.model import Model

# Rotations that change with the length of the text: keys that were rotated earlier are no longer
# those of a whole pass.
_BY_LENGTH = ("dynamic", "longrope")


class Past:
    """Keys and values of what some rows have read so far.

    Attributes:
        lengths: tokens that each row has read [row]; empty before the first pass.
    """

    def __init__(self) -> None:
        # Without a configuration every layer keeps all of its keys. Those with a window would keep
        # the last ones of the padded batch, not of each row.
        self._cache = DynamicCache()
        self.lengths: Int[Tensor, " row"] = torch.zeros(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.lengths)

    def arguments(self, device: torch.device) -> dict[str, Any]:
        """What the model is called with to read on."""
        found: dict[str, Any] = {"past_key_values": self._cache}
        if len(self) and bool((self.lengths != self.lengths[0]).any()):
            slots = int(self.lengths.max()) + 1
            first = slots - 1 - self.lengths
            mask = torch.arange(slots) >= first[:, None]
            found["attention_mask"] = mask.long().to(device)
        return found

    def has_read(self, lengths: Int[Tensor, " row"]) -> None:
        """Say how much of their right-padded prompts was text, after the first pass."""
        width = int(lengths.max())
        for layer in self._layers():
            keys = layer.keys
            slot = torch.arange(width, device=keys.device)
            slot = slot - (width - lengths.to(keys.device))[:, None]
            # What comes to stand before a row's first token is never attended to.
            slot = slot.clamp(min=0)[:, None, :, None]
            layer.keys = _gathered(keys, slot)
            layer.values = _gathered(layer.values, slot)
        self.lengths = lengths.clone()

    def has_read_on(self) -> None:
        """Say that each row has read one token more."""
        self.lengths = self.lengths + 1

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Forget all rows but these."""
        before = int(self.lengths.max())
        self.lengths = self.lengths[rows]
        unused = before - int(self.lengths.max())
        for layer in self._layers():
            index = rows.to(layer.keys.device)
            layer.keys = layer.keys[index, :, unused:]
            layer.values = layer.values[index, :, unused:]

    @classmethod
    def joined(cls, pieces: Sequence[Past]) -> Past:
        """The rows of several, one after the other; the pieces are no longer of use."""
        if len(pieces) == 1:
            return pieces[0]
        whole = cls()
        whole.lengths = torch.cat([piece.lengths for piece in pieces])
        slots = int(whole.lengths.max())
        for number, layers in enumerate(zip(*(p._layers() for p in pieces), strict=True)):
            keys, values = (
                torch.cat([_padded(getattr(layer, name), slots) for layer in layers])
                for name in ("keys", "values")
            )
            whole._cache.update(keys, values, number)
            for layer in layers:
                layer.keys = layer.values = None
        return whole

    def _layers(self) -> list[Any]:
        return list(self._cache.layers)


def is_rotated_by_length(model: Model) -> bool:
    """Whether how a token is rotated depends on how long the text is."""
    for module in walk(model.bridge).values():
        kinds = module.__dict__.get("rope_type", ())
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        if any(way in str(kind) for kind in kinds for way in _BY_LENGTH):
            return True
    return False


def past_memory(model: Model, length: int) -> int:
    """Bytes of the keys and values of one text of `length` tokens."""
    width = model.n_key_value_heads * int(model.bridge.cfg.d_head)
    return 2 * model.n_layers * width * length * model.dtype.itemsize


def stepping_memory(model: Model, length: int, width: int) -> int:
    """Bytes that reading one more token takes for one text of `length` tokens (estimate).

    Args:
        width: numbers of the activations that are kept.
    """
    cfg = model.bridge.cfg
    # One layer's keys and values are copied to make room for the next, and, where several heads
    # share them, once more for each.
    copied = 4 * length * max(model.n_heads, model.n_key_value_heads) * int(cfg.d_head)
    scores = 5 * model.n_heads * length
    logits = 3 * 4 * model.d_vocab
    numbers = copied + scores + width
    return model.memory_per_row(1) + numbers * model.dtype.itemsize + logits


def _gathered(values: Tensor, slot: Tensor) -> Tensor:
    return values.gather(2, slot.expand(*values.shape[:2], -1, values.shape[3]))


def _padded(values: Tensor, slots: int) -> Tensor:
    missing = slots - values.shape[2]
    return torch.nn.functional.pad(values, (0, 0, missing, 0))
