"""Errors of making and measuring organisms."""

from __future__ import annotations

from cache.errors import ObverseError, StorageError

__all__ = ["ObverseError", "OrganismError", "StorageError"]


class OrganismError(ObverseError):
    """An organism cannot be trained as asked, or measured with these prompts."""
