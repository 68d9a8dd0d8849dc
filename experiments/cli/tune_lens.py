"""`obverse tune-lens` and `obverse fit-lens`: a tuned and a Jacobian lens from a corpus."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from experiments.cli import options
from experiments.cli.console import guarded, output, quiet_libraries, say
from experiments.cli.harvest import parse_count
from experiments.cli.progress import TerminalReporter

if TYPE_CHECKING:
    from interp import JacobianLens, TunedLens

__all__ = ["fit_lens", "tune_lens"]


@guarded(stopped="Stopped; run the same command again to go on.")
def tune_lens(
    text: options.Corpus,
    model: options.ModelName = "reversal-curse",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the lens.",
            show_default="lenses/MODEL",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
    tokens: options.Tokens = None,
    context: options.RowLength = None,
    steps: Annotated[int, typer.Option(min=1, max=10**9, help="Of training, at most.")] = 1000,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=options.MOST_SEED,
            help="Draws the held-out rows, and the order of the others.",
        ),
    ] = 0,
    cache: options.Cache = None,
    dtype: options.Dtype = "float32",
    store_dtype: Annotated[
        str | None,
        typer.Option(help="Of what is in the store.", show_default="that of the weights"),
    ] = None,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    revision: options.Revision = None,
) -> None:
    """Train a tuned lens: for each layer an affine map that makes the logit lens see better.

    Layers are read as `obverse lens` does, after a map that brings their reading as near as
    possible to the model's own prediction (Belrose et al. 2023). The training ends when text that
    was held out is no longer read better; one that was stopped goes on with the same command.

    Example:

    - `obverse tune-lens --text corpus.txt --model gpt2 --out my-lens`
    """
    say(f"Loading {model} …")
    lies = options.placing(device_map, offload_folder, max_memory)
    quiet_libraries()
    options.use_cache(cache)
    wanted = None if tokens is None else parse_count(tokens)

    from interp import load_model, train_tuned_lens

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
    folder = out if out is not None else Path("lenses") / loaded.name
    with TerminalReporter().stage("training") as progress:
        lens = train_tuned_lens(
            loaded,
            text,
            dtype=store_dtype,
            tokens=wanted,
            context=context,
            steps=steps,
            seed=seed,
            folder=folder,
            progress=progress,
        )
    output().print(_curve(lens))
    say(f"Lens: {folder}")
    say(f'Use:  obverse lens "…" --model {shlex.quote(model)} --tuned {shlex.quote(str(folder))}')


def _curve(lens: TunedLens) -> Table:
    table = Table("layer", "logit lens", "tuned lens", box=None, pad_edge=False)
    table.caption, table.caption_justify = "KL to the model's prediction, held-out text", "left"
    for column in table.columns[1:]:
        column.justify = "right"
    for layer, (plain, tuned) in enumerate(zip(lens.logit_kl, lens.tuned_kl, strict=True)):
        name = "embedding" if layer == 0 else str(layer)
        table.add_row(name, f"{plain:.3f} nats", f"{tuned:.3f} nats")
    return table


@guarded(stopped="Stopped; run the same command again to go on.")
def fit_lens(
    text: options.Corpus,
    model: options.ModelName = "reversal-curse",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the lens.",
            show_default="lenses/MODEL-jacobian",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
    tokens: options.Tokens = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**31,
            help="Tokens of a prompt.",
            show_default="128, or as many as the model takes",
        ),
    ] = None,
    skip_first: Annotated[
        int,
        typer.Option(
            min=0, max=2**31, help="Positions at the start of a prompt that are left out."
        ),
    ] = 16,
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    revision: options.Revision = None,
) -> None:
    """Fit a Jacobian lens: for each layer what its stream does to the last one, on average.

    The mean Jacobian over a corpus (Gurnee et al. 2026), in a file that TransformerLens reads too.
    A hundred prompts of 128 tokens are often enough: the table tells how well each layer's matrix
    is known. A fit that was stopped goes on with the same command.

    Example:

    - `obverse fit-lens --text corpus.txt --model gpt2 --tokens 13k --out my-jacobian-lens`
    """
    say(f"Loading {model} …")
    lies = options.placing(device_map, offload_folder, max_memory)
    quiet_libraries()
    wanted = None if tokens is None else parse_count(tokens)

    from interp import fit_jacobian_lens, load_model

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
    folder = out if out is not None else Path("lenses") / f"{loaded.name}-jacobian"
    with TerminalReporter().stage("fitting") as progress:
        lens = fit_jacobian_lens(
            loaded,
            text,
            tokens=wanted,
            context=context,
            skip_first=skip_first,
            folder=folder,
            progress=progress,
        )
    output().print(_spread(lens))
    say(f"Lens: {folder}")
    path = shlex.quote(str(folder))
    say(f'Use:  obverse lens "…" --model {shlex.quote(model)} --jacobian {path}')


def _spread(lens: JacobianLens) -> Table:
    table = Table("layer", "from the identity", "standard error", box=None, pad_edge=False)
    table.caption = f"Of the mean over {lens.n_prompts:,} prompts, as a share of its length"
    table.caption_justify = "left"
    found = lens.spread()
    for column in table.columns[1:]:
        column.justify = "right"
    for layer in found["layer"].values.tolist():
        one = found.sel(layer=layer)
        error = float(one["standard_error"])
        name = "embedding" if layer == 0 else str(layer)
        known = "–" if error != error else f"{error:.1%}"
        table.add_row(name, f"{float(one['distance']):.2f}", known)
    return table
