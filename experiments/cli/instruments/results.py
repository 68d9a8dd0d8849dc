"""What such a command leaves: a table in the terminal, and a folder with a CSV and figures."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cache.files import make_folder, storage_errors, write_atomic
from experiments.cli import options
from experiments.cli.console import output, say
from experiments.errors import StorageError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    import xarray as xr

__all__ = ["AsJson", "Findings", "Out", "findings_kept"]

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="A new folder for the table (CSV), the figures (HTML) and the result (netCDF).",
        show_default="results/COMMAND-1, or the next number",
        parser=options.folder,
        metavar="FOLDER",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document on stdout, and nothing else there; the rest goes to stderr.",
    ),
]

_DEFAULT = Path("results")


@dataclass
class Findings:
    """What a command has found, to be shown and kept.

    Attributes:
        title: of the page with the figures.
        sentences: what can be said of it, below the table and on the page.
        heading: what the table of the terminal shows.
        shown: that table.
        note: what the table leaves out.
        tables: by file name without ".csv", what is kept as CSV; the first is part of the JSON.
        figures: by name; their text must be escaped.
        results: by file name without ".nc", labelled arrays.
        files: by file name, what writes one to a path.
        numbers: further entries of the JSON document.
    """

    title: str
    sentences: list[str] = field(default_factory=list)
    heading: str = ""
    shown: Table | None = None
    note: str = ""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, go.Figure] = field(default_factory=dict)
    results: dict[str, xr.Dataset] = field(default_factory=dict)
    files: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def findings_kept(command: str, out: Path | None, as_json: bool) -> Iterator[Findings]:
    """Inside, a command fills what it finds; then that is shown, and written into a new folder.

    Nothing is written where the block ends with an error.

    Raises:
        StorageError: the folder holds something already, or cannot be written.
    """
    found = Findings(f"obverse {command}")
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        # Before the work, so that a folder that cannot be made is told of at once.
        ours = out is None or not out.is_dir()
        folder = _folder(command, out)
        try:
            _check_writable(folder)
            yield found
            _write(folder, found)
        except BaseException:
            if ours:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        if not as_json:
            _show(found, folder)
    if as_json:
        document = {
            "command": command,
            "folder": str(folder),
            "sentences": found.sentences,
            **found.numbers,
            "rows": next((_rows(table) for table in found.tables.values()), []),
        }
        # Escaped to ASCII: a terminal must not act on what a token holds.
        say(json.dumps(_plain(document), allow_nan=False, indent=1))


def _show(found: Findings, folder: Path) -> None:
    if found.shown is not None:
        say(f"\n{found.heading}")
        output().print(found.shown)
        say(f"{found.note}\n" if found.note else "")
    for sentence in found.sentences:
        say(sentence)
    say(f"Kept in {shlex.quote(str(folder))}: {', '.join(_names(found))}")


def _names(found: Findings) -> list[str]:
    names = [*(f"{name}.csv" for name in found.tables), *(f"{name}.nc" for name in found.results)]
    return [*(["figures.html"] if found.figures else []), *names, *found.files]


def _folder(command: str, out: Path | None) -> Path:
    """The folder that is asked for, or the next free one of this command, made."""
    if out is not None:
        make_folder(out)
        if any(out.iterdir()):
            raise StorageError(f"The folder '{out}' is not empty; name a new one with --out.")
        return out
    number = 1
    make_folder(_DEFAULT)
    with storage_errors(_DEFAULT / command, "made"):
        while True:
            folder = _DEFAULT / f"{command}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder


def _check_writable(folder: Path) -> None:
    """Raise a StorageError now, and not after the work, where no file can be made."""
    with storage_errors(folder, "written"), tempfile.TemporaryFile(dir=folder):
        pass


def _write(folder: Path, found: Findings) -> None:
    """All files or none."""
    from experiments.reports.page import render_page
    from experiments.run_directory.storage import encode_dataset

    files: dict[str, str | bytes] = {}
    for name, table in found.tables.items():
        files[f"{name}.csv"] = _csv(table)
    for name, result in found.results.items():
        files[f"{name}.nc"] = encode_dataset(result)
    if found.figures:
        page = {"title": found.title, "sentences": found.sentences, "names": list(found.figures)}
        files["figures.html"] = render_page(
            "experiments.cli.instruments", "figures.html.j2", found.figures, page
        )
    try:
        for name, data in files.items():
            write_atomic(folder / name, data)
        for name, write in found.files.items():
            write(folder / name)
    except BaseException:
        for name in (*files, *found.files):
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise


def _csv(table: pd.DataFrame) -> str:
    """Text in quotes, since a token may be a line break, of which not all are quoted otherwise."""
    return str(table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):  # of NumPy: a list, or one number
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
