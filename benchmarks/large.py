"""A model larger than memory: blocks on disk, read while others compute, under a limit of memory.

A Llama with random weights in bfloat16 is written first, in shards as a hub has them. Then, in a
process that is limited to so much memory: a forward pass, a logit lens, and a residual sweep of all
layers × positions, each against the larger of the time that reading the files once takes (past the
page cache, measured in the same run) and the arithmetic (at the rate of large matrix products in
the same dtype and run). And at a depth that fits into memory: whether the numbers are those of the
same model in memory.

    python -m benchmarks.large                        # small, in seconds
    python -m benchmarks.large --shape 7b             # 13.5 GB on the disk
    python -m benchmarks.large --shape 13b --folder /scratch --keep --steps write read forward
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from benchmarks._common import describe_machine, word_tokenizer
from interp import Model, PromptPairs, load_model, logit_lens, logits, sweep

GB = 1e9
SHARD = 1 << 30
RUN = ("forward", "lens", "sweep")
STEPS = ("write", "read", "equal", *RUN)
# layers, width, heads, width of the MLP, vocabulary
SHAPES = {
    "small": (6, 512, 8, 1376, 2000),
    "7b": (32, 4096, 32, 11008, 32000),
    "13b": (40, 5120, 40, 13824, 32000),
}


@dataclass(frozen=True)
class Shape:
    """What decides how much there is to read and to compute."""

    layers: int
    width: int
    heads: int
    mlp: int
    vocabulary: int

    @property
    def block(self) -> int:
        """Numbers in the matrices of a block."""
        return 4 * self.width**2 + 3 * self.width * self.mlp

    def flops(self, what: str, tokens: int) -> float:
        """Floating-point operations that it cannot do without."""
        unembedding = 2 * self.width * self.vocabulary
        if what == "forward":
            return 2 * self.block * self.layers * tokens + unembedding
        if what == "lens":
            readings = (self.layers + 1) * tokens
            return 2 * self.block * self.layers * tokens + readings * unembedding
        # Of each cell the positions from the patched one on, in the blocks above; and both runs.
        above = sum(range(1, self.layers + 1)) * sum(range(1, tokens + 1))
        rows = self.layers * tokens + 2
        return 2 * self.block * (above + 2 * self.layers * tokens) + rows * unembedding


def write(folder: Path, shape: Shape) -> None:
    """A checkpoint in bfloat16, in shards of a GiB or so."""
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.mlp,
        vocab_size=shape.vocabulary,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    word_tokenizer(shape.vocabulary).save_pretrained(folder)
    bits = np.random.Generator(np.random.SFC64(0))
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, str] = {}
    held = 0

    def close() -> None:
        name = f"model-{len(set(places.values())):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        with open(folder / name, "rb") as file:  # so that reading it is reading the disk
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, size in tensors(shape):
        shard[name] = random_weights(bits, size)
        held += shard[name].nbytes
        if held >= SHARD:
            close()
            held = 0
    close()
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's weights."""
    d, m = shape.width, shape.mlp
    yield "model.embed_tokens.weight", (shape.vocabulary, d)
    for layer in range(shape.layers):
        for part in "qkvo":
            yield f"model.layers.{layer}.self_attn.{part}_proj.weight", (d, d)
        for part, size in (("gate", (m, d)), ("up", (m, d)), ("down", (d, m))):
            yield f"model.layers.{layer}.mlp.{part}_proj.weight", size
        for part in ("input", "post_attention"):
            yield f"model.layers.{layer}.{part}_layernorm.weight", (d,)
    yield "model.norm.weight", (d,)
    yield "lm_head.weight", (shape.vocabulary, d)


def random_weights(bits: np.random.Generator, size: tuple[int, ...]) -> torch.Tensor:
    """Norms of ones; matrices of random signs and digits, of the size that keeps streams steady."""
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    count = size[0] * size[1]
    raw = np.frombuffer(bits.bytes(2 * count), dtype=np.int16).copy()
    # The sign and the seven digits of a bfloat16; the exponent is that of 1/√columns, halved.
    exponent = 127 - round(np.log2(size[1]) / 2) - 1
    raw &= np.int16(-0x7F81)
    raw |= np.int16(exponent << 7)
    return torch.from_numpy(raw).view(torch.bfloat16).reshape(size)


