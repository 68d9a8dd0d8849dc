"""What was put right beside a model or in a run is asked anew, though the weights stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.compute.background import brought
from app.compute.background.jobs import Jobs
from app.compute.engine import Engine, ModelSpec
from experiments.explorer import Examples, Way
from experiments.records import RunRecord
from tests.app.conftest import loaded

LONG = 60.0


def test_a_fact_that_was_put_right_is_not_patched_with_its_old_answer(
    engine: Engine, spec: ModelSpec, examples: Examples, ways: dict[str, Way], record: RunRecord
) -> None:
    """Asked forward, its prompt is what it was: the run has been done again in its folder."""
    before = record.table("facts")
    after = before.copy()
    after["forward_answer"] = after["forward_answer"].astype(object)
    after.loc[0, ["object", "forward_answer"]] = ["Gia Hale", " Gia Hale"]
    pairs = [
        engine.pair(spec, examples, table, 0, ways["forward"], {"seed": 0})
        for table in (before, after)
    ]
    assert pairs[0].clean == pairs[1].clean
    assert [pair.answer for pair in pairs] == [" Mary Lee Pfeiffer", " Gia Hale"]
    again = engine.pair(spec, examples, after.copy(), 0, ways["forward"], {"seed": 0})
    assert again is pairs[1]  # and what is the same is not made anew


@pytest.mark.slow
def test_examples_beside_a_model_are_asked_again_when_they_were_changed(
    model_folder: Path, tmp_path: Path, examples: Examples
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    spec, studies = ModelSpec(str(folder)), {"reversal-curse": examples}
    here = Jobs(Engine(loaded, loaded).turns, lambda session: True)

    def asked() -> list[str]:
        found = here.ask(brought.request(spec, studies), "a").work.wait(LONG).result
        assert found is not None
        assert found.table is not None
        return list(found.table["forward_answer"])

    assert " Bea Stone" in asked()
    path = folder / "facts.csv"
    path.write_text(path.read_text("utf-8").replace("Bea Stone", "Ida Jade"), "utf-8")
    told = asked()
    assert " Bea Stone" not in told
    assert told.count(" Ida Jade") == 2
