"""The activation store: writing against not writing, reading against raw files and other formats.

Harvest: GPT-2-small shape (12 layers, 768 wide, random weights), all residual streams, bfloat16,
against the same forward pass that keeps nothing. Reading: the same vectors in the store, in Hugging
Face `datasets` (Arrow) and in zarr (uncompressed chunks), everything in the page cache; that all
give the same numbers is checked. The others have no bfloat16, so they store its bits as integers.

    python -m benchmarks.cache [--tokens 16384] [--vectors 400000] [--folder DIR] [--ray]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks._common import build, describe_machine, timed
from cache import ActivationStore
from cache.index.queries import Index
from cache.keys.space import Ids, SiteShape, Space
from cache.shards.writer import DATA, shard_path
from interp.execute import Executor, Workers
from interp.forward.passes import observe
from interp.forward.source import rows_at_once
from interp.harvest import harvest
from interp.model.model import Model
from interp.sites import Site

WIDTH = 768
ROW = 256  # tokens
SITE = "resid_post.0"
READS = 5000
TURNS = 5
_STEP = 300  # between the first token ids of two rows, so that no two rows are alike


class Vectors:
    """A source of random vectors, so that reading is timed without a model."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        generator = torch.Generator().manual_seed(0)
        self.values = torch.randn(rows * ROW, WIDTH, generator=generator).bfloat16()

    def space(self, dtype: str | None = None) -> Space:
        return Space("0" * 32, dtype or "bfloat16", "none", "none", "random")

    def rows(self, _: Any) -> Sequence[Ids]:
        return [np.arange(ROW, dtype=np.int32) + _STEP * row for row in range(self._rows)]

    def sites(self, _: Any) -> Sequence[SiteShape]:
        return [SiteShape(SITE, (WIDTH,))]

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for ids in rows:
            row = int(ids[0]) // _STEP
            yield 1, {SITE: self.values[row * ROW : (row + 1) * ROW]}


