"""The Python that draws a figure of a run again, to go on with in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.figure import Figure

__all__ = ["code", "home"]


def code(run: Path | str, figure: Figure, kinds: Mapping[str, str]) -> str:
    """Lines that open the run and show the figure.

    Args:
        run: the run directory, as it is to be written.
        kinds: of each of the figure's results whether it is a "table" or a "dataset".
    """
    draw = figure.draw
    read = [f"run.{kinds[name]}({name!r})" for name in figure.results]
    given = [*read, *(f"{name}={value!r}" for name, value in figure.options.items())]
    call = f"{draw.__name__}({', '.join(given)}).show()"
    if len(call) > 88:
        lines = "".join(f"    {argument},\n" for argument in given)
        call = f"{draw.__name__}(\n{lines}).show()"
    path = run.as_posix() if isinstance(run, Path) else run
    return (
        "from experiments.records import RunRecord\n"
        f"from {home(draw)} import {draw.__name__}\n"
        "\n"
        f"run = RunRecord.open({path!r})\n"
        f"{call}\n"
    )


def home(function: Callable[..., object]) -> str:
    """The shortest name of a module that a function can be imported from."""
    parts = function.__module__.split(".")
    names = (".".join(parts[: n + 1]) for n in range(len(parts)))
    return next(
        name
        for name in names
        if getattr(sys.modules.get(name), function.__name__, None) is function
    )
