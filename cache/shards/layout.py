"""Where everything stands in a shard: a safetensors file whose data are aligned to pages.

The header, and so the whole layout, follows from what the shard holds (rows, sites, precision), so
it is computed, for the reader too, and never believed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cache.keys.space import SiteShape

__all__ = ["BLOCK", "OFFSETS", "PAGE", "TOKENS", "Field", "Layout", "bytes_per_token"]

PAGE = 4096
# Bytes that one checksum covers.
BLOCK = 1 << 20
# Tensors that make a shard readable on its own, by safetensors alone.
TOKENS = "tokens"
OFFSETS = "offsets"
_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_PADDING = "__padding."
_TAKEN = {TOKENS, OFFSETS, "__metadata__"}
_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "U8": 1}


@dataclass(frozen=True)
class Field:
    """A tensor in the file: its type in safetensors' words, its shape, its place in the file."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int

    @property
    def nbytes(self) -> int:
        size = _SIZES[self.code]
        for extent in self.shape:
            size *= extent
        return size

    @property
    def end(self) -> int:
        return self.begin + self.nbytes


@dataclass(frozen=True)
class Layout:
    """Header and fields of a shard.

    Attributes:
        header: the first bytes of the file, a multiple of a page.
        fields: by name: the sites, `tokens` (the ids of all rows) and `offsets` (where rows start).
        size: of the file, in bytes.
    """

    header: bytes
    fields: dict[str, Field]
    size: int

    @classmethod
    def of(cls, sites: Sequence[SiteShape], dtype: str, n_tokens: int, n_rows: int) -> Layout:
        """The layout of a shard with `n_rows` rows of `n_tokens` tokens together.

        Raises:
            ValueError: two sites have one name, or one that safetensors or this file needs.
        """
        names = {site.name for site in sites}
        if len(names) < len(sites) or names & _TAKEN or any(n.startswith(_PADDING) for n in names):
            raise ValueError(f"these cannot be the names of sites: {sorted(names)}")
        wanted = [(site.name, _CODES[dtype], (n_tokens, *site.width)) for site in sites]
        wanted += [(TOKENS, "I32", (n_tokens,)), (OFFSETS, "I64", (n_rows + 1,))]
        entries: list[Field] = []
        place = 0
        for name, code, shape in wanted:
            gap = -place % PAGE
            if gap:
                # safetensors allows no holes; what fills them is a tensor of its own.
                entries.append(Field(f"{_PADDING}{len(entries)}", "U8", (gap,), place))
            entries.append(Field(name, code, shape, place + gap))
            place = entries[-1].end
        header = _header(entries)
        shift = len(header)
        fields = {
            entry.name: Field(entry.name, entry.code, entry.shape, entry.begin + shift)
            for entry in entries
            if not entry.name.startswith(_PADDING)
        }
        return cls(header, fields, shift + place)

    @property
    def n_blocks(self) -> int:
        return -(-self.size // BLOCK)


def bytes_per_token(sites: Sequence[SiteShape], itemsize: int) -> int:
    """Bytes that one token takes in a shard, without padding and header."""
    return sum(site.numbers for site in sites) * itemsize + _SIZES["I32"]


def _header(entries: Sequence[Field]) -> bytes:
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for entry in entries:
        described[entry.name] = {
            "dtype": entry.code,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = json.dumps(described, separators=(",", ":")).encode()
    # Spaces after the JSON are allowed, and align the data that follow.
    text += b" " * (-(len(text) + 8) % PAGE)
    return struct.pack("<Q", len(text)) + text
