"""Where things stand in a shard, told independently of the code that places them."""

from __future__ import annotations

import itertools
import json
import struct

import pytest

from cache.keys.space import SiteShape
from cache.shards.layout import OFFSETS, TOKENS, Layout, bytes_per_token

SITES = [SiteShape("a", (3,)), SiteShape("b", (2, 5))]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_a_header_that_describes_the_whole_file(dtype: str, size: int) -> None:
    layout = Layout.of(SITES, dtype, 1000, 7)
    (length,) = struct.unpack("<Q", layout.header[:8])
    assert length + 8 == len(layout.header)
    described = json.loads(layout.header[8:])
    assert described.pop("__metadata__") == {"format": "pt"}
    places = sorted(entry["data_offsets"] for entry in described.values())
    # No holes and no overlaps, from the header to the end.
    assert places[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(places))
    assert len(layout.header) + places[-1][1] == layout.size
    right = {
        "a": ([1000, 3], 3000 * size),
        "b": ([1000, 2, 5], 10_000 * size),
        TOKENS: ([1000], 4000),
        OFFSETS: ([8], 64),
    }
    for name, (shape, n_bytes) in right.items():
        begin, end = described[name]["data_offsets"]
        assert described[name]["shape"] == shape == list(layout.fields[name].shape)
        assert end - begin == n_bytes == layout.fields[name].nbytes
        assert begin + len(layout.header) == layout.fields[name].begin
        assert layout.fields[name].begin % 4096 == 0


def test_equal_contents_have_equal_layouts() -> None:
    assert Layout.of(SITES, "float32", 10, 2) == Layout.of(list(SITES), "float32", 10, 2)
    assert Layout.of(SITES, "float32", 10, 2) != Layout.of(SITES, "float32", 10, 3)
    assert Layout.of(SITES, "float32", 10, 2) != Layout.of(SITES[::-1], "float32", 10, 2)


def test_bytes_of_a_token() -> None:
    assert bytes_per_token(SITES, 2) == (3 + 10) * 2 + 4


def test_blocks_cover_the_last_part_of_a_mebibyte() -> None:
    site = [SiteShape("a", (256,))]
    for n_tokens in (1, 1000, 1024, 5000):
        layout = Layout.of(site, "float32", n_tokens, 1)
        assert (layout.n_blocks - 1) * 2**20 < layout.size <= layout.n_blocks * 2**20
