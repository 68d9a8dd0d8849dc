"""`python -m benchmarks.gpu`, in small, on a GPU that is none: that it runs, and when it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import _checks, gpu
from benchmarks._gpu_parts import PARTS
from tests.fake_gpu import fake_gpu


@pytest.fixture(autouse=True)
def no_stored_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a test of their own."""
    monkeypatch.setattr(gpu, "_GOLDEN", ())


@pytest.mark.slow
def test_every_part_runs_and_waits_for_the_device(tmp_path: Path) -> None:
    """No number here says anything of a GPU; what is looked at is that every table is filled."""
    out = tmp_path / "gpu.md"
    with fake_gpu() as seen:
        code = gpu.main(["--small", "--out", str(out), "--folder", str(tmp_path)])
    text = out.read_text()
    assert code == 0, text
    assert "no GPU (faked)" in text
    assert "failed" not in text
    tables = text.split("\n## ")[1:]
    assert [table.split("\n")[0].split(" (aim")[0] for table in tables] == [
        part.title for part in PARTS.values()
    ]
    for table, part in zip(tables, PARTS.values(), strict=True):
        lines = [line for line in table.split("\n") if line.startswith("|")]
        assert len(lines) > 2, part.title
        assert all(line.count("|") == len(part.header) + 1 for line in lines), part.title
    # Before and after each of what is timed.
    timed = sum(len(table.split("\n")) for table in tables[1:])
    assert seen.synchronized > 2 * timed


def test_a_wrong_number_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: str, length: int) -> Any:
        right = np.arange(4.0)
        heads = right * 1.01 if model == "cuda" else right
        return {"patches of streams": right, "patches of heads": heads, "estimates": right}

    monkeypatch.setattr(_checks, "build", lambda layers, device, *_: device)
    monkeypatch.setattr(_checks, "measured", wrong)
    out = tmp_path / "gpu.md"
    with fake_gpu():
        code = gpu.main(["--small", "--out", str(out), "--only", "correctness", "edges"])
    text = out.read_text()
    assert code == 1
    assert "patches of heads differ from the CPU, float32 by 1.0e-02" in text
    assert "patches of streams" in text  # what was found before stays
    assert "Edges" not in text


def test_what_does_not_fit_into_the_time_is_told(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    with fake_gpu():
        assert gpu.main(["--small", "--out", str(out), "--budget", "1", "--only", "probes"]) == 0
    assert "probes: a report, and one fit a site left out, since" in out.read_text()


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "There is no GPU here" in capsys.readouterr().out


def test_answers_that_are_not_there_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--golden", "/nowhere"]) == 2
    assert "no stored answers in" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.shared
def test_stored_answers_hold_on_the_gpu_that_is_none(shared: Path) -> None:
    with fake_gpu():
        lines = list(_checks.golden(shared / "golden", "cuda", ["llama"]))
    assert len(lines) == 2
    assert all(line[-1] == "✓" for line in lines)