def shorter(folder: Path, layers: int, into: Path) -> Path:
    """The same checkpoint cut off after some blocks; its files are those of the whole one."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((into / "config.json").read_text())
    config["num_hidden_layers"] = layers
    (into / "config.json").write_text(json.dumps(config))
    index = into / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    kept: dict[str, dict[str, torch.Tensor]] = {}
    from safetensors import safe_open

    for name, file in places.items():
        parts = name.split(".")
        if parts[1] != "layers" or int(parts[2]) < layers:
            with safe_open(folder / file, framework="pt") as content:
                kept.setdefault(file, {})[name] = content.get_tensor(name)
    for file, values in kept.items():
        save_file(values, into / file, metadata={"format": "pt"})
    places = {name: file for file, values in kept.items() for name in values}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return into


def seconds_to_read(folder: Path) -> tuple[float, int]:
    """How long it takes to read all weight files once, past the page cache, and their bytes."""
    piece, pieces = 8 << 20, []
    for path in sorted(folder.glob("*.safetensors")):
        pieces += [(path, begin) for begin in range(0, path.stat().st_size, piece)]
    left = iter(pieces)
    lock = threading.Lock()

    def work() -> None:
        memory = memoryview(mmap.mmap(-1, piece))
        while True:
            with lock:
                path, begin = next(left, (None, 0))
            if path is None:
                return
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
            except OSError:
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, begin, piece, os.POSIX_FADV_DONTNEED)
            os.preadv(descriptor, [memory], begin)
            os.close(descriptor)

    threads = [threading.Thread(target=work) for _ in range(2)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def a_pair(model: Model, tokens: int) -> PromptPairs:
    made = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randint(10, 1000, (1, tokens), generator=made) for _ in "ab")
    return PromptPairs(model, clean, corrupt, torch.tensor([5]), torch.tensor([6]))


def on_disk(folder: Path, dtype: str) -> Model:
    return load_model(folder, dtype=dtype, device_map={"": "cpu", "model.layers": "disk"})


def work_of(what: str, model: Model, tokens: int) -> Callable[[], Any]:
    pairs = a_pair(model, tokens)
    ids = torch.arange(10, 10 + tokens)[None]
    if what == "forward":
        return lambda: logits(model, ids)
    if what == "lens":
        return lambda: logit_lens(model, ids)
    # Streams into the blocks; the first position is the same in both runs, and swept all the same.
    return lambda: sweep(model, pairs, "resid_pre")


def measured(
    folder: Path, steps: Sequence[str], dtype: str, tokens: int, limit: float
) -> dict[str, Any]:
    """Some steps, in this process, which is not to take more than `limit` GB."""
    import resource

    most_held = watch()
    now = memory()
    # Address space that nobody uses does not count, such as the stacks of threads.
    most = now["VmData"] + int(limit * GB) - now["RssAnon"]
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    begun, before = time.perf_counter(), bytes_read()
    model = on_disk(folder, dtype)
    loaded = time.perf_counter() - begun
    assert model.elsewhere is not None
    reader = model.elsewhere.reader
    found: dict[str, Any] = {
        "loaded": loaded,
        "loading_read": bytes_read() - before,
        "loading_peak": most_held[0],
        "rate": rate(dtype, model.d_model),
    }
    for what in steps:
        begun = time.perf_counter()
        # The first use of a model tries it; a sweep of one layer does what a sweep of all needs.
        if what == "sweep":
            sweep(model, a_pair(model, tokens), "resid_pre", layers=[model.n_layers - 1])
        elif what == "lens":
            work_of(what, model, tokens)()
        first = time.perf_counter() - begun
        before, waited = dict(reader.reads), reader.waited
        begun = time.perf_counter()
        work_of(what, model, tokens)()
        found[what] = {
            "seconds": time.perf_counter() - begun,
            "first": first,
            "waited": reader.waited - waited,
            "reads": max(n - before[name] for name, n in reader.reads.items()),
            "peak": most_held[0],
        }
        print(json.dumps(found), flush=True)
    return found


def watch() -> list[int]:
    """The most bytes that this process holds beside what stands in files, from now on."""
    most = [0]

    def look() -> None:
        while True:
            most[0] = max(most[0], memory()["RssAnon"])
            time.sleep(0.02)

    threading.Thread(target=look, daemon=True).start()
    return most


def memory() -> dict[str, int]:
    """Bytes of this process: all that it may write (VmData), and of that in memory (RssAnon)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    words = (line.split() for line in lines if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(kib) << 10 for name, kib, *_ in words}


