"""The index of a store with a million shards: how large, how fast, and what eviction costs.

Shards are made up (no activations are written), but the index is the real one, and so are the
sidecars that are decoded and written: as in a store of a 70B model's residual stream, each shard
holds 4 rows of 1,024 tokens at 4 layers, 8,192 wide, in bfloat16 (256 MiB).

    python -m benchmarks.scale [--shards 1000000] [--sidecars 5000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks._common import describe_machine
from cache.files import write_atomic
from cache.index.queries import Index
from cache.keys.space import SiteShape, Space
from cache.shards.layout import Layout
from cache.shards.sidecar import DIGEST, Sidecar

ROWS, TOKENS, WIDTH = 4, 1024, 8192
SITES = tuple(SiteShape(f"resid_post.{layer}", (WIDTH,)) for layer in (20, 40, 60, 79))
SPACE = Space("7" * 32, "bfloat16", "8" * 32, "bos, padded on the right", "70B")
AT_ONCE = 1000  # shards entered in one transaction

T = TypeVar("T")


def sidecar(number: int) -> Sidecar:
    """The made-up shard of this number."""
    lengths = np.full(ROWS, TOKENS, dtype=np.int64)
    layout = Layout.of(SITES, "bfloat16", ROWS * TOKENS, ROWS)
    keys = b"".join(key(number, row) for row in range(ROWS))
    blocks = bytes(DIGEST) * layout.n_blocks
    name = f"{number >> 24:016x}-{number & 0xFFFFFF:06x}"
    return Sidecar(name, SPACE, SITES, lengths, keys, blocks, float(number))


def key(number: int, row: int) -> bytes:
    return hashlib.blake2b(f"{number}/{row}".encode(), digest_size=16).digest()


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def batches(first: int, beyond: int) -> Iterator[list[tuple[Sidecar, int]]]:
    for start in range(first, beyond, AT_ONCE):
        yield [
            (one, one.layout.size + 12_000)
            for one in (sidecar(number) for number in range(start, min(beyond, start + AT_ONCE)))
        ]


def measure_index(shards: int, folder: Path) -> list[tuple[str, str]]:
    """Fill an index, look things up, and evict."""
    path = folder / "index.sqlite"
    entering = 0.0
    index = Index.make(path, [])
    for batch in batches(0, shards):
        entering += timed(lambda batch=batch: index.add(batch))[0]  # type: ignore[misc]
    rng = np.random.default_rng(0)
    picks = [(int(n), int(r)) for n, r in rng.integers(0, (shards, ROWS), (5000, 2))]
    wanted = [key(number, row) for number, row in picks]
    index.find(wanted[:10], ["resid_post.40"])
    finding, found = timed(lambda: index.find(wanted, ["resid_post.40"]))
    assert len(found["resid_post.40"]) == len(set(wanted))
    single, _ = timed(lambda: [index.find([one], ["resid_post.40"]) for one in wanted[:200]])
    summing, total = timed(index.total)
    assert total > shards * (1 << 28)
    choosing, oldest = timed(lambda: index.oldest(1000))
    evicting, _ = timed(lambda: index.forget([entry.shard for entry in oldest]))
    (one_more,) = batches(shards, shards + 1)
    adding, _ = timed(lambda: index.add(one_more))
    opening, _ = timed(lambda: Index(path, None).check_quickly())
    listing, usage = timed(index.usage)
    assert sum(entry.rows for entry in usage) > 0
    return [
        ("size of the index", f"{path.stat().st_size / 1e9:.2f} GB"),
        ("entering a shard, 1,000 at a time", f"{entering / shards * 1e6:,.0f} µs"),
        ("entering one more shard", f"{adding * 1e3:.1f} ms"),
        ("opening", f"{opening * 1e3:.1f} ms"),
        ("finding a row, 500 at a time", f"{finding / len(wanted) * 1e6:,.1f} µs"),
        ("finding a single row", f"{single / 200 * 1e6:,.0f} µs"),
        ("the sum of all bytes (asked before every shard)", f"{summing * 1e3:.1f} ms"),
        ("choosing 1,000 shards to evict", f"{choosing * 1e3:.1f} ms"),
        ("dropping them from the index", f"{evicting * 1e3:,.0f} ms"),
        ("`obverse cache ls`", f"{listing:.1f} s"),
    ]


def measure_sidecars(count: int, shards: int, folder: Path) -> list[tuple[str, str]]:
    """Write and read sidecars; what a rebuild of the index would take follows from it."""
    encoded = [sidecar(number).encode() for number in range(count)]
    paths = [folder / f"{number:08x}.json" for number in range(count)]
    writing, _ = timed(lambda: [write_atomic(p, e) for p, e in zip(paths, encoded, strict=True)])
    reading, _ = timed(lambda: [Sidecar.decode(path.read_bytes()) for path in paths])
    size = len(encoded[0])
    return [
        ("a sidecar", f"{size / 1e3:.1f} kB; {size * shards / 1e9:.1f} GB for all"),
        ("writing a sidecar (flush and rename)", f"{writing / count * 1e6:,.0f} µs"),
        ("reading and checking one", f"{reading / count * 1e6:,.0f} µs"),
        ("reading all, as a rebuild does", f"{reading / count * shards / 60:,.1f} min (scaled up)"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--sidecars", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    print(f"{describe_machine('cpu')}\n")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = measure_index(asked.shards, Path(folder))
        rows += measure_sidecars(asked.sidecars, asked.shards, Path(folder))
    print(f"| {asked.shards:,} shards, {asked.shards * ROWS:,} rows | |")
    print("|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    print(f"\nMost memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB.")


if __name__ == "__main__":
    main()