def corpus(tokens: int, words: int = 50_000) -> list[str]:
    """Documents of numbered words, for the benchmarks' tokenizer."""
    rng = np.random.default_rng(0)
    return [
        " ".join(f"w{i}" for i in rng.integers(1, words, ROW - 1)) for _ in range(tokens // ROW)
    ]


class Harvested(NamedTuple):
    """Seconds of each turn, and bytes written for each byte of activations.

    Attributes:
        plain: the forward pass alone.
        files: that, and plain files written.
        stored: the harvest.
    """

    plain: list[float]
    files: list[float]
    stored: list[float]
    written: float


def harvested(
    model: Model, tokens: int, folder: Path, sites: Sequence[Site], turns: int
) -> Harvested:
    """Store a corpus, and run it without storing, in turns."""
    texts, device = corpus(tokens, min(50_000, model.d_vocab)), str(model.device)
    rows = [[0, *(int(word[1:]) for word in text.split())] for text in texts]
    ids = torch.tensor(rows)
    size = rows_at_once(model, ROW, sites)
    deepest = max(sites, key=lambda site: site.layer)

    def forward() -> None:
        # Keeps one stream of a batch at a time.
        for start in range(0, len(ids), size):
            observe(model, ids[start : start + size], [deepest])

    def forward_and_write(files: Path) -> None:
        """The least that storing takes: each stream into a file of its own, and to the disk."""
        files.mkdir()
        with ExitStack() as opened:
            streams = [opened.enter_context(open(files / str(site), "wb")) for site in sites]
            for start in range(0, len(ids), size):
                found = observe(model, ids[start : start + size], sites)
                for site, stream in zip(sites, streams, strict=True):
                    stream.write(found[site].cpu().reshape(-1).view(torch.uint8).numpy())
            for stream in streams:
                stream.flush()
                os.fsync(stream.fileno())

    taken = Harvested([], [], [], 0.0)
    forward()
    for turn in range(turns):
        taken.plain.append(timed(forward, 1, device)[0])
        files = folder / f"files-{turn}"
        taken.files.append(timed(partial(forward_and_write, files), 1, device)[0])
        shutil.rmtree(files)
        with ActivationStore(folder / f"harvest-{turn}", floor=0) as store:
            before = bytes_written()
            start = time.perf_counter()
            done = harvest(model, texts, sites, store, context=ROW)
            taken.stored.append(time.perf_counter() - start)
            written = bytes_written() - before
            assert done.computed == tokens // ROW * ROW
        shutil.rmtree(folder / f"harvest-{turn}")
        taken = taken._replace(written=written / done.bytes)
    return taken


def harvest_rows(taken: Harvested, tokens: int) -> list[list[str]]:
    """The lines of the table: tokens a second, best and median, and the same to the first line."""
    sides = {
        "forward pass alone": taken.plain,
        "forward pass, and plain files written": taken.files,
        "harvest to disk": taken.stored,
    }
    lines = []
    for name, seconds in sides.items():
        best, usual = min(taken.plain) / min(seconds), median(taken.plain) / median(seconds)
        rates = f"{tokens / min(seconds):,.0f} ({tokens / median(seconds):,.0f})"
        lines.append([name, rates, f"{best:.2f} of the first ({usual:.2f})"])
    return [*lines, ["bytes written for each byte of activations", f"{taken.written:.3f}", ""]]


def time_harvest(model: Model, tokens: int, folder: Path) -> None:
    """Print what storing all residual streams costs."""
    sites = [Site("resid_pre", 0), *(Site("resid_post", i) for i in range(model.n_layers))]
    taken = harvested(model, tokens, folder, sites, TURNS)
    print(f"| {len(sites)} streams, {tokens:,} tokens, best of {TURNS} (median) | tokens/s | |")
    print("|---|---|---|")
    for cells in harvest_rows(taken, tokens):
        print(f"| {' | '.join(cells)} |")
    print()


def bytes_written() -> int:
    """Bytes that this process has handed to the system to write."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar")).split()[1])


def time_reads(model: Model, vectors: int, folder: Path) -> None:
    """Read the same vectors from the store, from raw files, from Arrow and from zarr."""
    source = Vectors(vectors // ROW)
    with ActivationStore(folder / "reads", floor=0) as store:
        start = time.perf_counter()
        store.get(source, None, SITE)
        writing = {"Obverse": time.perf_counter() - start}
        whole = source.values.view(torch.int16).numpy()
        readers, sequential = ours(store, source)
        others = {"datasets (Arrow)": arrow, "zarr": zarr_array}
        for name, make in others.items():
            if find_spec(name.split()[0]) is None:
                print(f"{name.split()[0]} is not installed, so it is left out.")
                continue
            start = time.perf_counter()
            one, many = make(whole, folder / name.split()[0])
            writing[name] = time.perf_counter() - start
            readers[name], sequential[name] = one, many
        sequential = {"raw file": raw(store), **sequential}
        report(whole, writing, readers, sequential)
        print(f"\nRunning the model again: {recompute_rate(model):,.0f} tokens/s at 13 streams.")


def ours(store: ActivationStore, source: Vectors) -> tuple[dict[str, Any], dict[str, Any]]:
    shards = store.folder.catalogue.ask(Index.shards)
    readers = [store.folder.reader(shard) for shard in shards]
    counts = np.array([int(reader.sidecar.lengths.sum()) for reader in readers])
    starts = np.concatenate([[0], np.cumsum(counts)])

    def one(index: int) -> Tensor:
        shard = int(np.searchsorted(starts, index, "right")) - 1
        return readers[shard].vectors(SITE, [index - starts[shard]])[0]

    def many(out: Tensor) -> None:
        for number, reader in enumerate(readers):
            out[starts[number] : starts[number + 1]] = reader.tensor(SITE)

    many(torch.empty(int(starts[-1]), WIDTH, dtype=torch.bfloat16))  # checks every block
    return {"Obverse": one}, {"Obverse": many}


def raw(store: ActivationStore) -> Callable[[Tensor], None]:
    """Read the same files with nothing in between."""
    paths = [shard_path(store.path, s, DATA) for s in store.folder.catalogue.ask(Index.shards)]

    def many(out: Tensor) -> None:
        view = memoryview(out.view(torch.int16).numpy()).cast("B")
        place = 0
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                end = min(len(view), place + os.fstat(file.fileno()).st_size)
                while place < end:
                    got = file.readinto(view[place:end])
                    if not got:
                        break
                    place += got

    return many


def arrow(whole: np.ndarray[Any, Any], folder: Path) -> tuple[Any, Any]:
    from datasets import Array2D, Dataset, Features, Sequence, Value, disable_progress_bars

    disable_progress_bars()
    assert Array2D is not None
    features = Features({"x": Sequence(Value("int16"), length=WIDTH)})
    parts = np.array_split(whole, max(1, len(whole) // 10_000))
    Dataset.from_generator(
        lambda: ({"x": row} for part in parts for row in part),
        features=features,
        cache_dir=str(folder / "made"),
    ).save_to_disk(str(folder / "set"))
    loaded = Dataset.load_from_disk(str(folder / "set")).with_format("numpy")

    def one(index: int) -> Tensor:
        return torch.from_numpy(loaded[index]["x"].astype(np.int16)).view(torch.bfloat16)

    def many(out: Tensor) -> None:
        bits = out.view(torch.int16)
        for start in range(0, len(loaded), 10_000):
            batch = np.asarray(loaded[start : start + 10_000]["x"], dtype=np.int16)
            bits[start : start + len(batch)] = torch.from_numpy(batch)

    return one, many


def zarr_array(whole: np.ndarray[Any, Any], folder: Path) -> tuple[Any, Any]:
    import zarr

    array = zarr.create_array(
        str(folder), shape=whole.shape, chunks=(1024, WIDTH), dtype="int16", compressors=None
    )
    array[:] = whole

    def one(index: int) -> Tensor:
        return torch.from_numpy(np.asarray(array[index])).view(torch.bfloat16)

    def many(out: Tensor) -> None:
        out.view(torch.int16).numpy()[:] = array[:]

    return one, many


def report(
    whole: np.ndarray[Any, Any],
    writing: dict[str, float],
    readers: dict[str, Callable[[int], Tensor]],
    sequential: dict[str, Callable[[Tensor], None]],
) -> None:
    size = whole.nbytes
    expected = torch.from_numpy(whole)
    rates = {}
    for name, many in sequential.items():
        out = torch.zeros(whole.shape, dtype=torch.bfloat16)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            many(out)
            best = min(best, time.perf_counter() - start)
        if name != "raw file":  # its bytes include headers
            assert torch.equal(out.view(torch.int16), expected), name
        rates[name] = size / best
    rng = np.random.default_rng(0)
    random = {}
    for name, one in readers.items():
        picks = rng.integers(0, len(whole), READS if name == "Obverse" else READS // 10)
        for index in picks[:50]:
            assert torch.equal(one(int(index)).view(torch.int16), expected[int(index)]), name
        start = time.perf_counter()
        for index in picks:
            one(int(index))
        random[name] = (time.perf_counter() - start) / len(picks)
    print(
        f"| {len(whole):,} vectors of {WIDTH}, {size / 1e9:.2f} GB | read in order "
        "| to the raw file | one at random | to Obverse | written at |"
    )
    print("|---|---|---|---|---|---|")
    for name, rate in rates.items():
        cells = [name, f"{rate / 1e9:.2f} GB/s", f"{rate / rates['raw file']:.2f}"]
        if name in random:
            cells += [f"{random[name] * 1e6:,.1f} µs", f"{random[name] / random['Obverse']:,.1f}×"]
            cells += [f"{size / writing[name] / 1e9:.2f} GB/s"]
        else:
            cells += ["", "", ""]
        print(f"| {' | '.join(cells)} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\nMost memory of this process: {peak:.1f} GB.")


def recompute_rate(model: Model) -> float:
    """Tokens a second of a forward pass."""
    ids = torch.randint(1, 50_000, (8, ROW))
    observe(model, ids, [Site("resid_post", model.n_layers - 1)])
    start = time.perf_counter()
    observe(model, ids, [Site("resid_post", model.n_layers - 1)])
    return ids.numel() / (time.perf_counter() - start)


def time_ray(model: Model, tokens: int, folder: Path) -> None:
    """Harvest with one Ray worker of one thread, and with two."""
    import ray

    taken = {}
    for workers in (1, 2):
        # With one core of its own a worker has one thread.
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
        sites = ["resid_post"]
        with Workers(Executor("ray", workers)) as kept:
            # A part for each row, so that all workers load the model before the clock runs.
            with ActivationStore(folder / f"warm-{workers}", floor=0, shard_size=ROW) as store:
                rows = corpus(ROW * 8)
                harvest(model, rows, sites, store, context=ROW, executor=kept)
            with ActivationStore(folder / f"ray-{workers}", floor=0) as store:
                start = time.perf_counter()
                harvest(model, corpus(tokens), sites, store, context=ROW, executor=kept)
                taken[workers] = time.perf_counter() - start
        ray.shutdown()
    speed_up = taken[1] / taken[2]
    print(f"\n| Ray workers of one thread, {tokens:,} tokens | seconds | |")
    print("|---|---|---|")
    print(f"| 1 | {taken[1]:.1f} | |")
    print(f"| 2 | {taken[2]:.1f} | **{speed_up:.2f}×** |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--vectors", type=int, default=400_000)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--ray", action="store_true", help="Ray workers too")
    asked = parser.parse_args()
    print(f"{describe_machine('cpu')}\n")
    model = build(asked.layers, "cpu", getattr(torch, asked.dtype))
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        time_harvest(model, asked.tokens, Path(folder))
        time_reads(model, asked.vectors, Path(folder))
        if asked.ray:
            # Long enough for parts of equal size to be shared out evenly.
            time_ray(model, 3 * asked.tokens, Path(folder))


if __name__ == "__main__":
    main()
