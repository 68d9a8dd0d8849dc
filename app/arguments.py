"""What the page is told on the command line of `app.server`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arguments:
    """Attributes:
    root: the folder that holds the runs.
    run: a run directory to open first, or None for the newest in `root`.
    """

    root: Path
    run: Path | None


def parse(argv: Sequence[str]) -> Arguments:
    """Read `--root DIR` (default "runs") and `--run DIR`."""
    parser = argparse.ArgumentParser(prog="obverse app")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("--run", type=Path)
    given = parser.parse_args(list(argv))
    return Arguments(given.root, given.run)
