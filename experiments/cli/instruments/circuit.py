"""`obverse circuit`: the edges that carry a behaviour, and whether they suffice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from experiments.cli import options
from experiments.cli.console import guarded, quiet_libraries, say, visible
from experiments.cli.instruments import prompt_files
from experiments.cli.instruments.patch import Metric
from experiments.cli.instruments.results import AsJson, Findings, Out, findings_kept
from experiments.cli.progress import TerminalReporter
from experiments.numbers import percent
from interp.errors import PromptError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.circuits import Circuit

__all__ = ["circuit"]

# Edges in the terminal; all of them are in the file.
_SHOWN = 15


@guarded()
def circuit(
    pairs: prompt_files.PairsFile = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="CSV of other pairs, to run the circuit on.",
            show_default="every second prompt of --pairs",
            parser=options.file,
            metavar="FILE",
        ),
    ] = None,
    model: options.ModelName = "reversal-curse",
    edges: Annotated[
        int, typer.Option(min=1, max=10**9, help="How many the circuit has at most.")
    ] = 40,
    method: Annotated[
        str,
        typer.Option(
            help="What scores edges: eap, eap-ig, eap-ig-activations, clean-corrupted or exact "
            "(one run for each edge)."
        ),
    ] = "eap-ig",
    metric: Metric = "logit_diff",
    seed: Annotated[
        int,
        typer.Option(min=0, max=options.MOST_SEED, help="Draws the random circuits beside it."),
    ] = 0,
    out: Out = None,
    as_json: AsJson = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    dtype: options.Dtype = "float32",
    revision: options.Revision = None,
) -> None:
    """Score the edges between components, and run the largest ones alone as a circuit.

    Edges are scored on one part of the pairs and run on the other, so that a circuit is never
    judged on what chose it. There is a circuit only where the two prompts of a pair differ clearly,
    over at least five pairs of either part.

    Examples:

    - `obverse circuit --pairs pairs.csv --edges 40`
    - `obverse circuit --pairs pairs.csv --held-out other-pairs.csv --method eap --json`
    """
    if pairs is None:
        raise PromptError("There are no pairs; give --pairs FILE, with at least ten of them.")
    wanted = ["clean", "corrupt", "answer"], ["foil", "clean_*", "corrupt_*"]
    columns = prompt_files.read_columns(pairs, *wanted)
    others = columns if held_out is None else prompt_files.read_columns(held_out, *wanted)
    with findings_kept("circuit", out, as_json) as found:
        say(f"Loading {model} …")
        lies = options.placing(device_map, offload_folder, max_memory)
        quiet_libraries()
        from interp import load_model
        from interp.circuits import attribute_edges, faithfulness_curve, prune
        from interp.circuits.faithfulness import FRACTIONS
        from interp.figures import circuit_map, faithfulness_lines
        from interp.patching.results import effect_of

        for table in (columns, others):
            prompt_files.check_foils(metric, table)
        loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
        found.title = f"obverse circuit: {loaded.name}"
        ours, theirs = (None, None) if held_out is not None else _halves(columns)
        finding = prompt_files.make_pairs(loaded, columns, ours)
        testing = prompt_files.make_pairs(loaded, others, theirs)
        reporter = TerminalReporter()
        with reporter.stage("scoring edges") as progress:
            scores = attribute_edges(loaded, finding, metric, method=method, progress=progress)  # type: ignore[arg-type]
        found.results["scores"] = scores
        found.tables["edges"] = _table(scores)
        found.numbers.update(settings=dict(scores.attrs), pairs=len(finding), held_out=len(testing))
        whole = effect_of(scores)
        found.sentences.append(
            f"Clean above corrupted run, on the {len(finding)} pairs that edges are scored on: "
            f"{whole}."
        )
        if not whole.clear:
            found.sentences.append(f"{whole.reason} So there is no circuit to speak of.")
            _show(found, "Edges by their score", found.tables["edges"])
            return
        chosen = prune(scores, edges)
        share = len(chosen) / chosen.graph.n_edges
        with reporter.stage("running circuits") as progress:
            curve = faithfulness_curve(
                loaded,
                testing,
                scores,
                metric,
                fractions=sorted({*FRACTIONS, share}),
                seed=seed,
                progress=progress,
            )
        _tell(found, chosen, curve.sel(fraction=share), edges)
        found.results["faithfulness"] = curve
        found.figures["circuit"] = circuit_map(chosen)
        found.figures["faithfulness"] = faithfulness_lines(curve)
        found.files["circuit.json"] = chosen.save


def _halves(columns: Mapping[str, Sequence[str]]) -> tuple[list[int], list[int]]:
    """Every second clean prompt is held out, with all of its pairs."""
    order = {text: number for number, text in enumerate(dict.fromkeys(columns["clean"]))}
    if len(order) < 2:
        raise PromptError(
            "One clean prompt cannot both choose a circuit and judge it; add pairs, or name others "
            "with --held-out."
        )
    rows = [order[text] % 2 for text in columns["clean"]]
    return [i for i, half in enumerate(rows) if not half], [
        i for i, half in enumerate(rows) if half
    ]


def _table(scores: xr.Dataset) -> pd.DataFrame:
    """Every edge with its score, the largest first."""
    table = scores["score"].to_series().dropna().rename("score").reset_index()
    return table.reindex(table["score"].abs().sort_values(ascending=False, kind="stable").index)


def _show(found: Findings, heading: str, table: pd.DataFrame) -> None:
    shown = Table("From", "To", "Score", box=None, pad_edge=False)
    shown.columns[2].justify = "right"
    for row in table.head(_SHOWN).to_dict("records"):
        shown.add_row(visible(row["source"]), visible(row["destination"]), f"{row['score']:+.3g}")
    found.heading, found.shown = heading, shown
    if len(table) > _SHOWN:
        found.note = f"… and {len(table) - _SHOWN:,} more in edges.csv"


def _tell(found: Findings, chosen: Circuit, at: xr.Dataset, asked: int) -> None:
    """What is claimed of a circuit: how it does on other pairs, beside what has to be beaten."""
    table = found.tables["edges"]
    included = {*chosen.edges}
    table["in_circuit"] = [
        pair in included for pair in zip(table["source"], table["destination"], strict=True)
    ]
    _show(found, "The largest edges of the circuit", table[table["in_circuit"]])
    found.sentences.append(
        f"Circuit: {len(chosen)} of {chosen.graph.n_edges:,} edges"
        + (f" ({asked} asked for)." if len(chosen) != asked else ".")
    )
    f, low, high, rest = (float(at[name]) for name in ("f", "f_low", "f_high", "complement"))
    random = [float(value) for value in at["random"].values]
    shared = int(at.attrs["shared_pairs"])
    if math.isfinite(f):
        interval = f" [{percent(low)}, {percent(high)}]" if math.isfinite(low) else ""
        found.sentences.append(
            f"Run alone on {found.numbers['held_out']} other pairs, it brings back {percent(f)}"
            f"{interval} of the difference between clean and corrupted run; all other edges "
            f"together {percent(rest)}, {len(random)} random circuits of at least its size "
            f"{percent(min(random))} to {percent(max(random))}."
        )
    else:
        found.sentences.append(str(at.attrs["reason"]))
    if shared:
        found.sentences.append(
            f"{shared} of these pairs are among those that chose the edges, so this is no test on "
            "other pairs alone."
        )
    found.numbers["faithfulness"] = {
        "share_of_edges": float(at["fraction"]),
        "f": f,
        "f_low": low,
        "f_high": high,
        "complement": rest,
        "random": random,
        "shared_pairs": shared,
        "reason": str(at.attrs["reason"]),
    }
