"""Whatever stands in a run folder, it is one sentence, and the folders beside it are listed."""

from __future__ import annotations

import itertools
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

from cache import files
from experiments.errors import ObverseError, RunError, StorageError
from experiments.records import RunRecord, list_runs
from experiments.run_directory import provenance
from experiments.run_directory.manifest import Manifest
from experiments.run_directory.schema import SCHEMA
from experiments.runner import run_study
from experiments.study import Verdict
from tests.experiments import toy
from tests.experiments.sealing import edit, seal
from tests.experiments.test_cli import obverse

FILES = ("config.json", "provenance.json", "stages.json", "verdicts.json")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    return run_study(toy.STUDY, toy.Config(), out=root / "run", model=toy.fake_model()).path


@pytest.fixture
def bad(whole: Path, tmp_path: Path) -> Path:
    """A finished run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "runs" / "bad"))


def run(out: Path, **options: Any) -> RunRecord:
    return run_study(toy.STUDY, toy.Config(), out=out, model=toy.fake_model(), **options)


def refused(directory: Path) -> str:
    """The sentence with which a folder is refused, told of as skipped in a list too."""
    message = said(lambda: RunRecord.open(directory))
    assert message
    skipped: list[str] = []
    assert list_runs(directory.parent, on_skip=lambda _, why: skipped.append(why)) == []
    assert skipped == [message]
    return message


def said(act: Callable[[], object]) -> str:
    """The sentence with which something is refused; nothing if it is not."""
    try:
        act()
    except ObverseError as error:
        message = str(error)
    else:
        return ""
    assert message.endswith(".")
    assert "\n" not in message
    return message


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


# --- writing ---------------------------------------------------------------------------------


class Killed(BaseException):
    """As SIGKILL: nothing that tidies up after an error may be relied on."""


def test_a_kill_between_any_two_steps_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every renaming and every removal of a file is the last thing that is done."""

    def small(out: Path) -> RunRecord:
        return run_study(toy.STUDY, toy.Config(size=3), out=out, model=toy.fake_model())

    expected = small(tmp_path / "whole")
    replace = os.replace
    steps = 0
    last = 0

    def counted(act: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*arguments: Any, **options: Any) -> None:
            nonlocal steps
            act(*arguments, **options)
            steps += 1
            if steps == last:
                raise Killed

        return wrapper

    monkeypatch.setattr(files.os, "replace", counted(replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    # What is on the disk after a power cut is the file system's matter; this is about the order.
    monkeypatch.setattr(files, "flush", lambda _: None)
    monkeypatch.setattr(provenance, "code_revision", lambda: None)
    monkeypatch.setattr(provenance, "package_versions", dict)
    for judged in (False, True):
        for last in itertools.count(1):
            out = tmp_path / f"{judged}-{last}"
            if judged:  # a finished run whose verdicts were lost
                shutil.copytree(expected.path, out)
                os.unlink(out / "verdicts.json")
            steps = 0
            try:
                small(out)
            except Killed:
                steps = -(10**6)
            else:
                break
            if (out / "provenance.json").exists() and not judged:
                assert RunRecord.open(out).verdicts in ((), expected.verdicts)
            ended = small(out)
            assert ended.verdicts == expected.verdicts
            assert ended.damage() == []
        assert last > 5 + 15 * (not judged)


def test_a_run_that_is_at_work_can_be_opened_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader sees after each step of the writer is a run, never damage."""
    replace = os.replace
    opened: list[bool] = []

    def watched(*arguments: Any) -> None:
        replace(*arguments)
        if (tmp_path / "run/provenance.json").exists():
            opened.append(RunRecord.open(tmp_path / "run").finished)

    monkeypatch.setattr(files.os, "replace", watched)
    run(tmp_path / "run")
    assert opened[-1]
    assert not opened[0]
    assert len(opened) > 15


@pytest.mark.parametrize("name", [*FILES, "report.html", "results/field.nc", ".lock"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    run(tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink()
    path.symlink_to(victim)
    for options in ({}, {"fresh": True}):
        said(lambda options=options: run(tmp_path / "run", **options))
        assert victim.read_text() == "precious"


def test_a_hard_link_as_lock_is_left_alone(bad: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (bad / ".lock").unlink()
    os.link(victim, bad / ".lock")
    with pytest.raises(StorageError, match="hard link"):
        run(bad, fresh=True)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["results", "results/.chunks", "results/.chunks/long"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_a_link_out_is_refused(tmp_path: Path, name: str, fresh: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    names = ["numbers.parquet", "000000.parquet", ".partial-1", "long.parquet"]
    for one in names:
        (outside / one).write_text("precious")
    record = run(tmp_path / "run")
    path = record.path / name
    if name == "results":
        shutil.rmtree(path)
    else:
        (record.path / "results/long.parquet").unlink()
        path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside)
    with pytest.raises(StorageError, match=r"symbolic link"):
        run(tmp_path / "run", fresh=fresh)
    assert [(outside / one).read_text() for one in names] == ["precious"] * len(names)
    assert len(list(outside.iterdir())) == len(names)
    if name == "results":
        assert all("behind a symbolic link" in one for one in record.damage()[:3])


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "file/run", "dangling", "\udcff"])
def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refusal = said(lambda: run(tmp_path / name))
    assert bool(refusal) == (name != "\udcff")
    assert not (tmp_path / "nowhere").exists()


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