def bytes_read() -> int:
    """Bytes that this process has read from disks so far, pages of mapped files too."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def rate(dtype: str, width: int) -> float:
    """Floating-point operations a second of products with a matrix as large as a block's are."""
    rows, matrix = (torch.randn(n, width).to(getattr(torch, dtype)) for n in (512, 2 * width))
    counted, begun = 0, time.perf_counter()
    while not counted or time.perf_counter() - begun < 3:
        torch.nn.functional.linear(rows, matrix)
        counted += 2 * 512 * 2 * width * width
    return counted / (time.perf_counter() - begun)


def equal(folder: Path, dtype: str, tokens: int) -> dict[str, bool]:
    """Whether a model of two blocks computes on disk what it does in memory, to the last bit."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        cut = shorter(folder, 2, Path(scratch) / "cut")
        found = {}
        here, there = load_model(cut, dtype=dtype, device="cpu"), on_disk(cut, dtype)
        for what in RUN:
            ours, theirs = (work_of(what, model, tokens)() for model in (there, here))
            same = ours.equal(theirs) if what == "forward" else ours.equals(theirs)
            found[what] = bool(same)
        return found


def apart(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`measured` in a process of its own."""
    steps = [what for what in RUN if what in arguments.steps]
    given = ["--measure", *steps, "--folder", str(folder), "--dtype", arguments.dtype]
    given += ["--tokens", str(arguments.tokens), "--limit", str(arguments.limit)]
    command = [sys.executable, "-m", "benchmarks.large", *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: argparse.Namespace) -> None:
    if arguments.measure:
        found = measured(
            arguments.folder, arguments.measure, arguments.dtype, arguments.tokens, arguments.limit
        )
        assert found
        return
    given = (arguments.layers, arguments.width, arguments.heads, arguments.mlp, None)
    shape = Shape(*(a or b for a, b in zip(given, SHAPES[arguments.shape], strict=True)))
    root = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="large-"))
    if arguments.keep:
        root.rmdir()
        root = arguments.folder or Path.cwd()
    folder = root / f"llama-{shape.layers}x{shape.width}"
    try:
        steps(arguments, shape, folder)
    finally:
        if not arguments.keep:
            shutil.rmtree(root)


def steps(arguments: argparse.Namespace, shape: Shape, folder: Path) -> None:
    if "write" in arguments.steps and not (folder / "model.safetensors.index.json").exists():
        begun = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, shape)
        print(f"written in {time.perf_counter() - begun:.1f} s: {folder}")
    if "equal" in arguments.steps:
        print(f"numbers those of memory, to the last bit, in {arguments.dtype}:", end=" ")
        print(equal(folder, arguments.dtype, arguments.tokens))
    reading = 0.0
    if "read" in arguments.steps:
        reading, size = seconds_to_read(folder)
        print(f"{size / GB:.2f} GB read in {reading:.1f} s: {size / reading / GB:.2f} GB/s")
    if not set(RUN) & set(arguments.steps):
        return
    found = apart(arguments, folder)
    print(
        f"{arguments.dtype}, {arguments.tokens} tokens, {describe_machine('cpu')}, "
        f"{found['rate'] / GB:.0f} GFLOP/s; loaded in {found['loaded']:.0f} s "
        f"({found['loading_read'] / GB:.1f} GB read, {found['loading_peak'] / GB:.2f} GB held)"
    )
    for what in [what for what in RUN if what in found]:
        one = found[what]
        arithmetic = shape.flops(what, arguments.tokens) / found["rate"]
        over = one["seconds"] / max(reading, arithmetic)
        print(
            f"{what} | {one['seconds']:.1f} s | reading {reading:.1f} s | "
            f"arithmetic {arithmetic:.1f} s | {over:.2f}× | each block read {one['reads']}× | "
            f"waited {one['waited']:.1f} s | first use {one['first']:.0f} s | "
            f"peak {one['peak'] / GB:.2f} GB of {arguments.limit:g}"
        )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--shape", choices=SHAPES, default="small")
    for name in ("layers", "width", "heads", "mlp"):
        made.add_argument(f"--{name}", type=int, help="instead of the shape's")
    made.add_argument("--tokens", type=int, default=8)
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    made.add_argument("--limit", type=float, default=6, help="GB of memory")
    made.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    made.add_argument("--keep", action="store_true", help="what was written, for another run")
    made.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    made.add_argument("--measure", nargs="+", choices=RUN, help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    main(parser().parse_args())
