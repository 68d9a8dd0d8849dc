"""The activation store against other ways to keep the same vectors on a disk.

A plain file mapped by NumPy, LMDB, tensorstore and zarr 3 (both with sharding; chunks of a prompt,
and of a few vectors), and for training litdata and MosaicML Streaming. Vectors of 768 bfloat16
numbers, in prompts of 256. In each round every store is measured in turn, alone in the page cache;
figures are medians over the rounds, and ratios are medians of the ratios within a round, above 1
where Obverse takes less time. That all give the same numbers is checked.

"Cold" files are not in this system's page cache and the store is opened anew; "anew" is opened anew
with all files in the page cache (Obverse compares checksums then, as it does when cold); "again" is
the same open store once more.

    python -m benchmarks.store_peers [--prompts 4096] [--rounds 3] [--folder DIR] [--only LMDB]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks._common import build, describe_machine
from benchmarks._stores import FILE, Bits, Ours, Store
from benchmarks._streams import EVERY, installed
from benchmarks.cache import WIDTH

LENGTH, SHORT = 256, 8  # tokens of a prompt, and of a short one
BATCH = 4096
SEVERAL = 64
ADDED = 100
PATIENCE = 0.4  # seconds that single reads are repeated for
STREAMED = 1 << 16  # vectors after which a stream is fast or slow
MOST = 2000

Found = dict[str, dict[str, list[float]]]
"""{store: {measure: [round]}}; what is not measured is missing."""


def vectors(count: int) -> Bits:
    """Made-up ones [vector, number]; as in a model, some dimensions are larger than others."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.randn(WIDTH, generator=generator).exp()
    made = torch.empty(count, WIDTH, dtype=torch.bfloat16)
    for part in made.split(FILE):
        part.copy_(torch.randn(part.shape, generator=generator) * scale)
    bits: Bits = made.view(torch.int16).numpy()
    return bits


def seconds(work: Callable[..., Any], *given: Any) -> float:
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def each(work: Callable[[int], Any], numbers: Iterable[int]) -> float:
    """Seconds of one call, over as many as patience allows."""
    start, done = time.perf_counter(), 0
    for number in numbers:
        work(number)
        done += 1
        if time.perf_counter() - start > PATIENCE:
            break
    return (time.perf_counter() - start) / done


