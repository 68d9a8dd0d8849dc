"""The commands together, and `main`."""

from __future__ import annotations

import os
import signal
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from experiments.cli.console import fail, say
from experiments.cli.explorer import explorer
from experiments.cli.harvest import harvest
from experiments.cli.instruments.circuit import circuit
from experiments.cli.instruments.diff import diff
from experiments.cli.instruments.patch import patch
from experiments.cli.instruments.probe import probe
from experiments.cli.instruments.transplant import transplant
from experiments.cli.lens import lens
from experiments.cli.models import models
from experiments.cli.process import EXIT_PIPE, prepare
from experiments.cli.run import run
from experiments.cli.runs import runs
from experiments.cli.store import store_commands
from experiments.cli.studies import WithNames, WithSummaries
from experiments.cli.train import arms_help, train
from experiments.cli.tune_lens import fit_lens, tune_lens

__all__ = ["main"]

application = typer.Typer(
    name="obverse",
    cls=WithNames,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            say(f"obverse {version('obverse')}")
        except PackageNotFoundError:
            say("obverse, not installed")
        raise typer.Exit


@application.callback()
def _about(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """What inside a language model makes it behave so, and is it sure?

    Examples:

    - `obverse run reversal-curse`
    - `obverse lens "Tom Cruise's mother is"`
    - `obverse train reversal-curse --seed 1`
    - `obverse harvest --text corpus.txt --tokens 1M`
    - `obverse app`
    """


application.command("run", cls=WithSummaries)(run)
for command, name in (
    (lens, "lens"),
    (patch, "patch"),
    (circuit, "circuit"),
    (probe, "probe"),
    (transplant, "transplant"),
    (diff, "diff"),
    (explorer, "app"),
    (runs, "runs"),
    (harvest, "harvest"),
    (tune_lens, "tune-lens"),
    (fit_lens, "fit-lens"),
    (models, "models"),
):
    application.command(name)(command)
application.command("train", epilog=arms_help())(train)
application.add_typer(store_commands)


def main() -> None:
    """The entry point of `obverse`."""
    prepare()
    try:
        os.getcwd()
    except OSError:
        # Libraries end the process where there is none, with words of their own.
        fail("The folder that this was started in does not exist any more; change to another.")
        raise SystemExit(2) from None
    try:
        ended = application(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        raise SystemExit(EXIT_PIPE) from None
    except OSError as error:  # what is printed before a command begins: its help
        fail(f"The output cannot be written: {error.strerror or error}; check where it goes.")
        raise SystemExit(2) from None
    except Exception as error:
        # Wrong options: an exception of Click, which some versions of Typer bring themselves.
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        message = error.format_message().strip().rstrip(".")
        if message:  # empty where the help was printed for want of a command
            context = getattr(error, "ctx", None)
            command = "obverse" if context is None else context.command_path
            fail(f"{message}; see '{command} --help'.")
        raise SystemExit(error.exit_code) from None
    raise SystemExit(ended if isinstance(ended, int) else 0)
