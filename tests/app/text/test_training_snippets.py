"""The code beside the figures of the page of trainings makes these figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from app import trainings
from app.compute import along
from app.compute.engine import ModelSpec
from app.runs import Run
from app.text import training_snippets
from experiments.explorer import Examples
from experiments.records import RunRecord
from experiments.reversal_curse.explorer import page
from interp.figures import rank_lines, step_lines
from interp.loading.load import load_model
from tests.app import material

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.trained_once(tmp_path_factory)


def same(made: go.Figure, drawn: go.Figure) -> None:
    assert [trace.name for trace in made.data] == [trace.name for trace in drawn.data]
    for one, other in zip(made.data, drawn.data, strict=True):
        for axis in ("x", "y"):
            values = [np.array(side[axis], dtype=float) for side in (one, other)]
            np.testing.assert_allclose(*values, atol=1e-4)
    assert made.layout.yaxis.title == drawn.layout.yaxis.title
    assert [shape.y0 for shape in made.layout.shapes] == [s.y0 for s in drawn.layout.shapes]


def test_what_the_run_stores(run_code: Any, trained: Path) -> None:
    (folder,) = (trained / "runs" / "reversal-curse").iterdir()
    record = RunRecord.open(folder)
    told = page().trainings
    assert told is not None
    table = record.table("training_time")
    kept = trainings.of_run(Run(record), told, table)[0]
    for measure in told.measures:
        made = run_code(training_snippets.stored(folder, told, kept, measure))
        first = table["seed"] == 0
        drawn = step_lines(
            table[first],
            measure.value,
            by="direction",
            interval=measure.interval,
            beside=table[~first],
            scale=measure.scale,
            chance=0.25 if measure.chance == "chance" else measure.chance,  # type: ignore[arg-type]
            label=measure.label,
        )
        same(made, drawn)


@pytest.fixture(scope="module")
def asked(trained: Path, examples: Examples) -> tuple[trainings.Training, xr.Dataset]:
    own = trainings.beside(ModelSpec(str(trained / "tiny")))
    assert own is not None
    by_step = {}
    for step, spec in own.checkpoints:
        model = load_model(spec.source)
        table = examples.measure(model, lambda *_: None)
        assert table is not None
        by_step[step] = along.ask(model, examples, table, lambda *_: None)
    return own, along.of_group(along.joined(by_step), "forward")


@pytest.mark.parametrize("measure", along.MEASURES, ids=lambda one: one.value)
def test_what_the_models_are_asked(
    run_code: Any, asked: tuple[trainings.Training, xr.Dataset], measure: Any
) -> None:
    own, found = asked
    code = training_snippets.asked(own, measure, *training_snippets.questions(found))
    chance = measure.chance if isinstance(measure.chance, float) else None
    drawn = step_lines(
        along.curves(found, measure.value),
        "value",
        by="way",
        interval=("low", "high"),
        scale=measure.scale,
        chance=chance,
        label=measure.label,
    )
    same(run_code(code), drawn)


def test_ranks_at_a_step(run_code: Any, asked: tuple[trainings.Training, xr.Dataset]) -> None:
    own, found = asked
    one = found.isel(step=1, example=0)
    ways = [str(way) for way in found["way"].values]
    questions = {
        way: (str(one["prompt"].sel(way=way).values), str(one["answer"].sel(way=way).values))
        for way in ways
    }
    chance = int(found.attrs["d_vocab"])
    made = run_code(training_snippets.ranks(own.checkpoints[1][1], questions, chance))
    ranks = {
        way: xr.Dataset(
            {"answer_rank": (("example", "layer"), one["rank"].sel(way=way).values[None])},
            coords={"layer": one["layer"].values},
        )
        for way in ways
    }
    same(made, rank_lines(ranks, chance=chance))
