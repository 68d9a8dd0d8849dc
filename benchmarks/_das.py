"""Distributed alignment search: a whole grid here, and TransformerLens' `fit_das` in a loop.

The bundled organism, all layers × 3 positions × 3 ranks, one wording of its mother facts, both
people of a couple held out together. Of TransformerLens some cells are fitted, spread over the
grid, with its own settings, evaluated on the same pairs, and their time is scaled to the grid. Our
time holds the controls, of which the arbitrary answers are a second search; the loop would have to
be run twice for them, which the second ratio counts.

    python -m benchmarks._das
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from transformer_lens.tools.analysis import interchange as theirs

from benchmarks._common import describe_machine, timed
from interp import PromptPairs, fit_das, load_model
from interp.model.model import Model

POSITIONS = ("subject -1", "end -2", "end -1")
RANKS = (4, 16, 48)
# Layer, position, rank: where there is something to be found, and where there is nothing.
SAMPLE = (
    (0, "subject -1", 4),
    (0, "subject -1", 16),
    (0, "subject -1", 48),
    (0, "end -1", 16),
    (1, "end -2", 16),
    (1, "end -1", 4),
    (1, "end -1", 16),
    (1, "end -1", 48),
    (2, "end -1", 48),
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        cell: what was fitted.
        theirs, ours: accuracy on training and on held-out pairs.
    """

    cell: str
    theirs: tuple[float, float]
    ours: tuple[float, float]


@dataclass(frozen=True)
class Result:
    """Both sides.

    Attributes:
        rows: by cell.
        ours: seconds for the grid, with controls.
        loop: seconds for TransformerLens' loop over the grid, scaled from the sample.
    """

    rows: tuple[Row, ...]
    ours: float
    loop: float


def mothers(model: Model) -> PromptPairs:
    """Couples of facts; each asks for the mother that the other prompt is about."""
    with open(str(model.path) + "/facts.csv", encoding="utf-8") as file:
        facts = [fact for fact in csv.DictReader(file) if fact["split"] in ("forward", "both")]
    couples = zip(facts[::2], facts[1::2], strict=False)
    both = [pair for a, b in couples for pair in ((a, b), (b, a))]
    both = [(a, b) for a, b in both if a["object"].split()[0] != b["object"].split()[0]]
    wordings = ("{}'s mother is", "The name of {}'s mother is")
    every = [(wording, a, b) for wording in wordings for a, b in both]
    return PromptPairs(
        model,
        [wording.format(a["subject"]) for wording, a, _ in every],
        [wording.format(b["subject"]) for wording, _, b in every],
        [f" {a['object']}" for _, a, _ in every],
        [f" {b['object']}" for _, _, b in every],
        spans={"subject": [(a["subject"], b["subject"]) for _, a, b in every]},
    )


def one_cell(
    model: Model, pairs: PromptPairs, cell: tuple[int, str, int], held: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """TransformerLens' fit of one cell, and its accuracy on training and on held-out pairs."""
    layer, position, rank = cell
    bridge, hook = model.bridge, f"blocks.{layer}.hook_out"
    slot = pairs.positions.index(position)
    base, source = pairs.corrupt, pairs.clean
    at, origin = (
        torch.from_numpy(index[:, slot])
        for index in (pairs.alignment.corrupt, pairs.alignment.clean)
    )
    targets = pairs.first_tokens("answer")
    # The token that is read goes along with the prompt, since a batch is cut out of both.
    inputs = [torch.cat([b.ids, b.lengths[:, None] - 1], 1) for b in (base, source)]

    def task(rows: torch.Tensor) -> torch.Tensor:
        logits = bridge(rows[:, :-1], return_type="logits", use_cache=False)
        return logits[torch.arange(len(rows)), rows[:, -1]]

    train = torch.from_numpy(np.flatnonzero(~held))
    found = theirs.fit_das(
        bridge,
        hook,
        inputs[0][train],
        inputs[1][train],
        targets[train],
        task,
        rank=rank,
        base_positions=at[train],
        source_positions=origin[train],
    )
    step = theirs.SubspaceInterchange(found.basis)
    every = theirs.collect_activations(bridge, hook, inputs[1], task, positions=origin)
    logits = theirs.intervened_logits(bridge, hook, step, inputs[0], every, task, positions=at)
    right = (logits.argmax(1) == targets).numpy()
    return float(right[~held].mean()), float(right[held].mean())


def compare(sample: tuple[tuple[int, str, int], ...] = SAMPLE) -> Result:
    """Time both sides in this process."""
    model = load_model("reversal-curse")
    pairs = mothers(model)
    fit_das(model, pairs, layers=[2], positions=POSITIONS[-1:], ranks=[1], epochs=1)  # warm up
    ours, found = timed(
        lambda: fit_das(model, pairs, positions=POSITIONS, ranks=RANKS), 2, model.device.type
    )
    held = found["split"].values == "held out"
    rows, seconds = [], 0.0
    for cell in sample:
        took, accuracy = timed(lambda c=cell: one_cell(model, pairs, c, held), 1, model.device.type)
        seconds += took
        rows.append(Row("layer {}, {}, rank {}".format(*cell), accuracy, _ours(found, *cell)))
    n_cells = found["held_out"].size
    return Result(tuple(rows), ours, seconds * n_cells / len(sample))


def _ours(found: xr.Dataset, layer: int, position: str, rank: int) -> tuple[float, float]:
    at = list(found["position_label"].values).index(position)
    cell = found.sel(layer=layer, rank=rank).isel(position=at)
    return float(cell["accuracy"]), float(cell["held_out"])


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    print(describe_machine("cpu"))
    result = compare()
    print("\n| cell | TransformerLens: training, held out | Obverse: training, held out |")
    print("|---|---|---|")
    for row in result.rows:
        both = (f"{training:.2f}, {held:.2f}" for training, held in (row.theirs, row.ours))
        print(f"| {row.cell} | {' | '.join(both)} |")
    theirs_mean, ours_mean = (
        np.mean([getattr(row, side)[1] for row in result.rows]) for side in ("theirs", "ours")
    )
    print(f"| mean, held out | {theirs_mean:.2f} | {ours_mean:.2f} |")
    print(f"\nthe grid, controls included: {result.ours:.1f} s")
    print(f"loop of fit_das, {len(result.rows)} cells scaled: {result.loop:.0f} s")
    print(
        f"{result.loop / result.ours:.1f}×; with its arbitrary-label control "
        f"{2 * result.loop / result.ours:.1f}×"
    )


if __name__ == "__main__":
    main()
