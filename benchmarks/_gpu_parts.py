"""What `benchmarks.gpu` runs, part by part, the most important first, and how large.

Seconds are guesses of what a part takes on a card like an H200, by which it is left out where too
few are left; none of them was measured.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    _checks,
    _full_cache,
    _jacobian,
    _peers,
    _transplant,
    cache,
    circuits,
    patching,
    probes,
)
from benchmarks._common import build, gpt2, llama, on_gpu, random_pairs
from interp.model.model import Model
from interp.sites import Site

Line = list[str]


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        small: layers, width and heads of GPT-2 small, for tests less.
        large: the same of GPT-2 XL, which tests do without.
        llama: layers, width, heads and inner width of Llama 7B.
        lengths: tokens of prompts, for the small models' sweeps the first alone.
        peer_cells: cells that others run, of which their time is scaled up.
        tokens: that are harvested.
        batch: rows and tokens of the forward pass with a full cache.
        pairs: of edges.
        probes: sites, examples, dims; then sites that scikit-learn fits, and its cores.
    """

    small: tuple[int, int, int] = (12, 768, 12)
    large: tuple[int, int, int] | None = (48, 1600, 25)
    llama: tuple[int, int, int, int] = (32, 4096, 32, 11_008)
    lengths: tuple[int, int] = (15, 240)
    peer_cells: int = 90
    tokens: int = 65_536
    batch: tuple[int, int] = (16, 512)
    pairs: int = 20
    probes: tuple[int, int, int, int, int | None] = (96, 1500, 256, 4, None)
    texts: int = 32


TINY = Sizes(
    small=(2, 32, 2),
    large=None,
    llama=(2, 32, 2, 48),
    lengths=(4, 6),
    peer_cells=4,
    tokens=256,
    batch=(2, 8),
    pairs=2,
    probes=(2, 60, 4, 1, 1),
    texts=3,
)


@dataclass(frozen=True)
class Bench:
    """What all parts are given.

    Attributes:
        golden: the folder of stored answers, if there is one.
        folder: on the disk that is measured.
    """

    device: str
    sizes: Sizes
    golden: Path | None
    folder: Path | None = None


