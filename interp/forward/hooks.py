"""Hooks that are taken away again, whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])
Hook = Callable[[Tensor], Tensor | None]
"""Gets an activation; returns its replacement, or None (it may have edited it in place)."""


def passing(fn: F) -> F:
    """Mark a hook as one that its instrument takes away again before anybody else runs the model.

    Such a hook does not make it another model (`Model.once`).
    """
    fn.momentary = True  # type: ignore[attr-defined]
    return fn


@contextlib.contextmanager
def hooked(hooks: Sequence[tuple[Any, Hook]], *, momentary: bool = True) -> Iterator[None]:
    """Place hooks on hook points, and take away these and no others.

    Args:
        momentary: whether only the caller runs the model meanwhile. Otherwise everything that runs
            it sees a model that must be tried anew (`Model.once`).
    """
    placed: list[tuple[Any, Any]] = []

    def adapt(fn: Hook) -> Callable[..., Tensor | None]:
        def adapted(value: Tensor, hook: object) -> Tensor | None:
            return fn(value)

        return passing(adapted) if momentary else adapted

    try:
        for point, fn in hooks:
            placed.append((point, point.add_hook(adapt(fn))))
        yield
    finally:
        for point, handle in placed:
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]


@contextlib.contextmanager
def unhooked(points: Iterable[Any]) -> Iterator[None]:
    """Inside, no hooks are on these hook points; afterwards all are again, in their order."""
    lifted = []
    try:
        for point in {id(point): point for point in points}.values():
            if point.fwd_hooks:
                lifted.append((point, point.fwd_hooks, dict(point._forward_hooks)))
                point.fwd_hooks = []
                point._forward_hooks.clear()
        yield
    finally:
        for point, handles, placed in lifted:
            point.fwd_hooks = handles
            point._forward_hooks.update(placed)
