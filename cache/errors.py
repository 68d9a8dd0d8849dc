"""The base of every error that Obverse raises on purpose.

The message of an `ObverseError` is one sentence that says what is wrong and what to do about it;
the command line and the explorer show it as it is, without a traceback.
"""

from __future__ import annotations


class ObverseError(Exception):
    """Something the user can put right; the message says how."""


class ArgumentError(ObverseError, TypeError):
    """A function was given something that it does not take."""


class StorageError(ObverseError):
    """A file or folder cannot be read or written."""


class GoneError(StorageError):
    """A shard is not there (any more): it was evicted, or taken for what a dead writer left."""


class DamageError(StorageError):
    """A stored file is not what was written; `ActivationStore.get` computes its rows again."""
