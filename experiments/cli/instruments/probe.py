"""`obverse probe`: what a linear reader decodes from activations, beside its controls."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from experiments.cli import options
from experiments.cli.console import guarded, quiet_libraries, say, visible
from experiments.cli.harvest import choose_sites
from experiments.cli.instruments.prompt_files import read_columns
from experiments.cli.instruments.results import AsJson, Findings, Out, findings_kept
from experiments.cli.progress import TerminalReporter
from experiments.numbers import percent
from interp.errors import PromptError

if TYPE_CHECKING:
    import xarray as xr

    from probes.collect import Places

__all__ = ["probe"]

_LEVEL = 0.05

_COLUMNS = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "control",
    "selectivity",
    "selectivity_low",
    "selectivity_high",
    "auroc",
    "p_value",
    "p_corrected",
)


@guarded()
def probe(
    texts: Annotated[
        Path,
        typer.Option(
            help="CSV with a row for each example: text and label; group holds what belongs "
            "together and is held out together (an entity), type what control labels go by.",
            parser=options.file,
            metavar="FILE",
        ),
    ],
    model: options.ModelName = "reversal-curse",
    sites: Annotated[
        str, typer.Option(help="Kinds of activations of one width, such as resid_post or z.")
    ] = "resid_post",
    layers: Annotated[str, typer.Option(help="all, or such as 0,3,6 or 4-8.")] = "all",
    position: Annotated[
        str, typer.Option(help="last, all, or a token's number; -1 is the last.")
    ] = "last",
    seed: Annotated[
        int,
        typer.Option(min=0, max=options.MOST_SEED, help="Draws folds, controls and shuffles."),
    ] = 0,
    cache: options.Cache = None,
    out: Out = None,
    as_json: AsJson = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    dtype: options.Dtype = "float32",
    revision: options.Revision = None,
) -> None:
    """Decode labels from activations, on groups of examples that the probe has not seen.

    Beside each accuracy stands that of control labels, which are random for each word type, and
    what answering without looking gets; p values are those of shuffled labels, corrected for the
    number of sites. That something can be decoded does not say that the model uses it.

    Examples:

    - `obverse probe --texts labelled.csv --sites resid_post`
    - `obverse probe --texts labelled.csv --sites mlp_out --layers 0-1 --position -1 --json`
    """
    columns = read_columns(texts, ["text", "label"], ["group", "type"])
    with findings_kept("probe", out, as_json) as found:
        say(f"Loading {model} …")
        lies = options.placing(device_map, offload_folder, max_memory)
        quiet_libraries()
        options.use_cache(cache)
        where = _places(position)
        from interp import load_model
        from probes import collect, probe_report
        from probes.figures import probe_lines

        loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
        found.title = f"obverse probe: {sites} of {loaded.name}"
        named = choose_sites(sites, layers, loaded.n_layers)
        reporter = TerminalReporter()
        with reporter.stage("reading activations") as progress:
            features = collect(loaded, columns["text"], named, positions=where, progress=progress)
        each = range(len(features)) if features.prompts is None else features.prompts.tolist()
        labelled = {name: [values[i] for i in each] for name, values in columns.items()}
        with reporter.stage("probing") as progress:
            report = probe_report(
                features,
                labelled["label"],
                groups=labelled.get("group"),
                types=labelled.get("type"),
                seed=seed,
                progress=progress,
            )
        _tell(found, report)
        found.figures["probe"] = probe_lines(report)


def _places(written: str) -> Places:
    """What `probes.collect` calls the position.

    Raises:
        PromptError: it is none.
    """
    if written in ("last", "all"):
        return "last" if written == "last" else "all"
    if not re.fullmatch(r"-?[0-9]{1,9}", written):
        raise PromptError(
            f"'{written}' is no position; write last, all, or a token's number such as -2."
        )
    return {f"token {int(written)}": int(written)}


def _tell(found: Findings, report: xr.Dataset) -> None:
    table = report[[*_COLUMNS]].to_dataframe().reset_index()
    found.tables["probe"] = table
    found.results["probe"] = report
    shown = Table("Site", "Accuracy", "Control", "Selectivity", "p", box=None, pad_edge=False)
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in table.to_dict("records"):
        shown.add_row(
            visible(str(row["site"])),
            _with_interval(row, "accuracy"),
            percent(float(row["control"])),
            _with_interval(row, "selectivity"),
            "<0.001" if row["p_corrected"] < 0.001 else f"{row['p_corrected']:.3f}",
        )
    found.heading, found.shown = "Accuracy on groups that were held out", shown
    found.note = f"Answering without looking: {percent(float(report['majority']))}"
    low = [str(row["site"]) for row in table.to_dict("records") if row["p_corrected"] < _LEVEL]
    found.sentences.append(
        f"Labels are told better than shuffled ones (p < {_LEVEL}, corrected for "
        f"{len(table)} sites) at {', '.join(low)}."
        if low
        else f"At none of {len(table)} sites are labels told better than shuffled ones "
        f"(p < {_LEVEL}, corrected); of this many examples, that is no proof of absence."
    )
    found.numbers.update(majority=float(report["majority"]), settings=dict(report.attrs))


def _with_interval(row: dict[Hashable, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = f" [{percent(low)}, {percent(high)}]" if math.isfinite(low) else ""
    return f"{percent(row[name])}{interval}"