# -- files --------------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def flush(folder: Path) -> None:
    """All files and folders to the disk."""
    for path in [*files(folder), *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def taken(folder: Path) -> int:
    """Bytes on the disk, without holes."""
    return sum(path.stat().st_blocks * 512 for path in files(folder))


def forget(folder: Path) -> bool:
    """Put a folder's files out of the page cache; whether they are."""
    gc.collect()
    flush(folder)
    for path in files(folder):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sum(map(cached, files(folder))) * mmap.PAGESIZE < 0.01 * taken(folder)


def cached(path: Path) -> int:
    """How many pages of a file are in the page cache."""
    if not path.stat().st_size:
        return 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        size = len(content)
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        view = np.frombuffer(content, np.uint8)
        address = view.ctypes.data
        ctypes.CDLL(None).mincore(
            ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
        )
        del view
        return int((pages & 1).sum())


# -- what is measured ---------------------------------------------------------------------------


def measure_writing(
    kinds: list[type[Store]], bits: Bits, length: int, rounds: int, folder: Path
) -> Found:
    found: Found = {kind.name: {"write": [], "durable": [], "size": []} for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            store = kind(folder / kind.__name__, bits.shape, length)
            written = seconds(store.write, bits)
            durable = written + seconds(flush, store.folder)
            of_this = {"write": written, "durable": durable, "size": taken(store.folder)}
            for measure, value in of_this.items():
                found[kind.name][measure].append(value)
            del store
            gc.collect()
            shutil.rmtree(folder / kind.__name__)
    return found


def measure_reading(stores: list[Store], bits: Bits, rounds: int) -> Found:
    out = np.zeros_like(bits)
    found: Found = {store.name: {} for store in stores}
    for turn in range(rounds):
        for store in stores:
            rng = np.random.default_rng(turn)
            of_this = read_by_number(store, bits, out, rng) if store.random else {}
            of_this |= read_stream(store)
            for measure, value in of_this.items():
                found[store.name].setdefault(measure, []).append(value)
            forget(store.folder)
    return found


def read_by_number(
    store: Store, bits: Bits, out: Bits, rng: np.random.Generator
) -> dict[str, float]:
    one, many = np.empty((LENGTH, WIDTH), np.int16), np.empty((SEVERAL, LENGTH, WIDTH), np.int16)
    found: dict[str, float] = {}

    def anew(*, cold: bool) -> None:
        store.close()
        if cold and not forget(store.folder):
            print(f"{store.name} is still in the page cache.")
        store.open()

    def single(measure: str) -> None:
        picks = rng.integers(0, len(bits), MOST).tolist()
        assert np.array_equal(store.vector(picks[0]), bits[picks[0]]), store.name
        found[f"vector, {measure}"] = each(store.vector, picks)

    def batched(measure: str, most: int) -> None:
        picks = [np.unique(rng.integers(0, len(bits), 2 * BATCH)) for _ in range(most)]
        chosen = [rng.permutation(pick)[:BATCH] for pick in picks]
        store.vector(0)
        found[f"batch, {measure}"] = each(lambda i: store.batch(chosen[i]), range(most))
        assert np.array_equal(store.batch(chosen[0]), bits[chosen[0]]), store.name

    def prompts(measure: str) -> None:
        picks = rng.integers(0, store.prompts, MOST).tolist()
        found[f"prompt, {measure}"] = each(lambda number: store.prompt(number, one), picks)
        store.prompt(picks[0], one)
        assert np.array_equal(one, bits.reshape(-1, LENGTH, WIDTH)[picks[0]]), store.name

    forget(store.folder)
    found["in order, cold"] = seconds(store.open) + seconds(store.sequential, out)
    assert np.array_equal(out, bits), store.name
    anew(cold=False)
    found["in order, anew"] = seconds(store.sequential, out)
    found["in order, again"] = seconds(store.sequential, out)
    single("again")
    batched("again", 4)
    prompts("again")
    chosen = rng.integers(0, store.prompts, SEVERAL).tolist()
    found["several, again"] = each(lambda _: store.several(chosen, many), range(20))
    anew(cold=True)
    single("cold")
    anew(cold=True)
    batched("cold", 1)
    anew(cold=True)
    prompts("cold")
    store.close()
    return found


def read_stream(store: Store) -> dict[str, float]:
    """Seconds for each vector of shuffled batches: cold, and again."""
    found = {}
    for measure in ("cold", "again"):
        # Some keep files mapped when they are done; then this was no cold start.
        right = measure != "cold" or forget(store.folder)
        store.open()
        start, received = time.perf_counter(), 0
        if (batches := store.stream(BATCH, STREAMED)) is not None:
            for batch in batches:
                received += len(batch)
            taken_each = (time.perf_counter() - start) / received
            found[f"stream, {measure}"] = taken_each if right else math.nan
        del batches
        store.close()
    return found


def measure_short(stores: list[Store], bits: Bits, rounds: int) -> Found:
    """Many short prompts: all at once, one at a time, and added one by one."""
    out, one = np.zeros_like(bits), np.empty((SHORT, WIDTH), np.int16)
    found: Found = {store.name: {} for store in stores}
    for turn in range(rounds):
        picks = np.random.default_rng(turn).integers(0, stores[0].prompts, MOST).tolist()
        for store in stores:
            of_this = {"write": seconds(store.write, bits) + seconds(flush, store.folder)}
            of_this["size"] = float(taken(store.folder))
            store.open()
            of_this["all"] = seconds(store.sequential, out)
            assert np.array_equal(out, bits), store.name
            of_this["one"] = each(partial(store.prompt, out=one), picks)
            store.close()
            shutil.rmtree(store.folder)
            if store.keyed:
                of_this["add"] = seconds(store.add, bits, range(ADDED)) / ADDED
                of_this["added"] = taken(store.folder) / ADDED
                shutil.rmtree(store.folder)
            for measure, value in of_this.items():
                found[store.name].setdefault(measure, []).append(value)
    return found


# -- what is printed ----------------------------------------------------------------------------


def table(title: str, found: Found, columns: dict[str, tuple[str, Callable[[float], str]]]) -> None:
    """A line for each store; ratios to Obverse in brackets.

    Args:
        columns: {measure: (heading, how its median is written)}.
    """
    print(f"\n| {title} | {' | '.join(heading for heading, _ in columns.values())} |")
    print("|---" * (len(columns) + 1) + "|")
    ours = found[Ours.name]
    for name, measures in found.items():
        cells = []
        for measure, (_, written) in columns.items():
            values = measures.get(measure, [])
            pairs = [pair for pair in zip(values, ours[measure], strict=False) if pair[0] > 0]
            if not pairs:
                cells.append("")
                continue
            cell = written(median(value for value, _ in pairs))
            if name != Ours.name:
                ratio = median(value / of_ours for value, of_ours in pairs)
                cell += f" ({ratio:.2g}×)" if ratio < 10 else f" ({ratio:,.0f}×)"
            cells.append(cell)
        if any(cells):
            print(f"| {name} | {' | '.join(cells)} |")


def rate(size: int) -> Callable[[float], str]:
    return lambda value: f"{size / value / 1e9:.2g} GB/s"


def small(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:,.0f} µs"
    return f"{value * 1e3:,.1f} ms" if value < 0.1 else f"{value:,.2f} s"


def share(size: int) -> Callable[[float], str]:
    return lambda value: f"{value / size:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=4096, help="a multiple of 512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names")
    asked = parser.parse_args()
    wanted = [
        kind for kind in EVERY if not asked.only or any(part in kind.name for part in asked.only)
    ]
    kinds = [kind for kind in dict.fromkeys([Ours, *wanted]) if installed(kind)]
    # Loading a model has the C library keep freed memory, for both sides.
    build(1, "cpu", torch.bfloat16, width=64, heads=4)
    bits = vectors(asked.prompts * LENGTH)
    start = time.perf_counter()
    print(f"{describe_machine('cpu')}, load {os.getloadavg()[0]:.2f} before")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        part = bits[: len(bits) // 4]
        written = measure_writing(kinds, part, LENGTH, asked.rounds, folder)
        stores = []
        for kind in kinds:
            # What is slow and read as a stream alone need not hold as much.
            held = bits if kind.random else part
            stores.append(kind(folder / kind.__name__, held.shape, LENGTH))
            stores[-1].write(held)
            forget(stores[-1].folder)
        read = measure_reading(stores, bits, asked.rounds)
        for store in stores:
            shutil.rmtree(store.folder)
        few = bits[: 2 * FILE]
        short = measure_short(
            [kind(folder / kind.__name__, few.shape, SHORT) for kind in kinds if kind.random],
            few,
            asked.rounds,
        )
    report(written, read, short, (part.nbytes, bits.nbytes, few.nbytes))
    print(f"\nLoad {os.getloadavg()[0]:.2f} after, {time.perf_counter() - start:.0f} s in all.")


def report(written: Found, read: Found, short: Found, sizes: tuple[int, int, int]) -> None:
    part, size, few = sizes
    columns = {
        "write": ("written", rate(part)),
        "durable": ("on the disk", rate(part)),
        "size": ("bytes for each byte", share(part)),
    }
    table(f"{part / 1e9:.2f} GB", written, columns)
    states = ("cold", "anew", "again")
    columns = {f"in order, {state}": (f"in order, {state}", rate(size)) for state in states}
    table(f"{size / 1e9:.2f} GB", read, columns)
    kinds_of = {"vector": "one vector", "batch": f"{BATCH:,} vectors", "prompt": "one prompt"}
    columns = {
        f"{kind}, {state}": (f"{heading}, {state}", small)
        for kind, heading in kinds_of.items()
        for state in ("cold", "again")
    }
    columns["several, again"] = (f"{SEVERAL} prompts, again", small)
    table("at random", read, columns)
    columns = {f"stream, {state}": (state, rate(WIDTH * 2)) for state in ("cold", "again")}
    table(f"shuffled batches of {BATCH:,}", read, columns)
    columns = {
        "write": ("all at once, on the disk", rate(few)),
        "size": ("bytes for each byte", share(few)),
        "all": ("all read", rate(few)),
        "one": ("one read", small),
        "add": ("one added, on the disk", small),
        "added": ("bytes for each byte", share(SHORT * WIDTH * 2)),
    }
    table(f"{few // (SHORT * WIDTH * 2):,} prompts of {SHORT} tokens", short, columns)


if __name__ == "__main__":
    main()
