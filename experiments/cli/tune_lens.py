"""`obverse tune-lens`: train a tuned lens on a corpus."""

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
    from interp import TunedLens

__all__ = ["tune_lens"]


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
    quiet_libraries()
    options.use_cache(cache)
    wanted = None if tokens is None else parse_count(tokens)

    from interp import load_model, train_tuned_lens

    loaded = load_model(model, device=device, dtype=dtype, revision=revision)
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
