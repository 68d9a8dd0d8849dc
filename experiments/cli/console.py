"""What the commands share: two consoles, safe text, errors as one sentence, quiet libraries."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import signal
import sys
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TextIO, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from cache.errors import ObverseError
from experiments.cli.process import EXIT_PIPE, Stopped, stopped_by_signals

__all__ = ["fail", "guarded", "output", "quiet_libraries", "say", "visible", "warn"]

P = ParamSpec("P")
R = TypeVar("R")

_EXIT_ERROR = 2
_PIPE_WIDTH = 120
_PACKAGES = ("app", "experiments", "probes", "interp", "cache")


def output(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no highlighting, no emoji codes."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def say(message: str, *, style: str = "") -> None:
    """Print a line on stdout. It is never broken, so that paths can be copied."""
    output().print(Text(visible(message), style), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    output(stderr=True).print(Text(f"Warning: {visible(message)}", "yellow"), soft_wrap=True)


def visible(text: str, *, spaces: bool = False) -> str:
    """`text` with its control characters made visible, and with `spaces` its blanks too.

    Tokens and file names come from elsewhere; an escape sequence in them must not reach the
    terminal, and a token of one space must not look like none.
    """
    return "".join(_visible_character(character, spaces) for character in text)


def guarded(*, stopped: str = "Stopped.") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a command end properly: errors as one sentence, Ctrl-C and signals with `stopped`."""

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(command)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                with stopped_by_signals():
                    return command(*args, **kwargs)
            except KeyboardInterrupt as error:
                _print(Text(stopped))
                code = error.exit_code if isinstance(error, Stopped) else 128 + signal.SIGINT
                raise typer.Exit(code) from error
            except BrokenPipeError as error:
                raise typer.Exit(EXIT_PIPE) from error
            except Exception as error:
                message = _sentence(error)
                if message is None:
                    raise
                fail(message)
                raise typer.Exit(_EXIT_ERROR) from error

        return wrapper

    return decorate


def _sentence(error: Exception) -> str | None:
    """What to say of an error; None of one that is a defect of ours."""
    if isinstance(error, ObverseError):
        return str(error)
    if _out_of_memory(error):
        return "The memory is used up; choose a smaller model, or '--preset quick'."
    if isinstance(error, OSError):
        where = f" ('{error.filename}')" if error.filename is not None else ""
        return (
            f"The system refused: {error.strerror or error}{where}; check the disk, the path and "
            "its permissions."
        )
    return None


def quiet_libraries() -> None:
    """Keep the libraries' advice off the screen. Errors, and our own warnings, still show."""
    # These two set their loggers up when they are imported, from the environment.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("transformer_lens", "httpx", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    roots = [Path(folder) for name in _PACKAGES for folder in _folders(name)]

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        advice = issubclass(category, FutureWarning | DeprecationWarning)
        if not advice and any(Path(filename).is_relative_to(root) for root in roots):
            warn(str(message))

    warnings.showwarning = show


def fail(message: str) -> None:
    """Print an error on stderr: one line, whatever is in it."""
    line = " ".join(visible(message).split("\n"))
    _print(Text.assemble(("Error: ", "bold red"), line))


def _print(text: Text) -> None:
    """Print the last line on stderr, if it can be printed."""
    with contextlib.suppress(OSError, SystemExit):
        output(stderr=True).print(text, soft_wrap=True)


def _out_of_memory(error: BaseException) -> bool:
    # torch.cuda.OutOfMemoryError by name: torch may not even be imported. On a CPU it raises a bare
    # RuntimeError, known only by its text.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _folders(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or []) if spec is not None else []


def _visible_character(character: str, spaces: bool) -> str:
    if character in "\n\t" and not spaces:
        return character
    if spaces and character in " \n\t":
        return {" ": "·", "\n": "↵", "\t": "→"}[character]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the Unicode pictures of the control characters
    if code == 0x7F:
        return "␡"
    # Cc and Cf hold C1 controls, bidirectional overrides, joiners; Cs lone surrogates.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character
