"""Options that several commands take, described once."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from interp.execute import Executor

__all__ = [
    "DEFAULT_RUNS",
    "DEFAULT_STORE",
    "MOST_SEED",
    "Address",
    "Cache",
    "Corpus",
    "Device",
    "DeviceMap",
    "Dtype",
    "ExecutorKind",
    "ExecutorName",
    "MaxMemory",
    "ModelName",
    "OffloadFolder",
    "Revision",
    "RowLength",
    "Runs",
    "StorePath",
    "Tokens",
    "Workers",
    "environment",
    "file",
    "file_or_folder",
    "folder",
    "make_executor",
    "placing",
    "use_cache",
]

MOST_SEED = 2**63 - 1
MOST_WORKERS = 1024


def folder(text: str | Path) -> Path:
    """A path that is a folder, or nothing yet. Raises typer.BadParameter for others."""
    path = _path(text)
    if os.path.exists(path) and not os.path.isdir(path):
        raise typer.BadParameter(f"'{text}' is no folder; name one, or one to be made.")
    return path


def file(text: str | Path) -> Path:
    """The path of a file that can be read. Raises typer.BadParameter for others."""
    path = _path(text)
    if not os.path.exists(path):
        raise typer.BadParameter(f"There is no file '{text}'; check the path.")
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "a device, a FIFO or a socket"
        raise typer.BadParameter(f"'{text}' is {what}, not a file; check the path.")
    return path


def file_or_folder(text: str | Path) -> Path:
    """A path where something is. Raises typer.BadParameter for others."""
    path = _path(text)
    return path if os.path.isdir(path) else file(text)


def _path(written: str | Path) -> Path:
    text = str(written)
    if not text.strip() or "\0" in text:
        raise typer.BadParameter(f"{text!r} is no path; write one, or leave the option out.")
    return Path(text)


Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or mps.", show_default="the GPU if there is one")
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        envvar="OBVERSE_DEVICE_MAP",
        help="Where a model larger than a device lies, instead of --device: auto, or parts by name "
        'as JSON, such as {"": 0, "model.layers.3": "disk"}.',
        metavar="MAP",
    ),
]
OffloadFolder = Annotated[
    str | None,
    typer.Option(
        envvar="OBVERSE_OFFLOAD_FOLDER",
        help="For weights on disk that the model's files do not hold as it computes with them.",
        metavar="FOLDER",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        envvar="OBVERSE_MAX_MEMORY",
        help="What weights may take with --device-map auto, such as cpu=20GB,0=70GB.",
        show_default="four fifths of what is free",
        metavar="SIZES",
    ),
]
Dtype = Annotated[str, typer.Option(help="Of the weights: float32, float16 or bfloat16.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")]

_STORE = "OBVERSE_CACHE"
DEFAULT_STORE = Path("activations")
StorePath = Annotated[
    Path,
    typer.Option(
        "--cache",
        envvar=_STORE,
        help="The folder of the activation store.",
        parser=folder,
        metavar="FOLDER",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        envvar=_STORE,
        help="Keep activations in this store, and use what is there.",
        parser=folder,
        metavar="FOLDER",
    ),
]

DEFAULT_RUNS = Path("runs")
Runs = Annotated[
    Path,
    typer.Option(help="The folder that holds the runs.", parser=folder, metavar="FOLDER"),
]

ModelName = Annotated[
    str, typer.Option(help="Bundled model, local Hugging Face folder, or hub id.")
]
Corpus = Annotated[
    Path,
    typer.Option(
        help="The corpus: .txt (one document), .jsonl or .parquet (field 'text').",
        parser=file,
        metavar="FILE",
    ),
]
Tokens = Annotated[
    str | None, typer.Option(help="How many, such as 500k or 10M.", show_default="all")
]
RowLength = Annotated[
    int | None,
    typer.Option(
        min=1, max=2**31, help="Tokens in a row.", show_default="256, or as many as the model takes"
    ),
]


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
ChosenExecutor = Annotated[
    ExecutorKind | None,
    typer.Option(
        "--executor",
        help="Where to compute: in this process, in several of this machine, or on a Ray cluster. "
        "The numbers are the same.",
        show_default="serial; processes where a study trains its organisms",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_WORKERS,
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


def use_cache(path: Path | None) -> None:
    """Let everything in this process, and in its workers, use a store."""
    if path is not None:
        os.environ[_STORE] = str(path.absolute())


def make_executor(kind: ExecutorKind | None, workers: int | None, address: str | None) -> Executor:
    """The executor that the three options name; serial where no kind is given.

    Raises:
        ExecutionError: they do not fit.
    """
    from interp.execute import Executor

    return Executor((kind or ExecutorKind.serial).value, workers, address)


def placing(
    device_map: str | None, offload_folder: str | None, max_memory: str | None
) -> dict[str, Any]:
    """The arguments of `load_model` that these options stand for.

    Raises:
        ModelError: one of them cannot be read.
    """
    if device_map is None and offload_folder is None and max_memory is None:
        return {}
    from interp.loading.written import placing as read

    return read(device_map, offload_folder, max_memory)


def environment(
    device_map: str | None, offload_folder: str | None, max_memory: str | None
) -> dict[str, str]:
    """These options as variables for another process.

    Raises:
        ModelError: one of them cannot be read.
    """
    placing(device_map, offload_folder, max_memory)
    given = {
        "OBVERSE_DEVICE_MAP": device_map,
        "OBVERSE_OFFLOAD_FOLDER": offload_folder,
        "OBVERSE_MAX_MEMORY": max_memory,
    }
    return {name: value for name, value in given.items() if value is not None}
