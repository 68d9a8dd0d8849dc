"""`obverse patch`: activation patching on the user's own prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli import options
from experiments.cli.console import guarded, quiet_libraries, say
from experiments.cli.harvest import choose_layers
from experiments.cli.instruments import prompt_files
from experiments.cli.instruments.results import AsJson, Findings, Out, findings_kept
from experiments.cli.instruments.tables import check_finite, column_names, grid_table, maps
from experiments.cli.progress import TerminalReporter

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Metric", "patch"]

Metric = Annotated[
    str,
    typer.Option(
        help="logit_diff or logprob_diff (these need foils), answer_logprob, "
        "first_token_logprob, probability or rank."
    ),
]


@guarded()
def patch(
    pairs: prompt_files.PairsFile = None,
    clean: prompt_files.Clean = None,
    corrupt: prompt_files.Corrupt = None,
    answer: prompt_files.Answer = None,
    foil: prompt_files.Foil = None,
    span: prompt_files.Spans = None,
    model: options.ModelName = "reversal-curse",
    site: Annotated[
        str,
        typer.Option(
            help="resid_pre, resid_mid, resid_post, attn_out, mlp_out, mlp_act, q, k, v, z or "
            "pattern."
        ),
    ] = "resid_pre",
    by: Annotated[
        str | None,
        typer.Option(
            help="What is replaced at a time: position, span, head or neurons, at patterns head, "
            "destination or source; several with commas.",
            show_default="head where there are heads, position elsewhere",
        ),
    ] = None,
    layers: Annotated[str, typer.Option(help="all, or such as 0,3,6 or 4-8.")] = "all",
    metric: Metric = "logit_diff",
    direction: Annotated[
        str,
        typer.Option(
            help="denoising puts clean activations into the corrupted run, noising corrupted ones "
            "into the clean run."
        ),
    ] = "denoising",
    only: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            help="Run only so many places, those with the largest estimated effect; the others "
            "are estimates.",
            show_default="all",
        ),
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    dtype: options.Dtype = "float32",
    revision: options.Revision = None,
) -> None:
    """Replace activations of one prompt by those of another, and see what the answer does.

    Each cell of the table is a run in which one activation comes from the other prompt; the numbers
    are those of one full forward pass for each cell. Where the two prompts differ clearly over at
    least five pairs, a cell is the share of that difference; elsewhere it is the change of the
    metric itself.

    Examples:

    - `obverse patch --pairs pairs.csv --site resid_pre`
    - `obverse patch --pairs pairs.csv --site z --by head,position --metric logprob_diff --json`
    - `obverse patch --clean "Tom's son is" --corrupt "Ben's son is" --answer Mary --foil Anne`
    """
    columns = prompt_files.pair_columns(pairs, clean, corrupt, answer, foil, span)
    with findings_kept("patch", out, as_json) as found:
        say(f"Loading {model} …")
        lies = options.placing(device_map, offload_folder, max_memory)
        quiet_libraries()
        from interp import load_model, sweep

        prompt_files.check_foils(metric, columns)
        loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
        chosen = choose_layers(layers, loaded.n_layers)
        found.title = f"obverse patch: {site} of {loaded.name}"
        axes = None if by is None else [part.strip() for part in by.split(",")]
        made = prompt_files.make_pairs(loaded, columns)
        with TerminalReporter().stage("patching") as progress:
            result = sweep(
                loaded,
                made,
                site,
                metric,
                only=only,
                progress=progress,
                by=axes,  # type: ignore[arg-type]
                layers=chosen,
                direction=direction,  # type: ignore[arg-type]
            )
        _tell(found, result)


def _tell(found: Findings, result: xr.Dataset) -> None:
    from interp.figures import patching_map
    from interp.patching import normalised
    from interp.patching.results import effect_of

    check_finite(result, ("clean", "corrupt"))
    whole, shares = effect_of(result), normalised(result)
    base = "corrupt" if result.attrs["direction"] == "denoising" else "clean"
    change = result["patched"] - result[base]
    n, unit = result.sizes["example"], str(result.attrs["unit"])
    axes = [str(dim) for dim in change.dims if dim not in ("example", "layer")]
    table = change.mean("example").rename("change").to_dataframe()[["change"]]
    if whole.clear:
        table["share"] = shares.mean("example").to_series()
    table = table.reset_index()
    for axis in axes:
        if f"{axis}_label" in result.coords:
            names = dict(zip(result[axis].values, result[f"{axis}_label"].values, strict=True))
            table[axis] = table[axis].map(names)
    found.tables["patch"] = table
    found.results["patch"] = result
    shown = (shares if whole.clear else change).mean("example").transpose("layer", *axes).values
    site, metric = result.attrs["site"], result.attrs["metric"]
    if not whole.clear:
        found.heading = f"Change of {metric} from the {base} run, in {unit}"
    elif base == "corrupt":
        found.heading = f"Share of the difference between the runs that {site} brings back"
    else:
        found.heading = f"Share of the difference that is left where {site} is replaced"
    found.shown, found.note = grid_table(
        shown.reshape(result.sizes["layer"], -1),
        [str(layer) for layer in result["layer"].values],
        column_names(result, axes, {"head": "head ", "neurons": "neurons "}),
    )
    pairs = f"{n} pair{'s' if n > 1 else ''}"
    found.sentences.append(f"Clean above corrupted run: {whole} ({pairs}).")
    if whole.reason:
        found.sentences.append(whole.reason)
    if "exact" in result:
        run, of = int(result["exact"].sum()), int(result["exact"].size)
        found.sentences.append(f"{run} of {of} places were run; the others are estimates.")
    found.figures.update(maps(result, patching_map, ("example", "layer", axes[0])))
    found.numbers.update(
        clean=float(result["clean"].mean()),
        corrupt=float(result["corrupt"].mean()),
        effect=whole.attrs,
        settings=dict(result.attrs),
        pairs=n,
    )
