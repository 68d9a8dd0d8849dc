"""Every number that a model holds, digested fast enough for each use (`interp.model.digests`).

It tells whether anything has changed, by whatever route: an optimizer, `.data`, a NumPy view, one
element of one row. What the model is called comes from `.fingerprint`, which is slower.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from interp.errors import ModelError
from interp.model.packed import PLAIN_TENSORS, parts

if TYPE_CHECKING:
    from interp.model.elsewhere import Elsewhere

__all__ = ["Held", "tensors"]


class Held(NamedTuple):
    """The numbers of a model.

    Attributes:
        values: tensors by path, each memory once.
        views: which parts of these other paths name: TransformerLens' queries are a part of a fused
            matrix.
    """

    values: dict[str, Tensor]
    views: tuple[str, ...]


def tensors(modules: Mapping[str, torch.nn.Module], elsewhere: Elsewhere | None = None) -> Held:
    """Parameters, buffers (also those that are not saved) and plain tensors.

    Args:
        modules: by path, every module of the tree.
        elsewhere: weights that are left out: where these lie tells what they are.

    Raises:
        ModelError: a tensor is sparse.
    """
    found: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()

    def take(path: str, held: Mapping[str, object]) -> None:
        given = [(name, value) for name, value in held.items() if isinstance(value, Tensor)]
        if not given:
            return
        if elsewhere is not None:
            given = [one for one in given if not elsewhere.owns(one[1])]
        if not all(type(value) in PLAIN_TENSORS for _, value in given):
            given = list(itertools.chain.from_iterable(itertools.starmap(parts, given)))
        for name, value in given:
            if name.startswith("_"):
                continue
            if value.layout is not torch.strided:
                raise ModelError(
                    f"'{name}' of '{path}' is a sparse tensor, which cannot be digested, so what "
                    "the model is cannot be told; make it dense with to_dense()."
                )
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
            if value.numel() and place not in seen:
                seen.add(place)
                found[f"{path}.{name}"] = value

    for path, module in modules.items():
        for held in (module._parameters, module._buffers):
            if held:
                take(path, held)
    for path, module in modules.items():
        # TransformerLens keeps names for weights here; only what is nowhere else is new.
        take(path, module.__dict__)
    views = _views(found)
    return Held({n: v for n, v in found.items() if n not in views}, tuple(views.values()))


def _views(found: Mapping[str, Tensor]) -> dict[str, str]:
    """Of tensors that lie within a larger one, which part of it they are."""
    owners: dict[int, tuple[int, int, str]] = {}
    for name, value in found.items():
        if value.is_contiguous() and value.device.type != "meta":
            begin, size = value.data_ptr(), value.numel() * value.element_size()
            place = value.untyped_storage().data_ptr()
            if place not in owners or size > owners[place][1] - owners[place][0]:
                owners[place] = begin, begin + size, name
    views = {}
    for name, value in found.items():
        if value.device.type == "meta":
            continue
        first, last, owner = owners.get(value.untyped_storage().data_ptr(), (0, 0, name))
        begin = value.data_ptr()
        steps = sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
        end = begin + (steps + 1) * value.element_size()
        if owner != name and first <= begin and end <= last:
            shape = f"{tuple(value.shape)} {value.stride()} {value.dtype}"
            views[name] = f"{name} {shape} at {begin - first} of {owner}"
    return views
