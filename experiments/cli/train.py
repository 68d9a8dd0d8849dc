"""`obverse train`: make an organism."""

from __future__ import annotations

import difflib
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli import options
from experiments.cli.console import guarded, quiet_libraries, say
from experiments.cli.progress import TerminalReporter
from experiments.errors import StudyError
from experiments.numbers import percent

__all__ = ["train"]

_ORGANISMS = ("reversal-curse",)


@guarded(stopped="Stopped; run the same command again to go on.")
def train(
    organism: Annotated[str, typer.Argument(help=f"What to train: {', '.join(_ORGANISMS)}.")],
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=options.MOST_SEED,
            help="Draws the people, the order of the texts, the weights.",
        ),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the model.",
            show_default="organisms/NAME-SEED",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Train a small model that shows a phenomenon by construction.

    Takes about a minute on one core. The folder it leaves is a Hugging Face model, with the facts
    it was and was not told; every command takes it as --model. A training that was stopped goes on
    when the same command is given again.

    Example:

    - `obverse train reversal-curse --seed 1`
    """
    if organism not in _ORGANISMS:
        near = difflib.get_close_matches(organism, _ORGANISMS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(_ORGANISMS)}."
        raise StudyError(f"Unknown organism '{organism}'; {hint}")
    folder = out if out is not None else Path("organisms") / f"{organism}-{seed}"
    say(f"Training {organism} with seed {seed} …")
    quiet_libraries()
    from transformers.utils import logging as transformers_logging

    from experiments.organisms.train import TrainConfig
    from experiments.organisms.train import train as train_organism

    transformers_logging.disable_progress_bar()
    steps = 0
    measured: tuple[Any, Any] | None = None
    with TerminalReporter().stage("training") as update:

        def progress(step: int, total: int, info: dict[str, Any]) -> None:
            nonlocal steps, measured
            steps += 1
            update(step, total)
            now = (info["forward"], info["reverse"])
            if None not in now and now != measured:
                measured = now
                say(
                    f"  step {step}: loss {info['loss']:.2f} nats a token, "
                    f"forward {percent(now[0])}, reverse {percent(now[1])}"
                )

        train_organism(TrainConfig(seed=seed), folder, progress)
    if steps == 0:
        say("It was trained before; nothing to compute.")
    model = shlex.quote(str(folder))
    say("")
    say(f"Model: {folder}")
    say(f'Ask:   obverse lens "Tom Cruise\'s mother is" --model {model}')
    say(f"Study: obverse run reversal-curse --model {model}")
