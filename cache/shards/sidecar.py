"""The sidecar of a shard: what the shard holds, and the checksum of every MiB of it.

It is written last and is the truth: a shard without a sidecar was never committed. It is read
strictly. Everything in it is bounded by its own size, nothing is evaluated, and a single changed
byte is noticed.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xxhash

from cache.errors import DamageError
from cache.keys.space import DTYPES, KEY, SiteShape, Space
from cache.shards.layout import BLOCK, PAGE, Layout

__all__ = [
    "DIGEST",
    "MOST_BYTES",
    "Sidecar",
    "digest",
    "is_shard",
    "most_bytes",
    "read_space",
    "seal_json",
]

DIGEST = 16  # bytes of an xxh3-128
_FORMAT = "obverse-activations-1"
MOST_BYTES = 16 << 20
_MOST_TOKENS = 1 << 40
_MOST_WIDTH = 1 << 32
_ID = re.compile(r"[0-9a-f]{16}-[0-9a-f]{6}")
_SPACE = {"model", "dtype", "tokenizer", "policy", "label"}
_BODY = {"format", "id", "space", "sites", "lengths", "keys", "blocks", "created"}


def digest(data: Any) -> bytes:
    """The checksum of some bytes: 128 bits of xxh3."""
    return xxhash.xxh3_128_digest(data)


@dataclass(frozen=True)
class Sidecar:
    """What a committed shard holds.

    Attributes:
        id: names the shard's files.
        space: what its activations are of.
        sites: in the order of the file.
        lengths: tokens of each row [row].
        keys: the rows' keys, 16 bytes each, one after the other.
        blocks: the checksums of the file's MiBs, 16 bytes each, one after the other.
        created: seconds since 1970.
    """

    id: str
    space: Space
    sites: tuple[SiteShape, ...]
    lengths: npt.NDArray[np.int64]
    keys: bytes
    blocks: bytes
    created: float

    @cached_property
    def layout(self) -> Layout:
        n_tokens = int(self.lengths.sum())
        return Layout.of(self.sites, self.space.dtype, n_tokens, len(self.lengths))

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each row starts, in tokens, and where the last one ends [row + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    @cached_property
    def content(self) -> bytes:
        """Names the rows and their order [16 bytes]: alike for another file of the same rows."""
        return digest(self.keys + self.lengths.astype("<i8").tobytes())

    @property
    def n_rows(self) -> int:
        return len(self.lengths)

    def key(self, row: int) -> bytes:
        return self.keys[row * KEY : (row + 1) * KEY]

    def row_keys(self, first: int = 0, beyond: int | None = None) -> list[bytes]:
        """The keys of rows `first` to `beyond`, of those that there are."""
        rows = range(self.n_rows)[first:beyond]
        return [self.key(row) for row in rows]

    def encode(self) -> bytes:
        """As one line of JSON, with a checksum of itself."""
        body = {
            "format": _FORMAT,
            "id": self.id,
            "space": self.space.to_dict(),
            "sites": [[site.name, list(site.width)] for site in self.sites],
            "lengths": self.lengths.tolist(),
            "keys": base64.b64encode(self.keys).decode(),
            "blocks": base64.b64encode(self.blocks).decode(),
            "created": self.created,
        }
        return seal_json(body)

    @classmethod
    def decode(cls, content: bytes) -> Sidecar:
        """Read what `encode` wrote.

        Raises:
            DamageError: it is anything else.
        """
        if len(content) > MOST_BYTES:
            raise DamageError(f"the sidecar is larger than {MOST_BYTES >> 20} MiB")
        try:
            body = json.loads(content)["body"]
            sealed = seal_json(body)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamageError("the sidecar is not what was written") from error
        # The same content has one spelling only, so that no changed byte goes unnoticed.
        if sealed != content or not isinstance(body, dict) or set(body) != _BODY:
            raise DamageError("the sidecar is not what was written")
        try:
            return _read(body)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise DamageError("the sidecar does not describe a shard") from error


def most_bytes(
    space: Space, sites: Sequence[SiteShape], lengths: Sequence[int], n_blocks: int
) -> int:
    """Bytes that the sidecar of a shard will take, or a few more, before the shard is made."""
    blank = Sidecar(
        f"{0:016x}-{0:06x}",
        space,
        tuple(sites),
        np.array(lengths, dtype=np.int64),
        bytes(KEY * len(lengths)),
        bytes(DIGEST * n_blocks),
        # A time has no more digits than this.
        -0.12345678901234567e-100,
    )
    return len(blank.encode())


def is_shard(name: Any) -> bool:
    """Whether it is the id of a shard, and so nothing that leads elsewhere as part of a path."""
    return isinstance(name, str) and bool(_ID.fullmatch(name))


def read_space(described: Any) -> Space:
    """A space from what `Space.to_dict` gave.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(described, dict) or set(described) != _SPACE:
        raise ValueError("space")
    space = Space(**{name: _text(value) for name, value in described.items()})
    if space.dtype not in DTYPES:
        raise ValueError("dtype")
    return space


def seal_json(body: Any) -> bytes:
    """A value as one line of JSON, in its only spelling, with a checksum.

    Raises:
        ValueError, TypeError: it has no JSON.
    """
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f'{{"body":{text},"xxh3":"{digest(text.encode()).hex()}"}}\n'.encode()


def _read(body: Mapping[str, Any]) -> Sidecar:
    if body["format"] != _FORMAT:
        raise ValueError("another format")
    if not is_shard(body["id"]):
        raise ValueError("no id")
    lengths = np.array(_whole_numbers(body["lengths"], _MOST_TOKENS), dtype=np.int64)
    keys = base64.b64decode(body["keys"], validate=True)
    blocks = base64.b64decode(body["blocks"], validate=True)
    if len(keys) != KEY * len(lengths) or len(lengths) == 0:
        raise ValueError("not a key for each row")
    if int(lengths.sum(dtype=np.float64)) > _MOST_TOKENS:
        raise ValueError("too many tokens")
    sites = tuple(
        SiteShape(_text(name), tuple(_whole_numbers(width, _MOST_WIDTH)))
        for name, width in body["sites"]
    )
    if not sites or any(not _fits(site) for site in sites):
        raise ValueError("sites")
    if len({keys[at : at + KEY] for at in range(0, len(keys), KEY)}) != len(lengths):
        raise ValueError("a row twice")
    if type(body["created"]) is not float:
        raise ValueError("a time")
    sidecar = Sidecar(
        body["id"],
        read_space(body["space"]),
        sites,
        lengths,
        keys,
        blocks,
        body["created"],
    )
    if len(blocks) != DIGEST * sidecar.layout.n_blocks:
        raise ValueError("not a checksum for each block")
    return sidecar


def _fits(site: SiteShape) -> bool:
    return len(site.width) <= 4 and math.prod(site.width) <= _MOST_WIDTH


def _whole_numbers(values: Any, most: int) -> list[int]:
    if not isinstance(values, list):
        raise ValueError("a list of numbers")
    if not all(type(value) is int and 1 <= value <= most for value in values):
        raise ValueError("a whole number")
    return cast("list[int]", values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    value.encode()  # half a surrogate pair is no text
    return value


assert BLOCK % PAGE == 0
