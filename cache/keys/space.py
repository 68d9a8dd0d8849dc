"""What an activation is of: model, precision, tokenizer and token ids name it, nothing else.

A row is one prompt. Its key does not depend on the batch it was run in, on padding, or on the data
set that it came from, so that two data sets which share a prompt share its activations.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["DTYPES", "KEY", "Ids", "SiteShape", "Space", "dtype_name"]

Ids = npt.NDArray[np.int32]
"""The token ids of one row [token]."""

KEY = 16
"""Bytes of a row's key."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def dtype_name(written: str) -> str:
    """ "bfloat16" for "bf16", and so on; what is unknown comes back as it was."""
    return _SHORT.get(written, written)


@dataclass(frozen=True)
class SiteShape:
    """A site's name, such as "resid_post.3", and the shape of its activation for one token."""

    name: str
    width: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """Numbers for one token."""
        return int(np.prod(self.width, dtype=np.int64))


@dataclass(frozen=True)
class Space:
    """Everything but site and tokens that decides what an activation is.

    Attributes:
        model: fingerprint of the weights and configuration (with what was done to them).
        dtype: what the activations are stored in: "float32", "float16" or "bfloat16".
        tokenizer: fingerprint of the tokenizer.
        policy: whether a BOS token comes first, and on which side is padded.
        label: the model's name, for people; not a part of the identity.
    """

    model: str
    dtype: str
    tokenizer: str
    policy: str
    label: str = dataclasses.field(default="", compare=False)

    @functools.cached_property
    def id(self) -> str:
        """32 hexadecimal digits that name this space."""
        identity = [self.model, self.dtype, self.tokenizer, self.policy]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return self.torch_dtype.itemsize

    def key(self, ids: Ids) -> bytes:
        """The name of a row: 16 bytes that depend on the space and the token ids alone."""
        content = np.ascontiguousarray(ids, dtype="<i4").tobytes()
        return hashlib.blake2b(content, digest_size=KEY, key=bytes.fromhex(self.id)).digest()

    def keys(self, rows: Sequence[Ids]) -> list[bytes]:
        return [self.key(ids) for ids in rows]

    def to_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)
