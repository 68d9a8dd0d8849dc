"""`obverse lens`: what a model says next, and from which layer on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.style import Style
from rich.table import Table
from rich.text import Text

from experiments import numbers
from experiments.cli import options
from experiments.cli.console import guarded, output, quiet_libraries, say, visible

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["lens"]

_CELL = 12  # characters of a token shown in the table of layers
_PADDING = 2
_RIGHT_COLUMN = 14
_DARK = (24, 34, 52)
_BRIGHT = (86, 180, 233)  # sky blue of the Okabe–Ito palette


@guarded()
def lens(
    prompt: Annotated[str, typer.Argument(help="A text to be continued.")],
    model: Annotated[
        str, typer.Option(help="Bundled model, local Hugging Face folder, or hub id.")
    ] = "reversal-curse",
    answer: Annotated[
        str | None,
        typer.Option(
            help="Follow this continuation (its first token) too. A word begins with the space "
            "that is missing between it and the prompt."
        ),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            help="Read through the tuned lens in this folder.",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
    jacobian: Annotated[
        Path | None,
        typer.Option(
            help="Read through the Jacobian lens in this file or folder.",
            parser=options.file_or_folder,
            metavar="PATH",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="How many next tokens to list.")] = 5,
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
    max_memory: options.MaxMemory = None,
    dtype: options.Dtype = "float32",
    revision: options.Revision = None,
) -> None:
    """Show the likeliest next tokens, and the logit lens: each layer read as a prediction.

    The lens has a row for each layer, the last on top, and a column for each token of the prompt
    (the last ones that fit the window). A cell holds the token that the layer would predict there;
    the brighter, the likelier. Blanks in tokens are shown as ·

    Examples:

    - `obverse lens "Tom Cruise's mother is"`
    - `obverse lens "Mary Lee Pfeiffer's son is" --answer "Tom Cruise"`
    - `obverse lens "Tom Cruise's mother is" --tuned lenses/reversal-curse`
    - `obverse lens "Tom Cruise's mother is" --jacobian lenses/reversal-curse-jacobian`
    """
    if tuned is not None and jacobian is not None:
        raise typer.BadParameter("A prompt is read through one lens; give --tuned or --jacobian.")
    say(f"Loading {model} …")
    lies = options.placing(device_map, offload_folder, max_memory)
    quiet_libraries()
    from interp import JacobianLens, TunedLens, load_model
    from interp.lens.logit import logit_lens

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, **lies)
    answer = None if answer is None else with_space(prompt, answer)
    answers = None if answer is None else [answer]
    through: TunedLens | JacobianLens | None = None
    if tuned is not None:
        through = TunedLens.load(tuned, loaded)
    elif jacobian is not None:
        through = JacobianLens.load(jacobian, loaded)
    result = logit_lens(loaded, [prompt], answers, lens=through, k=top).isel(example=0)
    console = output()
    console.print()
    console.print(next_token_table(result))
    if answer is not None:
        final = result.isel(layer=-1, position=-1)
        say(_answer_line(answer, int(final.answer_rank), float(final.answer_logprob)))
    console.print()
    console.print(layer_table(result, console.width, followed=answer is not None))


def with_space(prompt: str, answer: str) -> str:
    """The answer with the space that stands before it in a text, as in studies.

    Scripts that write no spaces between words (Thai, Chinese, Japanese) get none; Korean does.
    """
    spaced = ord(answer[0]) < 0x0E00 or "가" <= answer[0] <= "힣" if answer else False
    missing = spaced and answer[0].isalnum() and prompt[-1:].strip() != ""
    return f" {answer}" if missing else answer


def next_token_table(result: xr.Dataset) -> Table:
    final = result.isel(layer=-1, position=-1)
    table = Table("Next token", "Probability", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for token, probability in zip(
        final.top_token.values.tolist(), final.top_prob.values.tolist(), strict=True
    ):
        table.add_row(Text(visible(str(token), spaces=True)), numbers.probability(probability))
    return table


def _answer_line(answer: str, rank: int, logprob: float) -> str:
    ahead = {0: "the likeliest", 1: "one token is likelier"}.get(
        rank, f"{rank} tokens are likelier"
    )
    return f"First token of '{answer}': {ahead}, log-probability {logprob:.2f} nats."


def layer_table(result: xr.Dataset, width: int, *, followed: bool) -> Table:
    """Rows are layers from the last to the embedding, columns the last positions that fit."""
    from interp.figures.drawing.numbers import rank as ranked

    tokens = [str(token) for token in result.token.values.tolist()]
    space = width - len("embedding") - _PADDING - (_RIGHT_COLUMN if followed else 0)
    shown = max(1, min(len(tokens), space // (_CELL + _PADDING)))
    first = len(tokens) - shown
    table = Table(box=None, pad_edge=False, padding=(0, _PADDING, 0, 0))
    table.add_column("layer", no_wrap=True)
    for token in tokens[first:]:
        table.add_column(Text(_short(token)), no_wrap=True)
    if followed:
        table.add_column("answer rank", justify="right", no_wrap=True)
    top = result.top_token.isel(k=0).values
    probability = result.top_prob.isel(k=0).values
    # A Jacobian lens may leave layers out.
    layers = [int(layer) for layer in result["layer"].values]
    for layer in reversed(range(len(layers))):
        cells = [
            cell_text(str(top[layer, position]), float(probability[layer, position]))
            for position in range(first, len(tokens))
        ]
        name = "embedding" if layers[layer] == 0 else str(layers[layer])
        row = [Text(name), *cells]
        if followed:
            rank = float(result.answer_rank.values[layer, -1])
            row.append(Text("—" if rank < 0 else ranked(rank)))
        table.add_row(*row)
    if first > 0:
        table.caption = f"The first {first} of {len(tokens)} tokens do not fit the window."
        table.caption_justify = "left"
    return table


def cell_text(token: str, probability: float) -> Text:
    if math.isnan(probability):  # the logits are not finite there
        return Text("—".ljust(_CELL))
    share = min(max(probability, 0.0), 1.0)
    colour = [round(a + (b - a) * share) for a, b in zip(_DARK, _BRIGHT, strict=True)]
    ink = "black" if share > 0.5 else "white"
    background = f"rgb({colour[0]},{colour[1]},{colour[2]})"
    return Text(_short(token).ljust(_CELL), Style.parse(f"{ink} on {background}"))


def _short(token: str) -> str:
    text = visible(token, spaces=True)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
