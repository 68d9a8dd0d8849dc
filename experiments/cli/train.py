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
from experiments.organisms.arms import ARMS, PLAIN, arm_config

__all__ = ["arms_help", "train"]

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
    arm: Annotated[
        str,
        typer.Option(
            help=f"What is told or done otherwise: {', '.join(ARMS)} (see below).",
            metavar="NAME",
        ),
    ] = PLAIN,
    keep: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            metavar="STEP",
            help="Also keep the model after this step (0: before the first); can be repeated.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the model.",
            show_default="organisms/NAME[-ARM]-SEED",
            parser=options.folder,
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Train a small model that shows a phenomenon by construction.

    Takes about a minute on one core. The folder it leaves is a Hugging Face model, with the facts
    it was and was not told; every command takes it as --model. A training that was stopped goes on
    when the same command is given again. What --keep keeps are models too, in FOLDER/steps.

    Example:

    - `obverse train reversal-curse --seed 1`
    - `obverse train reversal-curse --arm reversed-text`
    """
    if organism not in _ORGANISMS:
        near = difflib.get_close_matches(organism, _ORGANISMS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(_ORGANISMS)}."
        raise StudyError(f"Unknown organism '{organism}'; {hint}")
    config = arm_config(arm, seed)
    name = organism if arm == PLAIN else f"{organism}-{arm}"
    folder = out if out is not None else Path("organisms") / f"{name}-{seed}"
    told = "" if arm == PLAIN else f", {ARMS[arm].about},"
    say(f"Training {organism}{told} with seed {seed} …")
    quiet_libraries()
    from transformers.utils import logging as transformers_logging

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

        train_organism(config, folder, progress, keep=keep or ())
    if steps == 0:
        say("It was trained before; nothing to compute.")
    model = shlex.quote(str(folder))
    say("")
    say(f"Model: {folder}")
    say(f'Ask:   obverse lens "Tom Cruise\'s mother is" --model {model}')
    say(f"Study: obverse run reversal-curse --model {model}")


def arms_help() -> str:
    """The arms with what is otherwise in them, a line each."""
    return "\n\n".join(["Arms:", *(f"- {arm.name}: {arm.about}" for arm in ARMS.values())])
