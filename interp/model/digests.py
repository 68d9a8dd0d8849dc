"""A digest of tensors that changes when any bit does, at the speed of memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import xxhash
from torch import Tensor

from interp.errors import ModelError

__all__ = ["digest", "weighted_sums"]

# int64 numbers that a device reduces at a time; weights of as many positions are kept.
PIECE = 1 << 22
# Bytes of tensors that a device reads together.
SMALL = 1 << 16
# Odd numbers, whose products with a position are as good as random (Steele et al. 2014).
_STRIDES = (-7046029254386353131, -4658895280553007687)


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
