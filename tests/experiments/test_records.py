from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.errors import RunError, StudyError
from experiments.records import RunRecord, list_runs
from experiments.runner import run_study
from experiments.study import Study, Verdict
from tests.experiments import toy
from tests.experiments.sealing import edit


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return run_study(toy.STUDY, toy.Config(), root=tmp_path, preset="quick", model=toy.fake_model())


@pytest.mark.slow
def test_an_opened_run_gives_what_is_on_the_disk(record: RunRecord) -> None:
    opened = RunRecord.open(str(record.path))
    assert opened.study == "toy"
    assert opened.finished
    assert opened.names() == ["numbers", "field", "long"]
    assert opened.names("table") == ["numbers", "long"]
    assert opened.names("dataset") == ["field"]
    pd.testing.assert_frame_equal(
        opened.table("long"), pd.read_parquet(record.path / "results/long.parquet")
    )
    assert list(opened.dataset("field").token.values)[:3] == ["é", "\0", "x"]
    assert opened.report == record.path / "report.html"
    assert opened.verdicts[0].id == "T1"


def test_unknown_and_changed_results_are_refused(record: RunRecord) -> None:
    with pytest.raises(RunError, match=r"no table 'facts'; there are: numbers, long\."):
        record.table("facts")
    with pytest.raises(RunError, match="no dataset 'numbers'; there are: field"):
        record.dataset("numbers")
    with pytest.raises(RunError, match="no table"):
        record.table("../config")
    other = pd.DataFrame({"value": [1.0]})
    other.to_parquet(record.path / "results/numbers.parquet")
    with pytest.raises(RunError, match="does not match its checksum"):
        record.table("numbers")
    assert [sentence for sentence in record.damage() if "numbers.parquet" in sentence]


def test_foreign_and_damaged_folders_are_one_sentence(record: RunRecord, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        RunRecord.open(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"has no config\.json"):
        RunRecord.open(tmp_path / "empty")
    (tmp_path / "empty/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(RunError, match="names no study"):
        RunRecord.open(tmp_path / "empty")
    for name in ("config.json", "provenance.json", "stages.json", "verdicts.json"):
        content = (record.path / name).read_bytes()
        for nonsense in (b"", b"{", b"\xff\xfe", b"[1]", b'{"a": 1}', b"null"):
            (record.path / name).write_bytes(nonsense)
            with pytest.raises(RunError, match=r"^[^\n]*\.$"):
                RunRecord.open(record.path)
        (record.path / name).write_bytes(content)
    assert RunRecord.open(record.path) == record


@pytest.mark.parametrize(
    "stages",
    [
        {"results": []},
        {"results": {"x": {"kind": "pickle", "sha256": ""}}},
        {"results": {"x": "y"}},
        {"documents": {"config.json": {"sha256": ""}}},
        {"documents": {"../x.html": {"sha256": ""}}},
        {"partial": {"x": {"items": 1}}},
    ],
)
def test_a_nonsensical_manifest_is_one_sentence(
    record: RunRecord, stages: dict[str, object]
) -> None:
    path = record.path / "stages.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **stages}))
    with pytest.raises(RunError, match=r"stages\.json' is damaged"):
        RunRecord.open(record.path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("started", "yesterday"), ("started", None), ("finished", 3), ("inputs", []), ("model", "x")],
)
def test_nonsensical_provenance_is_one_sentence(
    record: RunRecord, name: str, value: object
) -> None:
    edit(record.path / "provenance.json", **{name: value})
    with pytest.raises(RunError, match=r"provenance\.json' is damaged"):
        RunRecord.open(record.path)


@pytest.mark.slow
def test_runs_are_listed_newest_first_and_broken_ones_with_a_reason(
    record: RunRecord, tmp_path: Path
) -> None:
    later = run_study(toy.STUDY, toy.Config(), out=tmp_path / "mine", model=toy.fake_model())
    edit(later.path / "provenance.json", started="2999-01-01T00:00:00+00:00")
    (tmp_path / "toy" / "broken").mkdir()
    (tmp_path / "toy" / "broken" / "config.json").write_text("{")
    (tmp_path / "unrelated").mkdir()
    skipped: list[tuple[Path, str]] = []
    found = list_runs(tmp_path, on_skip=lambda path, why: skipped.append((path, why)))
    assert [run.path for run in found] == [later.path, record.path]
    assert [path for path, _ in skipped] == [tmp_path / "toy" / "broken"]
    assert "damaged" in skipped[0][1]
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_listed_before_is_read_again_only_when_its_files_have_changed(
    record: RunRecord, tmp_path: Path
) -> None:
    before = list_runs(tmp_path)
    assert list_runs(tmp_path, before=before)[0] is before[0]
    assert list_runs(tmp_path)[0] is not before[0]
    path = record.path / "provenance.json"
    was = path.stat()
    text = path.read_text()
    path.write_text(text.replace("quick", "kciuq") if "quick" in text else text[::-1])
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # as long, and as old, as it was
    skipped: list[Path] = []
    again = list_runs(tmp_path, before=before, on_skip=lambda at, why: skipped.append(at))
    assert again == []
    assert skipped == [record.path]


def test_a_verdict_survives_json_with_plain_numbers() -> None:
    verdict = Verdict(
        "H1", "claim", "supported", "so", np.float32(0.5), -np.inf, np.nan, "nats", np.int64(3), "c"
    )
    stored = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert (stored["estimate"], stored["low"], stored["high"], stored["n"]) == (0.5, None, None, 3)
    assert Verdict.from_dict(stored) == verdict
    with pytest.raises(ValueError, match="outcome is 'proved'"):
        Verdict(**{**stored, "outcome": "proved"})


def test_a_study_refuses_unknown_settings_and_presets() -> None:
    assert toy.STUDY.configure("full", {"model": "gpt2"}) == toy.Config(model="gpt2", size=20)
    with pytest.raises(StudyError, match="no 'templates' to set"):
        toy.STUDY.configure("quick", {"templates": "x"})
    with pytest.raises(StudyError, match="no preset 'huge'"):
        toy.STUDY.configure("huge")


def test_a_study_may_not_take_the_runners_own_settings() -> None:
    from dataclasses import make_dataclass

    with pytest.raises(TypeError, match="'seed'"):
        Study("x", "", "", make_dataclass("Config", [("seed", int)]), lambda *_: [])
