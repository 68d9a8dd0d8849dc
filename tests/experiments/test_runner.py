from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from experiments.errors import RunError
from experiments.run_directory.schema import SCHEMA
from experiments.runner import run_study
from experiments.study import Study, Verdict
from tests.experiments import toy
from tests.experiments.running import WHOLE, Ears, run, snapshot, values

pytestmark = pytest.mark.slow


def test_a_run_leaves_what_the_layout_promises(tmp_path: Path) -> None:
    record = run(tmp_path / "run", seed=3, preset="quick")
    found = {str(p.relative_to(record.path)) for p in record.path.rglob("*") if p.is_file()}
    assert found == {
        ".lock",
        "config.json",
        "provenance.json",
        "report.html",
        "results/field.nc",
        "results/long.parquet",
        "results/numbers.parquet",
        "stages.json",
        "verdicts.json",
    }
    assert json.loads((record.path / "config.json").read_text()) == {
        "schema": SCHEMA,
        "study": "toy",
        "preset": "quick",
        "seed": 3,
        "dtype": "float32",
        "model": "toy",
        "size": 7,
        "facts": None,
        "pair": [1, 2],
    }
    # Readable without this package, and equal to what a generator seeded alike gives.
    expected = toy.Config().size
    assert len(pd.read_parquet(record.path / "results/long.parquet")) == expected
    with xr.open_dataset(record.path / "results/field.nc", engine="h5netcdf") as data:
        assert data.value.shape == (expected, 2)
    (verdict,) = json.loads((record.path / "verdicts.json").read_text())
    mean = np.mean(
        [
            pd.read_parquet(record.path / "results/numbers.parquet").value.mean() * 3,
            record.dataset("field").value.values.mean() * 3,
            pd.read_parquet(record.path / "results/long.parquet").value.mean() * 3,
        ]
    )
    assert verdict["estimate"] == pytest.approx(mean)
    assert verdict["low"] is None
    assert verdict["high"] == 2.5


def test_the_same_settings_give_the_same_directory_and_others_another(tmp_path: Path) -> None:
    first = run(None, root=tmp_path, preset="quick", seed=1)
    assert first.path.parent == tmp_path / "toy"
    assert first.path.name.startswith("toy-quick-1-")
    others = [
        run(None, root=tmp_path, preset="quick", seed=2),
        run(None, root=tmp_path, preset="full", seed=1),
        run(None, toy.Config(size=8), root=tmp_path, preset="quick", seed=1),
        run(None, root=tmp_path, preset="quick", seed=1, dtype="bfloat16"),
        run(None, root=tmp_path, preset="quick", seed=1, model=toy.fake_model(source="a/b")),
    ]
    assert len({record.path for record in [first, *others]}) == 6
    assert others[-1].path.name.startswith("b-quick-1-")
    assert run(None, root=tmp_path, preset="quick", seed=1).path == first.path


def test_a_finished_run_is_not_computed_again(tmp_path: Path, calls: Any) -> None:
    first = run(tmp_path / "run")
    assert calls() == WHOLE
    before = snapshot(first.path)
    ears = Ears()
    again = run(tmp_path / "run", reporter=ears)
    assert calls() == []
    assert snapshot(first.path) == before
    assert again == first
    assert "was finished on" in ears.notes[0]


def test_the_same_seed_gives_the_same_numbers_and_another_others(tmp_path: Path) -> None:
    one, two, other = (run(tmp_path / n, seed=s) for n, s in (("a", 5), ("b", 5), ("c", 6)))
    assert values(one) == values(two)
    stages = [json.loads((run.path / "stages.json").read_text()) for run in (one, two)]
    assert stages[0]["results"] == stages[1]["results"]
    assert stages[0]["documents"] == stages[1]["documents"]
    assert values(one)["numbers"] != values(other)["numbers"]


def test_random_numbers_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    drawn: dict[str, list[float]] = {}

    def study(order: list[str]) -> Study[toy.Config]:
        def draw(_: toy.Config, context: Any) -> list[Verdict]:
            for name in order:
                drawn[f"{order} {name}"] = list(context.rng(name).normal(size=3))
            return []

        return Study("draws", "", "", toy.Config, draw)

    run_study(study(["x", "y"]), toy.Config(), out=tmp_path / "a")
    run_study(study(["y", "x"]), toy.Config(), out=tmp_path / "b")
    assert drawn["['x', 'y'] x"] == drawn["['y', 'x'] x"]
    assert drawn["['x', 'y'] x"] != drawn["['x', 'y'] y"]


def test_who_writes_into_a_result_changes_it_for_nobody_else(tmp_path: Path) -> None:
    seen = []

    def work(_: toy.Config, context: Any) -> list[Verdict]:
        made = xr.Dataset({"value": ("example", [1.0, 2.0])}, attrs={"of": "facts"})
        found = context.dataset("field", lambda _: made)
        found["value"].values[:] = 0
        found.attrs["of"] = "nothing"
        seen.append(context.stored("field"))
        return []

    record = run_study(Study("w", "", "", toy.Config, work), toy.Config(), out=tmp_path / "a")
    (again,) = seen
    assert again["value"].values.tolist() == [1.0, 2.0]
    assert again.identical(record.dataset("field"))


# --- damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_result_is_named_and_computed_anew(
    tmp_path: Path, calls: Any, damage: str
) -> None:
    whole = values(run(tmp_path / "run"))
    calls()
    path = tmp_path / "run/results/field.nc"
    if damage == "changed":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    ears = Ears()
    repaired = run(tmp_path / "run", reporter=ears)
    assert calls() == ["field", "report"]
    assert len(ears.warnings) == 1
    assert "field.nc" in ears.warnings[0]
    assert ears.kept_names == ["numbers", "long"]
    assert values(repaired) == whole
    assert repaired.damage() == []


def test_lost_verdicts_are_found_again_from_the_results(tmp_path: Path, calls: Any) -> None:
    whole = values(run(tmp_path / "run"))
    calls()
    (tmp_path / "run/verdicts.json").unlink()
    assert values(run(tmp_path / "run")) == whole
    assert calls() == ["report"]


def test_results_without_provenance_are_not_trusted(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "run/provenance.json").write_text("{")
    before = (tmp_path / "run/stages.json").read_bytes()
    with pytest.raises(RunError, match=r"provenance\.json' is damaged"):
        run(tmp_path / "run")
    assert (tmp_path / "run/stages.json").read_bytes() == before


def test_a_manifest_cannot_point_outside_of_its_directory(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "victim.parquet").write_text("precious")
    path = tmp_path / "run/stages.json"
    stages = json.loads(path.read_text())
    stages["results"]["../../victim"] = stages["results"]["numbers"]
    path.write_text(json.dumps(stages))
    with pytest.raises(RunError, match="is damaged"):
        run(tmp_path / "run")
    assert run(tmp_path / "run", fresh=True).finished
    assert (tmp_path / "victim.parquet").read_text() == "precious"


def test_results_that_the_study_no_longer_makes_are_dropped(tmp_path: Path) -> None:
    run(tmp_path / "run")
    (tmp_path / "run/verdicts.json").unlink()
    fewer = Study("toy", "", "", toy.Config, lambda config, context: [])
    record = run_study(fewer, toy.Config(), out=tmp_path / "run", model=toy.fake_model())
    assert record.names() == []
    assert not (tmp_path / "run/results/numbers.parquet").exists()
