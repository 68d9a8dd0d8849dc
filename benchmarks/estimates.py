"""How well each estimate agrees with the sweep that it stands for, and what it costs beside it.

Small models of four architectures that have learned to name an indirect object and a later year,
a small pretrained one on prompts of the same kind, and the organism of the reversal curse. The
agreement is taken over all pairs and cells: the correlation of estimated and exact changes, and the
share of wrong signs among the tenth of the cells that change most.

    python -m benchmarks.estimates
    python -m benchmarks.estimates --pairs 24 --keep /tmp/trained --sites resid_pre z
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import _trained
from benchmarks._common import build, describe_machine, random_pair, timed
from interp import PromptPairs, estimate, load_model, logits, sweep
from interp.errors import SiteError
from interp.model.model import Model

METHODS: dict[str, dict[str, Any]] = {
    "gradient": {"method": "gradient"},
    "integrated": {"method": "integrated"},
    "atp*": {"method": "atp*"},
    "relp": {"method": "relp"},
    "columns 1": {"method": "columns", "columns": 1},
    "columns 2": {"method": "columns", "columns": 2},
    "columns 3": {"method": "columns", "columns": 3},
}
SITES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("resid_pre", ("position",)),
    ("resid_mid", ("position",)),
    ("attn_out", ("position",)),
    ("mlp_out", ("position",)),
    ("z", ("head",)),
    ("z", ("head", "position")),
    ("q", ("head", "position")),
    ("k", ("head", "position")),
    ("v", ("head", "position")),
    ("mlp_act", ("position", "neurons")),
)
STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K"
STEPS = 700
MOTHERS = {
    "Tom Cruise": "Mary Lee Pfeiffer",
    "Kate Hudson": "Goldie Hawn",
    "Carrie Fisher": "Debbie Reynolds",
    "Keanu Reeves": "Patricia Taylor",
    "Winston Churchill": "Jennie Jerome",
    "Gwyneth Paltrow": "Blythe Danner",
}
PEOPLE = ("Tom", "Ben", "Sam", "Mom")  # two tokens each, and no first one twice
GIFTS = ("ball", "toy", "flower", "book")


@dataclass(frozen=True)
class Row:
    """One method on one sweep.

    Attributes:
        model, task, site, axes, method: which.
        correlation, wrong_signs: of estimated and exact changes, see above.
        cost: seconds over those of the sweep.
        cells: of the sweep, over all pairs.
    """

    model: str
    task: str
    site: str
    axes: str
    method: str
    correlation: float
    wrong_signs: float
    cost: float
    cells: int


def agreement(guess: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Correlation, and wrong signs among the tenth that changes most."""
    there = np.isfinite(exact)
    guess, exact = guess[there], exact[there]
    largest = np.argsort(-np.abs(exact))[: max(1, len(exact) // 10)]
    flips = float(np.mean(np.sign(guess[largest]) != np.sign(exact[largest])))
    return float(np.corrcoef(guess, exact)[0, 1]), flips


def changes(result: Any) -> np.ndarray:
    return np.asarray((result["patched"] - result["corrupt"]).values)


def rows(
    name: str, task: str, model: Model, pairs: PromptPairs, sites: Sequence[str], methods: Any
) -> Iterator[Row]:
    """All methods on all sweeps of some pairs."""
    for site, axes in SITES:
        if site not in sites or (site == "resid_mid" and model.parallel_blocks):
            continue
        sweep(model, pairs.subset([0]), site, by=axes)  # what is tried once, is tried here
        start = time.perf_counter()
        exact = changes(sweep(model, pairs, site, by=axes))
        whole = time.perf_counter() - start
        for method, how in methods.items():
            try:
                start = time.perf_counter()
                found = changes(estimate(model, pairs, site, by=axes, check=0, **how))
                cost = (time.perf_counter() - start) / whole
            except SiteError:  # RelP says nothing of queries and keys
                continue
            correlation, flips = agreement(found, exact)
            cells = int(np.isfinite(exact).sum())
            yield Row(name, task, site, " × ".join(axes), method, correlation, flips, cost, cells)


def organism() -> tuple[Model, dict[str, PromptPairs]]:
    """Its facts, asked forward: the answer is known, and the foil another fact's."""
    model = load_model("reversal-curse")
    names = list(MOTHERS)
    others = names[1:] + names[:1]
    pairs = PromptPairs(
        model,
        [f"{name}'s mother is" for name in names],
        [f"{name}'s mother is" for name in others],
        [f" {MOTHERS[name]}" for name in names],
        [f" {MOTHERS[name]}" for name in others],
        spans={"subject": list(zip(names, others, strict=True))},
    )
    return model, {"forward facts": pairs}


TALES = (
    "Once upon a time there was a little girl who had a red ball. She liked to play with it in the "
    "park every day. One day the ball rolled into the",
    "Tom and his mom went to the big store to buy some food. Tom saw a toy car and wanted to have "
    "it. His mom said that he was a very",
    "The dog was sad because he lost his bone in the garden. He looked under the tree and behind "
    "the house, but he could not find it. Then a",
    "It was a sunny day and the birds were in the sky. A small cat sat on the wall and looked at "
    "them. She wanted to fly too, so she jumped",
)


def tales(model: Model) -> PromptPairs:
    """Two stories that have nothing in common: every position differs, and the answer is what the
    model says after the one, the foil what it says after the other."""
    ids = [model.token_ids(text) for text in TALES]
    length = min(24, *map(len, ids))
    clean = torch.tensor([row[:length] for row in ids])
    first = torch.as_tensor(logits(model, clean)).argmax(-1)
    both = [(i, j) for i in range(len(ids)) for j in range(i) if first[i] != first[j]][:4]
    one, other = torch.tensor(both).T
    return PromptPairs(model, clean[one], clean[other], first[one], first[other])


def stories(n: int) -> tuple[Model, dict[str, PromptPairs]]:
    """Two people, one of whom gives."""
    model = load_model(STORIES)
    rng = np.random.default_rng(0)
    clean, corrupt, answers, foils = [], [], [], []
    for number in range(n):
        one, two, three = rng.choice(PEOPLE, 3, replace=False)
        text = f"{one} and {two} were at the park. {{}} gave a {GIFTS[number % 4]} to"
        clean.append(text.format(one))
        corrupt.append(text.format(three))
        answers.append(f" {two}")
        foils.append(f" {one}")
    pairs = PromptPairs(model, clean, corrupt, answers, foils)
    return model, {"indirect object": pairs, "another story": tales(model)}


def costs(lengths: Sequence[int], methods: Any) -> str:
    """Seconds of a sweep, and of each estimate over them, where arithmetic outweighs all else."""
    lines = ["| tokens | site | sweep | " + " | ".join(methods) + " |"]
    lines.append("|---" * (3 + len(methods)) + "|")
    model = build(8, "cpu", torch.float32, 256, 8)
    for length in lengths:
        pairs = random_pair(model, length)
        for site, axes in (
            ("resid_pre", ("position",)),
            ("z", ("head",)),
            ("z", ("head", "position")),
        ):
            sweep(model, pairs, site, by=axes, layers=[7])  # warm up

            def exact(pairs: PromptPairs = pairs, site: str = site, by: Any = axes) -> Any:
                return sweep(model, pairs, site, by=by)

            whole, _ = timed(exact, 2, "cpu")
            shares = []
            for how in methods.values():

                def guess(
                    pairs: PromptPairs = pairs, site: str = site, by: Any = axes, how: Any = how
                ) -> Any:
                    return estimate(model, pairs, site, by=by, check=0, **how)

                shares.append(f"{timed(guess, 2, 'cpu')[0] / whole:.2f}×")
            where = f"`{site}` by {' × '.join(axes)}"
            lines.append(f"| {length} | {where} | {whole:.2f} s | {' | '.join(shares)} |")
    return "\n".join(lines)


def table(found: Sequence[Row], methods: Sequence[str]) -> str:
    """By model, task and site: correlation and wrong signs of each method."""
    lines = [
        "| model | task | site | " + " | ".join(methods) + " |",
        "|---" * (3 + len(methods)) + "|",
    ]
    keys = dict.fromkeys((row.model, row.task, row.site, row.axes) for row in found)
    for key in keys:
        by = {r.method: r for r in found if (r.model, r.task, r.site, r.axes) == key}
        cells = [
            f"{by[m].correlation:.3f}, {by[m].wrong_signs:.0%}" if m in by else "" for m in methods
        ]
        lines.append(f"| {key[0]} | {key[1]} | `{key[2]}` by {key[3]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(found: Sequence[Row], methods: Sequence[str]) -> str:
    """By site: the least correlation, the most wrong signs, and the cost beside a sweep."""
    lines = ["| site | " + " | ".join(methods) + " |", "|---" * (1 + len(methods)) + "|"]
    for site, axes in dict.fromkeys((row.site, row.axes) for row in found):
        cells = []
        for method in methods:
            mine = [r for r in found if (r.site, r.axes, r.method) == (site, axes, method)]
            if not mine:
                cells.append("")
                continue
            worst = min(row.correlation for row in mine)
            flips, cost = max(r.wrong_signs for r in mine), np.median([r.cost for r in mine])
            cells.append(f"{worst:.2f}, {flips:.0%}, {cost:.2f}×")
        lines.append(f"| `{site}` by {axes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--keep", type=Path, help="a folder for the trained models")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    parser.add_argument("--sites", nargs="+", default=[site for site, _ in SITES])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[15, 60], help="for the costs")
    parser.add_argument("--only-costs", action="store_true")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    methods = {name: METHODS[name] for name in given.methods}
    found: list[Row] = []

    def measure(name: str, model: Model, asked: dict[str, PromptPairs]) -> None:
        for task, pairs in asked.items():
            mine = list(rows(name, task, model, pairs, given.sites, methods))
            print(table(mine, given.methods), flush=True)
            found.extend(mine)

    print(describe_machine("cpu"), flush=True)
    print(costs(given.lengths, methods), flush=True)
    if given.only_costs:
        return
    measure("organism", *organism())
    measure("stories260K", *stories(given.pairs))
    tasks = [_trained.indirect_objects(), _trained.greater_than()]
    for architecture in _trained.ARCHITECTURES:
        model = _trained.train(architecture, tasks, given.steps, given.keep)
        measure(architecture, model, {task.name: task.pairs(model, given.pairs) for task in tasks})
    print(f"\n{table(found, given.methods)}\n\n{summary(found, given.methods)}")


if __name__ == "__main__":
    main()
