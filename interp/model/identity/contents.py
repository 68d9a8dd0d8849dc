"""A digest of every number that a model holds, fast enough to be taken before each use.

It tells whether anything has changed, by whatever route: an optimizer, `.data`, a NumPy view, one
element of one row. What the model is called comes from `.fingerprint`, which is slower.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import xxhash
from torch import Tensor

from interp.errors import ModelError
from interp.model.elsewhere import Elsewhere
from interp.model.packed import PLAIN_TENSORS, parts

__all__ = ["Held", "digest", "tensors"]

# int64 numbers that a device reduces at a time; weights of as many positions are kept.
PIECE = 1 << 22
# Bytes of tensors that a device reads together.
SMALL = 1 << 16
# Odd numbers, whose products with a position are as good as random (Steele et al. 2014).
_STRIDES = (-7046029254386353131, -4658895280553007687)


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


def digest(values: Mapping[str, Tensor], views: Iterable[str] = ()) -> bytes:
    """Sixteen bytes that change when any bit of any tensor, or its name, shape or dtype, does.

    On a CPU the bytes themselves are hashed (xxh3, at the speed of memory); on a device each
    64 bits are multiplied with a number of their position, and the products added, in 64-bit
    integers: a change of one number always shows, one of several but for a chance of 2⁻⁶⁴. Small
    tensors are laid one behind the other first, since a device takes as long for each.

    Raises:
        ModelError: a tensor's numbers are elsewhere (on the meta device, or offloaded).
    """
    hasher = xxhash.xxh3_128("\n".join(views).encode())
    pending: list[Tensor] = []
    small: dict[torch.device, list[Tensor]] = {}
    for name, value in values.items():
        if value.device.type == "meta":
            raise ModelError(
                f"The weights '{name}' are not in memory (they are offloaded, or were never "
                "loaded), so what the model is cannot be told; load it without offloading."
            )
        # What lies transposed is read in the order of memory, which is ten times as fast.
        turned = value.ndim == 2 and not value.is_contiguous() and value.T.is_contiguous()
        flat = (value.T if turned else value).detach().reshape(-1)
        told = f"{name} {value.dtype} {tuple(value.shape)} {value.device} {turned}"
        hasher.update(told.encode())
        if value.device.type == "cpu":
            hasher.update(flat.contiguous().view(torch.uint8).numpy().data)
        elif flat.numel() * flat.element_size() <= SMALL:
            small.setdefault(value.device, []).append(flat.contiguous().view(torch.uint8))
        else:
            pending.append(weighted_sums(flat))
    pending += [weighted_sums(torch.cat(pieces)) for pieces in small.values()]
    for sums in pending:  # only now, so that the device does not wait for each
        hasher.update(sums.cpu().numpy().data)
    return hasher.digest()


def weighted_sums(flat: Tensor) -> Tensor:
    """Two sums [2] of the bits of a tensor, weighted by their positions; stays on the device."""
    raw = flat.contiguous().view(torch.uint8)
    whole = len(raw) // 8 * 8
    sums = torch.zeros(2, dtype=torch.int64, device=raw.device)
    # Views of eight bytes need an address of their own multiple.
    aligned = raw[:whole] if raw.data_ptr() % 8 == 0 else raw[:whole].clone()
    words = aligned.view(torch.int64)
    if whole < len(raw):
        rest = torch.zeros(8, dtype=torch.uint8, device=raw.device)
        rest[: len(raw) - whole] = raw[whole:]
        sums += _weighted(rest.view(torch.int64), len(words))
    for start in range(0, len(words), PIECE):
        sums += _weighted(words[start : start + PIECE], start)
    return sums


def _weighted(words: Tensor, start: int) -> Tensor:
    places = torch.arange(start, start + len(words), device=words.device)
    out = []
    for stride in _STRIDES:
        weights = (places + 1) * stride
        weights = (weights ^ (weights >> 29)) | 1  # odd, so that no change is multiplied away
        out.append((words * weights).sum())
    return torch.stack(out)
