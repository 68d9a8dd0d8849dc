"""Results of another version, or of NaN, are told of when they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from experiments.errors import RunError
from experiments.records import RunRecord
from experiments.registry import shapes_of
from experiments.reversal_curse.results import RESULTS
from experiments.run_directory.manifest import Manifest
from experiments.run_directory.shapes import Shapes, check_dataset, check_table
from experiments.run_directory.storage import encode_table
from experiments.runner import run_study
from tests.experiments import toy

TABLE: Shapes = {"numbers": {"name": "text", "value": "number"}}
ARRAYS: Shapes = {"lens_*": {"value": ("number", ("example", "layer")), "layer": "integer"}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.drop(columns="value"), "no column 'value'"),
        (lambda t: t.assign(value=np.nan), "'value' holds NaN"),
        (lambda t: t.assign(value="x"), "'value' is not of type number"),
        (lambda t: t.assign(value=pd.Timestamp("2020-01-01")), "'value' is not of type number"),
        (lambda t: t.assign(name=3), "'name' is not of type text"),
        (lambda t: t.assign(name=pd.Series(["a", None])), "'name' is not text"),
    ],
)
def test_tables_of_other_columns(change: Callable[[pd.DataFrame], pd.DataFrame], why: str) -> None:
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.0, 2.0]})
    assert check_table(table, "numbers", TABLE) is table
    with pytest.raises(RunError, match=f"'numbers' is not what this version.*{why}"):
        check_table(change(table), "numbers", TABLE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d.drop_vars("value"), "no variable 'value'"),
        (lambda d: d.transpose("layer", "example"), "the dimensions"),
        (lambda d: d * np.nan, "'value' holds NaN"),
        (lambda d: d.assign_coords(layer=["a", "b"]), "'layer' is not of type integer"),
    ],
)
def test_arrays_of_other_variables(change: Callable[[xr.Dataset], xr.Dataset], why: str) -> None:
    data = xr.Dataset({"value": (("example", "layer"), np.ones((3, 2)))}, {"layer": [0, 1]})
    assert check_dataset(data, "lens_forward", ARRAYS) is data
    with pytest.raises(RunError, match=why):
        check_dataset(change(data), "lens_forward", ARRAYS)


@pytest.mark.slow
def test_a_run_of_other_columns_is_refused_by_readers_and_by_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**options: Any) -> RunRecord:
        out = tmp_path / "run"
        return run_study(toy.STUDY, toy.Config(), out=out, model=toy.fake_model(), **options)

    run()
    declaring = replace(toy.STUDY, results=TABLE)
    monkeypatch.setattr(toy, "STUDY", declaring)
    monkeypatch.setattr("experiments.registry.entry_points", toy.installed)
    assert len(RunRecord.open(tmp_path / "run").table("numbers")) == 7
    frame = pd.DataFrame({"name": ["a"], "value": [np.nan]})
    Manifest(tmp_path / "run").store("numbers", "table", encode_table(frame))
    with pytest.raises(RunError, match="holds NaN"):
        RunRecord.open(tmp_path / "run").table("numbers")
    (tmp_path / "run/verdicts.json").unlink()
    with pytest.raises(RunError, match="holds NaN"):
        run()
    assert len(run(fresh=True).table("numbers")) == 7


def test_the_study_declares_what_its_readers_use() -> None:
    assert shapes_of("reversal-curse") is RESULTS
    assert shapes_of("unknown") == {}
    # The first pattern that fits counts.
    assert list(RESULTS).index("lens_names_*") < list(RESULTS).index("lens_*")
