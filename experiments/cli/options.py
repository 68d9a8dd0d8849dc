"""Options that several commands take, described once."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from interp.execute import Executor

__all__ = [
    "Address",
    "Device",
    "Dtype",
    "ExecutorKind",
    "ExecutorName",
    "Revision",
    "Workers",
    "make_executor",
]

Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or mps.", show_default="the GPU if there is one")
]
Dtype = Annotated[str, typer.Option(help="Of the weights: float32, float16 or bfloat16.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")]


class ExecutorKind(str, Enum):
    """Where to compute."""

    serial = "serial"
    processes = "processes"
    ray = "ray"


ExecutorName = Annotated[
    ExecutorKind,
    typer.Option(
        "--executor",
        help="Where to compute: in this process, in several of this machine, or on a Ray cluster. "
        "The numbers are the same.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes or Ray actors, each with the model in its memory.",
        show_default="one for each GPU, or each core, at most 8 a machine",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of a running Ray cluster, HOST:PORT.",
        show_default="the variable RAY_ADDRESS, or an instance on this machine",
    ),
]


def make_executor(kind: ExecutorKind, workers: int | None, address: str | None) -> Executor:
    """The executor that the three options name. Raises ExecutionError where they do not fit."""
    from interp.execute import Executor

    return Executor(kind.value, workers, address)
