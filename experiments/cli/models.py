"""`obverse models`: the models that come with the installed packages."""

from __future__ import annotations

import inspect
import json
import struct
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.cli.console import guarded, output, say, visible, warn
from experiments.numbers import count
from interp.loading.where import ENTRY_POINT_GROUP

__all__ = ["BundledModel", "describe", "models"]


@dataclass(frozen=True)
class BundledModel:
    """What can be told of a model without loading it."""

    name: str
    parameters: int
    layers: int
    size: int
    """Of the whole folder, in bytes."""
    summary: str


@guarded()
def models() -> None:
    """List the bundled models.

    Any other model is named by its folder or its id on the hub.
    """
    table = Table("Name", "Parameters", "Layers", "Size", "About", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        try:
            model = _read(point)
        except Exception as error:  # other packages' entry points may fail in any way
            warn(f"'{point.name}' cannot be described: {error}")
            continue
        size = f"{model.size / 1e6:.1f} MB"
        cells = (model.name, count(model.parameters), str(model.layers), size, model.summary)
        table.add_row(*(visible(cell) for cell in cells))
    if table.row_count > 0:
        output().print(table)
    else:
        say("There are no bundled models; install obverse anew with 'pip install'.")


def describe(name: str, folder: Path, summary: str) -> BundledModel:
    """Read a model's folder: its config.json and the headers of its weight files."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layers = next(config[key] for key in ("num_hidden_layers", "n_layer") if key in config)
    return BundledModel(
        name=name,
        parameters=sum(_parameters(path) for path in folder.glob("*.safetensors")),
        layers=int(layers),
        size=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        summary=summary,
    )


def _read(point: EntryPoint) -> BundledModel:
    function = point.load()
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    return describe(point.name, Path(function()), summary)


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header: a length (8 bytes) and that much JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for extent in tensor["shape"]:
                count *= int(extent)
            total += count
    return total
