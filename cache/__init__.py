"""Activations on disk, and files that are wholly there or not at all. Knows nothing of models.

Importing this package does no work: the names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.store import ActivationStore as ActivationStore

_HOMES = {"ActivationStore": "cache.store"}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cache' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
