"""What was kept with a run is read only if it is what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from app.compute.background import jobs, requests
from app.compute.background.jobs import Jobs
from app.compute.engine import Engine, ModelSpec
from app.compute.pairs import typed
from experiments.run_directory import explored
from interp import load_model

pytestmark = pytest.mark.slow

LONG = 60.0
PAIR = typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")


@pytest.fixture
def here(fresh: Engine) -> Jobs:
    return Jobs(fresh.turns, lambda session: True)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(jobs, "KEPT_FROM", 0.0)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def forged(result: xr.Dataset) -> Iterator[xr.Dataset]:
    """A result with other shapes, types, places or origins than were asked for."""
    yield result.isel(layer=[0])
    yield result.assign(patched=result["patched"].astype(int))
    yield result.assign_coords(layer=result["layer"] + 1)
    yield result.assign_coords(clean_prompt=("example", ["another"]))
    yield result.assign_attrs(fingerprint="0" * 32)
    yield result.assign_attrs(site="q")
    yield result.drop_vars("estimated")
    yield result.assign(more=("example", [1.0]))
    yield result.assign(patched=result["patched"] * 2)
    yield result.assign(corrupt=result["corrupt"] + 1)
    yield result.assign(clean=result["clean"] * np.float32("nan"))
    yield result.assign(estimated=result["estimated"] + np.float32("inf"))


def test_a_file_of_the_right_name_with_other_content_is_computed_anew(
    here: Jobs, spec: ModelSpec, directory: Path
) -> None:
    request = requests.patching(spec, PAIR, "z", run=True)
    first = here.ask(request, "a", directory=directory)
    right = first.work.wait(LONG).result
    assert right is not None
    (one,), _ = explored.list_all(directory)
    stored = explored.find(directory, one.asked)
    assert stored is not None
    assert request.form is not None
    model = load_model(spec.source)
    assert request.form.from_dataset(stored[1], model).checks == right.checks
    for content in forged(stored[1]):
        with pytest.raises(ValueError, match=r"variables|shape|type|names|another one|numbers"):
            request.form.from_dataset(content, model)
    explored.save(directory, one, content)
    later = Jobs(Engine(lambda spec: model).turns, lambda session: True)
    job = later.ask(request, "a", directory=directory)
    found = job.work.wait(LONG).result
    assert found is not None
    assert not job.was_read
    assert "does not hold what its name says" in job.notes[0]
    np.testing.assert_array_equal(found.result["patched"], right.result["patched"])


@pytest.mark.parametrize("name", ["score", "clean", "corrupt"])
def test_scores_that_are_no_numbers_are_not_read(spec: ModelSpec, name: str) -> None:
    request, model = requests.edges(spec, (PAIR,)), load_model(spec.source)
    (scores,) = request.work(model, lambda done, total: None)
    assert request.form is not None
    assert request.form.from_dataset(scores, model) is scores
    for wrong in ("nan", "inf"):
        with pytest.raises(ValueError, match="numbers"):
            request.form.from_dataset(scores.assign({name: scores[name] + float(wrong)}), model)
