"""`obverse diff`: what tells two models of one shape apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from experiments.cli import options
from experiments.cli.console import guarded, quiet_libraries, say, visible
from experiments.cli.instruments.prompt_files import (
    Answer,
    Foil,
    check_foils,
    read_columns,
    spaced,
    table_or_one,
)
from experiments.cli.instruments.results import AsJson, Findings, Out, findings_kept
from experiments.cli.progress import TerminalReporter
from experiments.numbers import percent

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.comparison import Comparison

__all__ = ["diff"]

# Tokens that the mean difference promotes, in the terminal.
_TOKENS = 5


@guarded()
def diff(
    base: Annotated[
        str, typer.Argument(help="The model before: bundled, a local folder, or a hub id.")
    ],
    tuned: Annotated[str, typer.Argument(help="The model after, of the same shape.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="CSV with a row for each prompt: text, and answer and foil where modules are to "
            "be swapped.",
            parser=options.file,
            metavar="FILE",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Instead of a file: one prompt.")] = None,
    answer: Answer = None,
    foil: Foil = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="CSV with texts about nothing in particular (column text), over whose first "
            "tokens the mean difference is taken.",
            parser=options.file,
            metavar="FILE",
        ),
    ] = None,
    twin: Annotated[
        str | None,
        typer.Option(help="A control, measured too: the base tuned on something else."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What is read of the answers: answer_logprob, first_token_logprob, probability "
            "or rank; with foils also logit_diff or logprob_diff.",
            show_default="logit_diff with foils, answer_logprob without",
        ),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    dtype: options.Dtype = "float32",
) -> None:
    """Compare two models: activations, weights, modules swapped, and a mean difference read out.

    A difference of activations or of weights is no effect; what a part does is seen where it is
    swapped, for which prompts need answers. Swaps do not add up: a part may do nothing alone and
    much together with others.

    Examples:

    - `obverse diff base-model tuned-model --prompts questions.csv`
    - `obverse diff base-model tuned-model --prompts questions.csv --texts unrelated.csv --json`
    """
    columns = table_or_one(
        prompts,
        "prompts",
        {"text": prompt, "answer": answer, "foil": foil},
        needed=["text"],
        optional=["answer", "foil"],
        text_option="prompt",
    )
    unrelated = None if texts is None else read_columns(texts, ["text"])["text"]
    with findings_kept("diff", out, as_json) as found:
        lies = options.placing(device_map, offload_folder, max_memory)
        quiet_libraries()
        from interp import compare_models, load_model

        if metric is not None and "answer" in columns:
            check_foils(metric, columns)
        loaded = []
        for name in (base, tuned, *([] if twin is None else [twin])):
            say(f"Loading {name} …")
            loaded.append(load_model(name, device=device, dtype=dtype, **lies))
        found.title = f"obverse diff: {loaded[0].name} and {loaded[1].name}"
        answers, foils = (
            spaced(columns["text"], columns[name]) if name in columns else None
            for name in ("answer", "foil")
        )
        with TerminalReporter().stage("comparing") as progress:
            result = compare_models(
                loaded[0],
                loaded[1],
                columns["text"],
                twin=loaded[2] if twin is not None else None,
                answers=answers,
                foils=foils,
                metric=metric or ("answer_logprob" if foils is None else "logit_diff"),
                texts=unrelated,
                progress=progress,
            )
        _tell(found, result)


def _tell(found: Findings, result: Comparison) -> None:
    from interp.figures import difference_map, spectrum_lines, swap_lines

    parts = {name: part for name, part in vars(result).items() if part is not None}
    found.results.update(parts)
    of = result.weights.sel(model="tuned")
    table = of["part_relative"].to_series().rename("weights_changed").reset_index()
    _add_swaps(found, result, table)
    found.tables["parts"] = table
    found.tables["activations"] = (
        result.activations[["norm", "relative", "cosine"]].to_dataframe().dropna().reset_index()
    )
    found.tables["weights"] = (
        result.weights[["norm", "relative", "effective_rank"]].to_dataframe().reset_index()
    )
    _show(found, table)
    found.figures["activations"] = difference_map(result.activations, None)
    if result.swaps is not None:
        found.figures["swaps"] = swap_lines(result.swaps)
    if bool((result.weights["norm"] > 0).any()):
        found.figures["weights"] = spectrum_lines(result.weights)
    else:
        found.sentences.append("No weight differs.")
    if result.means is not None:
        _tell_means(found, result.means)
    found.numbers["settings"] = dict(result.weights.attrs)


def _add_swaps(found: Findings, result: Comparison, table: pd.DataFrame) -> None:
    """Columns with what each part of the tuned model does in the base, as shares if possible."""
    from interp.comparison import change_shares
    from interp.figures.drawing.numbers import plain

    if result.swaps is None:
        found.sentences.append(
            "Without answers no modules are swapped: nothing is said of effects."
        )
        return
    swaps = result.swaps.sel(model="tuned")
    # What tied models swap together has no weights of its own.
    for part in [name for name in swaps["part"].values if name not in {*table["part"]}]:
        table.loc[len(table), "part"] = part
    shares = change_shares(swaps).sel(into="base")
    clear = bool(shares.attrs["clear"])
    change = (swaps["swapped"].sel(into="base") - swaps["base"]).mean("example")
    for order in ("single", "below", "above"):
        column = change.sel(order=order).to_series()
        table[f"{order}_change"] = table["part"].map(column)
        for name in ("share", "low", "high") if clear else ():
            table[f"{order}_{name}"] = table["part"].map(shares[name].sel(order=order).to_series())
    effect, low, high = (float(shares.attrs[f"effect{end}"]) for end in ("", "_low", "_high"))
    unit, metric, n = swaps.attrs["unit"], swaps.attrs["metric"], swaps.sizes["example"]
    interval = f" [{plain(low)}, {plain(high)}]" if math.isfinite(low) else ""
    found.sentences.append(
        f"{metric} of the tuned model above the base: {plain(effect)} {unit}{interval} "
        f"({n} prompt{'s' if n > 1 else ''})."
    )
    if not clear:
        found.sentences.append(str(shares.attrs["reason"]))
    found.numbers["effect"] = {"mean": effect, "low": low, "high": high, "clear": clear}


def _show(found: Findings, table: pd.DataFrame) -> None:
    from interp.figures.drawing.numbers import plain

    clear, swapped = "single_share" in table, "single_change" in table
    heads = {"single": "Alone", "below": "All up to it", "above": "All from it on"}
    shown = Table(
        "Part", "Weights changed", *(heads.values() if swapped else ()), box=None, pad_edge=False
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in table.to_dict("records"):
        weights = float(row["weights_changed"])
        cells = [visible(str(row["part"])), f"{weights:.2g}" if math.isfinite(weights) else ""]
        for order in heads if swapped else ():
            value = row[f"{order}_{'share' if clear else 'change'}"]
            text = percent(value) if clear else plain(value)
            cells.append(text if math.isfinite(value) else "")
        shown.add_row(*cells)
    found.shown = shown
    found.heading = "Norm of each part's change, relative to its weights"
    if clear:
        found.heading += "; share of the difference that parts of the tuned model bring to the base"
    elif swapped:
        found.heading += "; change of the base with parts of the tuned model"


def _tell_means(found: Findings, means: xr.Dataset) -> None:
    """What the mean difference promotes where it is longest, beside random directions."""
    from interp.figures.drawing.numbers import plain

    tuned = means.sel(model="tuned")
    norm = tuned["norm"].isel(layer=-1)
    if bool((norm > 0).any()):
        position = int(norm.fillna(0).values.argmax())
        at = tuned.isel(layer=-1, lens=0, position=position)
        words = [visible(str(word), spaces=True) for word in at["top_token"].values[:_TOKENS]]
        largest, control = float(at["top_logit"][0]), float(at["control_logit"].max())
        found.sentences.append(
            f"Where it is longest (token {position} of unrelated texts, last layer), the mean "
            f"difference promotes {', '.join(words)} most: {plain(largest, 1)} logits, random "
            f"directions of its length at most {plain(control, 1)}."
        )
    table = tuned[["top_token", "top_logit"]].to_dataframe()[["top_token", "top_logit"]]
    found.tables["tokens"] = table.reset_index()
