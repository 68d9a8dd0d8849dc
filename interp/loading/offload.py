"""Blocks whose weights lie in the model's files, or in other memory, brought one at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from interp.loading.streaming.stream import Source, Stream
from interp.model.elsewhere import Elsewhere, Slot
from interp.model.identity.fingerprint import plain_name

__all__ = ["attach_disk_blocks", "group_of"]

_NUMBERED = re.compile(r"(?:.*?\.)?\d+(?=\.)")


def attach_disk_blocks(
    hf_model: nn.Module, weights: Mapping[str, Source | Tensor], device: torch.device
) -> Elsewhere:
    """Have a model bring some of its weights when they are asked for, block by block.

    Args:
        hf_model: which may be without numbers where these weights are.
        weights: where they lie, by the names that a checkpoint has: files, or memory that the model
            does not compute in.
        device: where it computes.
    """
    elsewhere = Elsewhere(_stream(weights, device), device)
    # Tied weights are one; held, so that no other comes to bear an identity.
    known: dict[int, tuple[nn.Parameter, Slot]] = {}
    for path, module in hf_model.named_modules():
        mine: dict[str, Slot] = {}
        for part, weight in module._parameters.items():
            name = f"{path}.{part}" if path else part
            if weight is not None and name in weights:
                slot = Slot(group_of(name), name)
                mine[part] = known.setdefault(id(weight), (weight, slot))[1]
        elsewhere.take(module, mine)
    return elsewhere


def group_of(name: str) -> str:
    """What a weight is brought with: its block, or the module that holds it."""
    name = plain_name(name)
    block = _NUMBERED.match(name)
    return block.group() if block else name.rpartition(".")[0]


def _stream(weights: Mapping[str, Source | Tensor], device: torch.device) -> Stream:
    """What brings them, in the order in which a model has them."""
    groups: dict[str, dict[str, Source | Tensor]] = {}
    for name, one in weights.items():
        groups.setdefault(group_of(name), {})[name] = one
    return Stream(groups, device)
