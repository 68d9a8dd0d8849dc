"""Whatever stands in a run folder, it is one sentence, and the folders beside it are listed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.errors import RunError, StorageError
from experiments.records import RunRecord, list_runs
from experiments.run_directory.manifest import Manifest
from experiments.run_directory.schema import SCHEMA
from experiments.study import Verdict
from tests.experiments.commands import obverse
from tests.experiments.damaging import FILES, refused, run, said
from tests.experiments.sealing import edit, seal

pytestmark = pytest.mark.slow

# --- contents --------------------------------------------------------------------------------

CONTENTS = {
    "nothing": b"",
    "half": b'{"study": "toy", "pres',
    "no text": b"\xff\xfe{}",
    "utf-16": '{"study": "toy"}'.encode("utf-16"),
    "NaN": b'{"study": "toy", "preset": "x", "seed": NaN}',
    "infinity": b'{"study": "toy", "preset": "x", "seed": 1e999}',
    "a long number": b'{"study": "toy", "preset": "x", "seed": ' + b"9" * 5000 + b"}",
    "a large number": b'{"study": "toy", "preset": "x", "seed": 18446744073709551616}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"study": ' * 2000 + b"0" + b"}" * 2000,
    "a key twice": b'{"study": "toy", "study": "x", "preset": "x", "seed": 0}',
    "a number": b"3",
    "null": b"null",
    "many quotes": b'{"' + b'\\"' * 300_000,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_contents_that_are_of_no_run(bad: Path, name: str, content: bytes) -> None:
    start = time.monotonic()
    (bad / name).write_bytes(content)
    refused(bad)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", FILES)
def test_no_more_is_read_than_such_a_file_can_hold(bad: Path, name: str) -> None:
    with open(bad / name, "r+b") as file:
        file.truncate(1 << 40)
    assert "is larger than" in refused(bad)


# --- things that are no files ----------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_a_copy(path: Path) -> None:
    copy = path.parent.parent.parent / f"copy of {path.name}"
    shutil.copy(path.parent / f"{path.name}.before", copy)
    path.symlink_to(copy)


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The path of a socket is short.
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def folder(path: Path) -> None:
    path.mkdir()


THINGS = [
    fifo,
    link_to_device,
    link_to_itself,
    link_to_a_copy,
    dangling,
    bound_socket,
    folder,
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("thing", THINGS)
def test_things_that_are_no_files(bad: Path, name: str, thing: Callable[[Path], None]) -> None:
    path = bad / name
    path.rename(bad / f"{name}.before")
    thing(path)
    refused(bad)


@pytest.mark.parametrize("thing", THINGS)
def test_results_and_reports_that_are_no_files(bad: Path, thing: Callable[[Path], None]) -> None:
    for path in (bad / "results/numbers.parquet", bad / "report.html"):
        path.rename(path.parent / f"{path.name}.before")
        thing(path)
    record = RunRecord.open(bad)
    assert len(record.damage()) == 2
    assert record.report is None
    with pytest.raises(StorageError, match=r"numbers\.parquet' cannot be read"):
        record.table("numbers")


def test_one_bad_folder_does_not_hide_the_others(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(whole, root / "good")
    number = 0
    for name in FILES:
        for make in (*THINGS, *CONTENTS.values()):
            number += 1
            directory = Path(shutil.copytree(whole, root / f"bad-{number}"))
            (directory / name).rename(directory / f"{name}.before")
            make(directory / name) if callable(make) else (directory / name).write_bytes(make)
    (root / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "good")
    os.mkfifo(root / "pipe")
    (root / "\udcff[bold]").mkdir()
    ended = obverse("runs", cwd=tmp_path)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("Warning: skipped: ") == ended.stderr.count("\n") == number
    assert ended.stdout.count("finished") == 1


# --- types -----------------------------------------------------------------------------------

WRONG = [None, True, -1, 2**63, 1e300, "", "x", [], {}, ["x"], {"x": []}, [[]]]


def fields(whole: Path, name: str) -> list[str]:
    value = json.loads((whole / name).read_text())
    return list(value[0] if name == "verdicts.json" else value)


@pytest.mark.parametrize("name", FILES)
def test_every_field_has_its_type(whole: Path, bad: Path, name: str) -> None:
    """A wrong one is refused; what passes can be listed and read like any other."""
    path = bad / name
    value = json.loads(path.read_text())
    refusals = 0
    for field in fields(whole, name):
        for wrong in [*WRONG, ...]:
            damaged = json.loads(json.dumps(value))
            where = damaged[0] if name == "verdicts.json" else damaged
            where.pop(field)
            if wrong is not ...:
                where[field] = wrong
            path.write_text(json.dumps(damaged))
            if name != "stages.json":
                seal(bad)
            if said(lambda: RunRecord.open(bad)):
                refusals += 1
                continue
            record = RunRecord.open(bad)
            record.damage()
            assert [found.path for found in list_runs(bad.parent)] == [bad]
            assert record == RunRecord.open(bad)
    # Study, preset and the like may be any word, and settings of the study are the study's.
    assert refusals > len(fields(whole, name)) * len(WRONG) / 3


@pytest.mark.parametrize(
    "changes",
    [
        {"started": "2020-01-01T00:00:00"},
        {"started": "0001-01-01T00:00:00+00:00"},
        {"started": "9999-12-31T23:59:59-12:00"},
        {"finished": "now"},
        {"git": {"revision": 3, "changed": False}},
        {"model": {"source": "x"}},
        {"inputs": {"facts": "abc"}},
        {"resumed": [{"at": "later"}]},
        {"versions": {"python": 3}},
        {"more": 1},
    ],
)
def test_provenance_is_of_times_and_names(bad: Path, changes: dict[str, Any]) -> None:
    edit(bad / "provenance.json", **changes)
    assert "provenance.json' is damaged" in refused(bad)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"low": 2.0, "high": 1.0}, "ends before it begins"),
        ({"outcome": "proved"}, "'outcome'"),
        ({"n": 2.5}, "'n'"),
        ({"confidence": 1}, "'confidence'"),
    ],
)
def test_verdicts_are_what_a_study_can_say(bad: Path, changes: dict[str, Any], why: str) -> None:
    path = bad / "verdicts.json"
    path.write_text(json.dumps([{**json.loads(path.read_text())[0], **changes}]))
    seal(bad)
    assert why in refused(bad)


def test_the_schema_knows_every_field_of_a_verdict(whole: Path) -> None:
    """A field that is new in one place and not in the other makes every run unreadable."""
    verdict = Verdict("H1", "c", "supported", "s", 0.5, None, float("inf"), "nats", 3, "c")
    assert set(verdict.to_dict()) == set(fields(whole, "verdicts.json"))


# --- edits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["verdicts.json", "provenance.json", "config.json"])
def test_an_edited_file_is_not_read_as_truth(bad: Path, name: str) -> None:
    path = bad / name
    text = path.read_text()
    edited = text.replace("undecided", "supported").replace("f" * 32, "0" * 32)
    edited = edited.replace('"size": 7', '"size": 8')
    assert edited != text
    path.write_text(edited)
    assert "does not match its checksum" in refused(bad)
    path.write_text(text + " ")
    assert "does not match its checksum" in refused(bad)


def test_edited_verdicts_are_judged_anew(whole: Path, bad: Path) -> None:
    path = bad / "verdicts.json"
    path.write_text(path.read_text().replace("undecided", "supported"))
    ended = run(bad)
    assert ended.verdicts == RunRecord.open(whole).verdicts
    assert path.read_bytes() == (whole / "verdicts.json").read_bytes()


def test_a_run_is_not_gone_on_with_under_an_edited_provenance(bad: Path) -> None:
    path = bad / "provenance.json"
    path.write_text(path.read_text().replace("f" * 32, "0" * 32))
    before = (bad / "stages.json").read_bytes()
    with pytest.raises(RunError, match=r"does not match its checksum.*--fresh"):
        run(bad)
    assert (bad / "stages.json").read_bytes() == before
    assert run(bad, fresh=True).finished


def test_a_finished_run_without_a_manifest_is_not_intact(whole: Path, bad: Path) -> None:
    (bad / "stages.json").unlink()
    assert "has no stages.json" in refused(bad)
    again = run(bad)
    assert again.finished
    assert again.verdicts == RunRecord.open(whole).verdicts
    assert again.provenance.resumed == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [(None, "an older version"), (1, "an older version"), (SCHEMA + 1, "a newer version")],
)
def test_other_versions_are_told_apart(bad: Path, schema: int | None, words: str) -> None:
    path = bad / "config.json"
    value = json.loads(path.read_text())
    del value["schema"]
    path.write_text(json.dumps(value if schema is None else {"schema": schema, **value}))
    seal(bad)
    assert f"was made by {words} of Obverse" in refused(bad)
    with pytest.raises(RunError, match=words):
        run(bad)
    # A manifest of theirs need not be one of ours.
    (bad / "stages.json").write_text('{"results": {}}')
    assert run(bad, fresh=True).finished


def test_a_headline_of_other_columns_is_one_sentence(bad: Path) -> None:
    manifest = Manifest(bad)
    frame = pd.DataFrame({"other": [1.0]})
    manifest.store("headline", "table", frame.to_parquet())
    with pytest.raises(RunError, match="holds no sentences"):
        _ = RunRecord.open(bad).headline


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 10**30])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(RunError, match="seed is"):
        run(tmp_path / "run", seed=seed)
    assert not (tmp_path / "run").exists()


def test_an_edited_report_is_not_handed_on(bad: Path) -> None:
    record = RunRecord.open(bad)
    assert record.document("report.html") == (bad / "report.html").read_bytes()
    (bad / "report.html").write_text("<script>alert(1)</script>")
    with pytest.raises(RunError, match="does not match its checksum"):
        record.document("report.html")
    with pytest.raises(RunError, match="has no document"):
        record.document("../config.json")
