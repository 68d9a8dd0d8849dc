"""Weights that were brought and given to somebody: whether they are still what they were.

PyTorch counts changes in place, but not those through `.data`, a NumPy view or a new `.data`. What
the modules of a model look up while they run nobody else sees; what is looked up otherwise may be
edited, so its numbers are digested, and compared when it is let go, when its block is brought again
while somebody holds it, and at each look at the model for as long as its memory is in use.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from interp.errors import ModelError
from interp.model.brought import CHANGED, Slot
from interp.model.digests import digest

__all__ = ["Lent"]

_RUNS = frozenset({nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__})


class _Given(NamedTuple):
    """Where the numbers of a weight are that somebody was given."""

    slot: Slot
    storage: StorageWeakRef
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def numbers(self) -> Tensor | None:
        """What is there now; None where nobody holds that memory any longer."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            return None
        found = torch.empty(0, dtype=self.dtype, device=storage.device)
        return found.set_(storage, self.offset, self.shape, self.stride)


class Lent:
    """Weights that somebody besides the model itself was given."""

    def __init__(self) -> None:
        self._known: dict[Slot, bytes] = {}
        self._given: dict[tuple[Slot, int], _Given] = {}
        self._out: set[Slot] = set()

    def give(self, slot: Slot, value: Tensor) -> None:
        """Note that somebody is given a weight, unless it is a module that runs."""
        if _is_running():
            return
        with torch.inference_mode(False), torch.no_grad():
            plain = value.detach()
            storage = plain.untyped_storage()
            key = slot, storage._cdata
            if key in self._given and slot in self._out:
                return
            self._purge()
            if slot not in self._known:
                self._known[slot] = _digest(plain)
            self._out.add(slot)
            place = tuple(plain.shape), tuple(plain.stride()), int(plain.storage_offset())
            self._given[key] = _Given(slot, _weak(storage), plain.dtype, *place)

    def brought_again(self, slot: Slot, value: Tensor) -> None:
        """See that a weight which somebody still holds is what it was.

        Raises:
            ModelError: it was changed.
        """
        if slot in self._known:
            self._check(slot, value)
            self._out.add(slot)

    def let_go(self, here: Mapping[Slot, Tensor]) -> None:
        """The same of weights that the model holds no longer.

        Raises:
            ModelError: one was changed.
        """
        out = [slot for slot in here if slot in self._out]
        self._out.difference_update(out)
        for slot in out:
            self._check(slot, here[slot])

    def check(self) -> None:
        """The same of all that are in memory still, be it in a view of them.

        Raises:
            ModelError: one was changed.
        """
        self._purge()
        with torch.inference_mode(False), torch.no_grad():
            for given in list(self._given.values()):
                value = given.numbers()
                if value is not None:
                    self._check(given.slot, value)

    def _check(self, slot: Slot, value: Tensor) -> None:
        if _digest(value) != self._known[slot]:
            raise ModelError(CHANGED.format(name=slot.name))

    def _purge(self) -> None:
        for key, given in list(self._given.items()):
            if given.storage.expired():  # type: ignore[no-untyped-call]
                del self._given[key]


def _weak(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _digest(value: Tensor) -> bytes:
    return digest({"": value})


def _is_running() -> bool:
    """Whether this is asked by a module that is called."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code in _RUNS:
            return True
    return False
