"""Weights that TransformerLens cuts out of fused matrices, where these lie elsewhere.

Queries, keys and values of GPT-2 are one matrix, of which the bridge keeps parts as modules of
their own. They are cut anew, by the same code, whenever the matrix is brought.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import ModelError
from interp.loading.offload import group_of
from interp.model.elsewhere import Elsewhere, Slot
from interp.model.identity.fingerprint import twin
from interp.model.identity.structure import walk

__all__ = ["asks_for_numbers", "bring_cut"]

# What cuts, and the parts in the order in which it returns them.
_CUTS = {"split_qkv_matrix": ("q", "k", "v"), "split_gate_up_matrix": ("gate", "in")}


def asks_for_numbers(hf_model: Any, boot: Callable[[Any], Any]) -> bool:
    """Whether TransformerLens looks at the numbers of weights while it wraps such a model.

    Args:
        boot: wraps a model.
    """
    try:
        boot(twin(hf_model).eval())
    except NotImplementedError:  # "… is on the meta device"
        return True
    except Exception:  # which it will tell of again
        return False
    return False


def bring_cut(bridge: Any, elsewhere: Elsewhere) -> None:
    """Have the parts of fused matrices brought with these, and gradients keep no weights.

    Args:
        bridge: made while weights elsewhere had no numbers.

    Raises:
        ModelError: TransformerLens makes weights in another way, so that there would be none.
    """
    with elsewhere.closed():
        modules = walk(bridge)
        paths = {id(m): path for path, m in bridge.original_model.named_modules()}
        for module in modules.values():
            for name, parts in _CUTS.items():
                if callable(module.__dict__.get(name)):
                    _take(module, module.__dict__[name], parts, paths, elsewhere)
        # What the bridge reads of a weight's device is nowhere where there are no numbers.
        for module in modules.values():
            for name, buffer in module._buffers.items():
                if buffer is not None and _is_nothing(buffer):
                    if name != "bias" or module is not bridge.unembed.original_component:
                        raise _unknown(name)
                    module._buffers[name] = torch.zeros_like(buffer, device=elsewhere.device)
        for path, module in modules.items():
            # Some modules of TransformerLens hold weights of others.
            held = {n: elsewhere.stands_for(w) for n, w in module._parameters.items()}
            elsewhere.take(module, {n: slot for n, slot in held.items() if slot is not None})
            for name, weight in module._parameters.items():
                if weight is not None and not elsewhere.owns(weight) and _is_nothing(weight):
                    raise _unknown(f"{path}.{name}")
            # Names by which weights go as well: those without numbers are forgotten.
            for name, value in list(module.__dict__.items()):
                if isinstance(value, Tensor) and _is_nothing(value):
                    del module.__dict__[name]
    elsewhere.watch(bridge.blocks)


def _take(
    module: Any,
    cut: Callable[[Any], tuple[nn.Module, ...]],
    parts: tuple[str, ...],
    paths: Mapping[int, str],
    elsewhere: Elsewhere,
) -> None:
    original = module.original_component
    path = next(
        (paths[id(one)] for one in original.modules() if id(one) in paths), paths.get(id(module))
    )
    if path is None:
        raise _unknown(type(module).__name__)
    group = group_of(f"{path}.weight")
    wholes = [getattr(module, part).original_component for part in parts]
    names: list[dict[str, Slot]] = []
    for part, linear in zip(parts, wholes, strict=True):
        empty = [n for n, w in linear._parameters.items() if w is not None and _is_nothing(w)]
        names.append({n: Slot(group, f"{path}:{part}.{n}") for n in empty})
    if not any(names):
        return

    def make() -> Mapping[str, Tensor]:
        # On the meta device, so that matrices which are thrown away are not filled at random.
        with torch.device("meta"):
            made = cut(original)
        if any(w.is_meta for one in made for w in one.parameters()):
            made = cut(original)
        return {
            slot.name: getattr(one, name)
            for one, slots in zip(made, names, strict=True)
            for name, slot in slots.items()
        }

    for linear, slots in zip(wholes, names, strict=True):
        elsewhere.take(linear, slots, functools.partial(make))


def _is_nothing(value: Tensor) -> bool:
    """Whether there are no numbers in it: what was made of shapes alone, or of NaN."""
    if value.is_meta or not value.is_floating_point() or not value.numel():
        return value.is_meta
    return bool(value.detach()[(0,) * value.ndim].isnan())


def _unknown(name: str) -> ModelError:
    return ModelError(
        f"TransformerLens makes '{name}' of weights that lie elsewhere in a way of its own; load "
        "the model with its blocks where it computes."
    )