@dataclass(frozen=True)
class Step:
    """Some lines of a table, which are measured together.

    Attributes:
        seconds: a guess, on one large GPU.
        lines: measures, and gives each line as soon as it is known.
    """

    what: str
    seconds: float
    lines: Callable[[], Iterator[Line]]


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes:
        goal: what is hoped for.
    """

    title: str
    goal: str
    header: tuple[str, ...]
    steps: Callable[[Bench], list[Step]]


def _checking(b: Bench) -> list[Step]:
    small, length = b.sizes.small, b.sizes.lengths[0]
    steps = []
    if b.golden is not None:
        golden = b.golden
        steps.append(Step("golden answers", 20, lambda: _checks.golden(golden, b.device)))
    given = b.device, *small, length
    steps += [
        Step("the device against the CPU", 60, lambda: _checks.against_cpu(*given)),
        Step("bfloat16 against float32", 15, lambda: _checks.against_bfloat16(*given)),
    ]
    if on_gpu(b.device):
        few = Step("too little memory", 10, lambda: _checks.out_of_memory(*given))
        steps.append(few)
    return steps


def _sweeping(b: Bench) -> list[Step]:
    """Sweeps of residual streams, and of heads."""
    short, long = b.sizes.lengths
    half, whole = torch.bfloat16, torch.float32

    def of_gpt2(
        shape: tuple[int, int, int], dtype: torch.dtype, sites: tuple[str, ...]
    ) -> Iterator[Line]:
        model = build(shape[0], b.device, dtype, *shape[1:])
        nnsight = None
        if _peers.HAS_NNSIGHT:
            nnsight = _peers.nnsight(*gpt2(*shape, device=b.device, dtype=dtype))
        for site in sites:
            yield _sweep(b, model, nnsight, dtype, short, site)

    def of_llama() -> Iterator[Line]:
        model = llama(*b.sizes.llama, device=b.device)
        for length, site in ((short, "resid_pre"), (short, "z"), (long, "resid_pre")):
            yield _sweep(b, model, None, half, length, site)

    both = ("resid_pre", "z")
    steps = [
        Step("GPT-2 small", 25, lambda: of_gpt2(b.sizes.small, whole, both)),
        Step("Llama 7B in bfloat16", 120, of_llama),
    ]
    large = b.sizes.large
    if large is not None:
        steps += [
            Step("GPT-2 XL", 45, lambda: of_gpt2(large, whole, ("resid_pre",))),
            Step("GPT-2 XL in bfloat16", 40, lambda: of_gpt2(large, half, ("resid_pre",))),
        ]
    return steps


def _sweep(
    b: Bench, model: Model, nnsight: object, dtype: torch.dtype, length: int, site: str
) -> Line:
    repeats = 2 if length == b.sizes.lengths[0] else 1
    settings = patching.Settings(
        b.device, dtype, model.d_model, model.n_heads, repeats, b.sizes.peer_cells, False
    )
    cells = patching.row(model, nnsight, length, site, settings)
    what = f"{model.n_layers} layers, {model.d_model} wide, {str(dtype).removeprefix('torch.')}"
    return [what, *cells]


def _writing(b: Bench) -> list[Step]:
    def lines(make: Callable[[], Model], name: str, sites: list[Site]) -> Iterator[Line]:
        model, tokens = make(), b.sizes.tokens
        with tempfile.TemporaryDirectory(dir=b.folder) as folder:
            taken = cache.harvested(model, tokens, Path(folder), sites, 2)
        for cells in cache.harvest_rows(taken, tokens):
            yield [name, *cells]

    def of_llama() -> Iterator[Line]:
        layer = b.sizes.llama[0] // 2
        make = lambda: llama(*b.sizes.llama, device=b.device)  # noqa: E731
        return lines(make, "Llama 7B, one layer", [Site("resid_post", layer)])

    def of_gpt2() -> Iterator[Line]:
        shape = b.sizes.small
        sites = [Site("resid_pre", 0), *(Site("resid_post", i) for i in range(shape[0]))]
        make = lambda: build(shape[0], b.device, torch.bfloat16, *shape[1:])  # noqa: E731
        return lines(make, "GPT-2 small, all streams", sites)

    return [
        Step("Llama 7B, one layer", 45, of_llama),
        Step("GPT-2 small, all streams", 15, of_gpt2),
    ]


def _edging(b: Bench) -> list[Step]:
    def lines() -> Iterator[Line]:
        shape = b.sizes.small
        model = build(shape[0], b.device, torch.float32, *shape[1:])
        pairs = random_pairs(model, b.sizes.pairs, b.sizes.lengths[0])
        for cells, _ in circuits.edges(model, pairs, min(4, b.sizes.pairs), 5, 2):
            yield cells

    return [Step("GPT-2 small", 40, lines)]


def _keeping(b: Bench) -> list[Step]:
    def lines() -> Iterator[Line]:
        shape = b.sizes.small
        model = build(shape[0], b.device, torch.bfloat16, *shape[1:])
        yield from _full_cache.rows(model, *b.sizes.batch, 5)

    return [Step("GPT-2 small in bfloat16", 15, lines)]


def _probing(b: Bench) -> list[Step]:
    sites, n, dims, peers, cores = b.sizes.probes

    def lines() -> Iterator[Line]:
        x, labels = probes.make(sites, n, dims, 0.5)
        yield probes.report(x, labels, b.device, peers, cores)
        yield probes.plain(x, labels, b.device, 3)

    return [Step("a report, and one fit a site", 60, lines)]


def _fitting(b: Bench) -> list[Step]:
    def lines() -> Iterator[Line]:
        shape = b.sizes.small
        model = build(shape[0], b.device, torch.float32, *shape[1:])
        length = 4 * b.sizes.lengths[0]
        ids = random_pairs(model, b.sizes.texts, length + 4).clean.ids[:, 1:]
        texts = [" ".join(f"w{i}" for i in row) for row in ids.tolist()]
        yield list(_jacobian.cells(_jacobian.compared("GPT-2 small", model, texts, 4, 1)))

    return [Step("GPT-2 small", 40, lines)]


def _moving(b: Bench) -> list[Step]:
    def lines() -> Iterator[Line]:
        length, cells = b.sizes.lengths[0], b.sizes.peer_cells
        for row in _transplant.rows(*b.sizes.small, length, cells, 2, b.device):
            yield list(row)

    return [Step("GPT-2 small", 20, lines)]


# By name, in the order in which they run.
PARTS = {
    "correctness": Part(
        "Correctness", "every line within its tolerance", _checks.HEADER, _checking
    ),
    "patching": Part(
        "Activation patching",
        "Llama 7B: ≥ 30× TransformerLens at 15 tokens, ≥ 10× at 240, ≤ 1.5× the floor",
        ("model", *patching.HEADER),
        _sweeping,
    ),
    "harvest": Part(
        "Harvest to disk",
        "≥ 0.9 of the forward pass",
        ("what", "", "tokens/s, best (median)", ""),
        _writing,
    ),
    "edges": Part("Edges of circuits", "", circuits.HEADER, _edging),
    "forward": Part("A full cache", "≤ 1.05× the plain pass", _full_cache.HEADER, _keeping),
    "probes": Part("Probes", "≥ 50× scikit-learn on a report", probes.HEADER, _probing),
    "jacobian": Part("Jacobian lens", "", _jacobian.HEADER, _fitting),
    "transplant": Part("Transplants", "", _transplant.HEADER, _moving),
}


def forget() -> None:
    """Give back what the last step held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def missing() -> list[str]:
    """What is left out since it is not installed."""
    left: list[Any] = []
    if not _peers.HAS_NNSIGHT:
        left.append("nnsight is not installed, so its columns stay empty.")
    return left
