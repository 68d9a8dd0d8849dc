"""A study small enough to check by hand, which can be made to stop anywhere.

As a script (`python -m tests.experiments.toy DIRECTORY`) it runs in a process of its own, to be
killed. TOY_LOG names a file that gets a line for every computation; TOY_PAUSE a line at which the
process says so on stdout and waits for its end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import xarray as xr

from experiments.context import Context
from experiments.errors import StudyError
from experiments.reporter import Progress
from experiments.runner import run_study
from experiments.study import Study, Verdict


@dataclass(frozen=True)
class Config:
    model: str = "toy"
    size: int = 7
    facts: str | None = None
    pair: tuple[int, int] = (1, 2)

    @classmethod
    def preset(cls, name: str) -> Config:
        sizes = {"quick": 7, "full": 20}
        if name not in sizes:
            raise StudyError(f"There is no preset '{name}'; use quick or full.")
        return cls(size=sizes[name])


def log(line: str) -> None:
    if path := os.environ.get("TOY_LOG"):
        with open(path, "a") as file:
            file.write(line + "\n")
    if os.environ.get("TOY_PAUSE") == line:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        for _ in range(600):
            # A signal that comes right before a sleep begins is heard only when it ends.
            time.sleep(0.1)


def run(config: Config, context: Context) -> list[Verdict]:
    context.model()
    if config.facts is not None:
        context.input_file("facts", config.facts)

    def numbers(progress: Progress) -> pd.DataFrame:
        log("numbers")
        values = context.rng("numbers").normal(size=config.size)
        progress(config.size, config.size)
        return pd.DataFrame({"name": [f"n{i}" for i in range(config.size)], "value": values})

    def field(_: Progress) -> xr.Dataset:
        log("field")
        values = context.rng("field").normal(size=(config.size, 2)).astype("float32")
        tokens = np.array(["é", "\0", *["x"] * (config.size - 2)], dtype=object)
        return xr.Dataset(
            {"value": (("example", "layer"), values)},
            coords={"token": ("example", tokens), "layer": [0, 1]},
            attrs={"by": None},
        )

    def long(items: Sequence[int]) -> pd.DataFrame:
        log(f"long {items[0]}")
        rows = [(item, context.rng(f"long {item}").normal()) for item in items]
        return pd.DataFrame(rows, columns=["item", "value"])

    table = context.table("numbers", numbers)
    data = context.dataset("field", field)
    chunked = context.chunks("long", range(config.size), long, chunk_size=2)
    mean = float(table.value.mean() + data.value.mean() + chunked.value.mean())
    log("report")
    context.document("report.html", f"<p>{mean!r}</p>")
    return [
        Verdict(
            id="T1",
            claim="The mean is not zero.",
            outcome="undecided",
            statement=f"The mean is {mean:.3f}.",
            estimate=mean,
            low=-np.inf,
            high=np.float64(2.5),
            unit="units",
            n=np.int64(config.size),
            control="none",
        )
    ]


STUDY = Study("toy", "A toy", "Numbers from nowhere.", Config, run)


def installed(*, group: str) -> list[EntryPoint]:
    """In the place of `entry_points`: this study, as if its package were installed alone."""
    return [EntryPoint("toy", f"{__name__}:STUDY", group)]


def fake_model(fingerprint: str = "f" * 32, source: str = "toy", tokenizer: str = "e" * 32) -> Any:
    model = SimpleNamespace(source=source, name=source, fingerprint=fingerprint, device="cpu")
    model.tokenizer_fingerprint = tokenizer
    return cast(Any, model)


if __name__ == "__main__":
    run_study(STUDY, Config(), out=Path(sys.argv[1]), model=fake_model())
