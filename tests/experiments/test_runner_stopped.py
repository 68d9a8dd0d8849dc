"""Runs that were stopped go on and find the same."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from cache import files
from experiments.records import RunRecord
from tests.experiments.running import WHOLE, Ears, run, snapshot, start_child, values

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("where", ["numbers", "field", "long 4", "report"])
def test_a_killed_run_goes_on_and_finds_the_same(
    tmp_path: Path, calls: Any, how: signal.Signals, where: str
) -> None:
    whole = run(tmp_path / "whole")
    calls()
    child = start_child(tmp_path / "stopped", where)
    child.send_signal(how)
    child.communicate(timeout=30)
    assert calls() == WHOLE[: WHOLE.index(where) + 1]
    stopped = RunRecord.open(tmp_path / "stopped")
    assert not stopped.finished
    assert stopped.verdicts == ()

    ears = Ears()
    resumed = run(tmp_path / "stopped", reporter=ears)
    # It goes on with the very step it was stopped in.
    assert calls() == WHOLE[WHOLE.index(where) :]
    assert resumed.finished
    assert values(resumed) == values(whole)
    assert snapshot(resumed.path).keys() == snapshot(whole.path).keys()
    assert ears.warnings == []
    assert len(resumed.provenance.resumed) == 1
    assert resumed.provenance.started <= str(resumed.provenance.finished)


def test_a_kill_between_a_file_and_its_entry_costs_that_result_only(
    tmp_path: Path, calls: Any
) -> None:
    whole = run(tmp_path / "whole")
    child = start_child(tmp_path / "run", "long 0")
    child.kill()
    child.communicate(timeout=30)
    # As if it had been killed after writing field.nc and before noting it, and midway in a write.
    stages = json.loads((tmp_path / "run/stages.json").read_text())
    del stages["results"]["field"]
    (tmp_path / "run/stages.json").write_text(json.dumps(stages))
    (tmp_path / "run/results" / f"{files.TEMPORARY_PREFIX}abc-long.parquet").write_bytes(b"half")
    calls()
    resumed = run(tmp_path / "run")
    assert calls() == WHOLE[1:]
    assert values(resumed) == values(whole)
    assert snapshot(resumed.path).keys() == snapshot(whole.path).keys()


def test_chunks_of_another_division_are_not_used(tmp_path: Path, calls: Any) -> None:
    child = start_child(tmp_path / "run", "long 4")
    child.kill()
    child.communicate(timeout=30)
    calls()
    stages = json.loads((tmp_path / "run/stages.json").read_text())
    assert len(stages["partial"]["long"]["sha256"]) == 2
    stages["partial"]["long"]["chunk_size"] = 3
    (tmp_path / "run/stages.json").write_text(json.dumps(stages))
    assert values(run(tmp_path / "run")) == values(run(tmp_path / "whole"))
    assert calls()[:4] == ["long 0", "long 2", "long 4", "long 6"]


def test_a_damaged_chunk_is_computed_again_with_all_after_it(tmp_path: Path, calls: Any) -> None:
    child = start_child(tmp_path / "run", "long 6")
    child.kill()
    child.communicate(timeout=30)
    calls()
    (tmp_path / "run/results/.chunks/long/000001.parquet").write_bytes(b"nonsense")
    assert values(run(tmp_path / "run")) == values(run(tmp_path / "whole"))
    assert calls()[:3] == ["long 2", "long 4", "long 6"]
