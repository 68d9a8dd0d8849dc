"""Errors of studies and runs. Each message is one sentence: what is wrong, and what to do."""

from __future__ import annotations

from cache.errors import ObverseError, StorageError

__all__ = ["FactsError", "ObverseError", "RunError", "StorageError", "StudyError"]


class StudyError(ObverseError):
    """A study, a preset or a setting of it does not exist."""


class FactsError(ObverseError):
    """A file of facts or templates cannot be used."""


class RunError(ObverseError):
    """A run directory is foreign, damaged, in use, or holds another run."""
