"""`obverse transplant`: vectors of one prompt written into another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli import options
from experiments.cli.console import guarded, quiet_libraries, say, visible
from experiments.cli.harvest import choose_layers
from experiments.cli.instruments.prompt_files import Answer, check_foils, spaced, table_or_one
from experiments.cli.instruments.results import AsJson, Findings, Out, findings_kept
from experiments.cli.instruments.tables import check_finite, column_names, grid_table, maps
from experiments.cli.progress import TerminalReporter

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["transplant"]


@guarded()
def transplant(
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="CSV with a row for each example: source, target, answer and foil (both may be "
            "missing). Columns source_NAME and target_NAME hold the words of a span.",
            parser=options.file,
            metavar="FILE",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Instead of a file: the prompt whose vectors are read.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The prompt that they are written to.")] = None,
    answer: Answer = None,
    source_at: Annotated[
        str,
        typer.Option(
            help="Where to read: last, all (each token on its own), a token's number (-1 is the "
            "last), or the name of a span."
        ),
    ] = "last",
    target_at: Annotated[str, typer.Option(help="Where to write, likewise.")] = "last",
    site: Annotated[
        str, typer.Option(help="resid_pre, resid_mid, resid_post, attn_out, mlp_out, z …")
    ] = "resid_post",
    source_layers: Annotated[
        str, typer.Option(help="From which: all, or such as 0,3,6 or 4-8.")
    ] = "all",
    target_layers: Annotated[str, typer.Option(help="To which, likewise.")] = "all",
    metric: Annotated[
        str,
        typer.Option(
            help="What is read of the answer: answer_logprob, first_token_logprob, probability or "
            "rank; with foils also logit_diff or logprob_diff."
        ),
    ] = "answer_logprob",
    model: options.ModelName = "reversal-curse",
    out: Out = None,
    as_json: AsJson = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    dtype: options.Dtype = "float32",
    revision: options.Revision = None,
) -> None:
    """Read a vector in one prompt, write it into another, and see what follows there.

    All source layers into all target layers; each cell is a run of its own, and the numbers are
    those of a full forward pass. Without answers, cells are the likeliest next token.

    Examples:

    - `obverse transplant --prompts carried.csv --source-at name --target-at name`
    - `obverse transplant --source "Tom Cruise's mother is" --target "Mary Lee Pfeiffer's son is"`
    """
    columns = table_or_one(
        prompts,
        "prompts",
        {"source": source, "target": target, "answer": answer},
        needed=["source", "target"],
        optional=["answer", "foil", "source_*", "target_*"],
    )
    with findings_kept("transplant", out, as_json) as found:
        say(f"Loading {model} …")
        lies = options.placing(device_map, offload_folder, max_memory)
        quiet_libraries()
        from interp import load_model
        from interp import transplant as run

        if "answer" in columns:
            check_foils(metric, columns)
        loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
        found.title = f"obverse transplant: {site} of {loaded.name}"
        targets = columns["target"]
        answers, foils = (
            spaced(targets, columns[name]) if name in columns else None
            for name in ("answer", "foil")
        )
        with TerminalReporter().stage("transplanting") as progress:
            result = run(
                loaded,
                columns["source"],
                targets,
                source_at=_place(source_at),
                target_at=_place(target_at),
                source_spans=_spans(columns, "source_"),
                target_spans=_spans(columns, "target_"),
                site=site,
                source_layers=choose_layers(source_layers, loaded.n_layers),
                target_layers=choose_layers(target_layers, loaded.n_layers),
                metric=metric,
                answers=answers,
                foils=foils,
                next_tokens=1,
                progress=progress,
            )
        _tell(found, result)


def _place(written: str) -> int | str | None:
    """A place as `interp.transplant` takes it; None is every token on its own."""
    if re.fullmatch(r"-?[0-9]{1,9}", written):
        return int(written)
    return None if written == "all" else written


def _spans(columns: dict[str, list[str]], prefix: str) -> dict[str, list[str]] | None:
    found = {
        name.removeprefix(prefix): values
        for name, values in columns.items()
        if name.startswith(prefix) and name != prefix
    }
    return found or None


def _tell(found: Findings, result: xr.Dataset) -> None:
    from interp.figures import transplant_map
    from interp.figures.drawing.numbers import plain

    n = result.sizes["example"]
    scored = "patched" in result
    found.results["transplant"] = result
    names = ["patched", "top_token", "top_prob"] if scored else ["top_token", "top_prob"]
    first = result[names].isel(k=0)
    found.tables["transplant"] = first.to_dataframe()[names].dropna().reset_index()
    axes = [str(d) for d in first["top_token"].dims if d not in ("example", "target_layer")]
    rows = [str(layer) for layer in result["target_layer"].values]
    heads = column_names(result, axes, {"source_layer": "from "})
    unpatched = [str(token) for token in result["unpatched_top_token"].isel(k=0).values]
    if scored:
        check_finite(result, ("unpatched",))
        change = (result["patched"] - result["unpatched"]).mean("example")
        values = change.transpose("target_layer", *axes).values.reshape(len(rows), -1)
        metric, unit = result.attrs["metric"], result.attrs["unit"]
        over = f", mean over {n} examples" if n > 1 else ""
        found.heading = f"Change of {metric}, in {unit}{over} (from a layer: columns; to: rows)"
        found.shown, found.note = grid_table(values, rows, heads, corner="to")
        found.sentences.append(
            f"As it is, {metric} is {plain(float(result['unpatched'].mean()))} {unit}{over}."
        )
        if n == 1:
            found.sentences.append("One example says nothing of others.")
        found.figures.update(
            maps(result, transplant_map, ("example", "source_layer", "target_layer"))
        )
        found.numbers["unpatched"] = float(result["unpatched"].mean())
    else:
        tokens = first["top_token"].isel(example=0).transpose("target_layer", *axes).values
        found.heading = (
            "Likeliest next token of the first example (from a layer: columns; to: rows)"
        )
        found.shown, found.note = grid_table(
            tokens.reshape(len(rows), -1), rows, heads, corner="to"
        )
    which = " of the first example" if n > 1 else ""
    found.sentences.append(
        f"Likeliest next token{which} as it is: {visible(unpatched[0], spaces=True)}"
    )
    found.numbers.update(settings=dict(result.attrs), examples=n, unpatched_top_token=unpatched)
