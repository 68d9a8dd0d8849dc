"""How much memory tensors take at most, counted as they are made and let go."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class PeakMemory(TorchDispatchMode):
    """Inside, counts the bytes of all tensors that were made there and are still alive.

    Unlike the memory of the process, the count is the same in every run. What an operation takes
    for itself while it works is not in it.

    Attributes:
        now: bytes alive.
        peak: the most that `now` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {_key(t) for t in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            key = _key(tensor)
            if key not in given and key not in self._alive:  # neither a view nor in place
                self._count(key, tensor.untyped_storage())
        return out

    def _count(self, key: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def gone(_: object) -> None:
            self._alive.pop(key, None)
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
