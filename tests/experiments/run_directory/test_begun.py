"""Work that a process did not end: told after any death of it, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.run_directory import explored
from experiments.run_directory.begun import begun, dismiss, interrupted
from tests.experiments.run_directory.test_explored import ASKED, ONE, RESULT

NAME = ASKED.name
LINK = {"run": "r", "page": "prompt", "clean": "<b>\u202e"}

WORKER = """
import signal, sys, time
from pathlib import Path
from experiments.run_directory.begun import begun

signal.signal(signal.SIGTERM, signal.SIG_DFL)
with begun(Path(sys.argv[1]), sys.argv[2], "A map", {"page": "prompt"}):
    print("begun", flush=True)
    time.sleep(60)
"""

WRITER = """
import os, sys
from pathlib import Path
from experiments.run_directory import explored
from tests.experiments.run_directory.test_explored import ONE, RESULT

write = explored.write_atomic

def until_described(path, data):
    if path.suffix == ".json":
        os.kill(os.getpid(), 9)
    write(path, data)

explored.write_atomic = until_described
explored.save(Path(sys.argv[1]), ONE, RESULT)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_work_that_goes_on_or_has_ended_is_not_interrupted(directory: Path) -> None:
    with begun(directory, NAME, "A map", LINK):
        assert interrupted(directory) == []
        with begun(directory, NAME, "The same elsewhere", LINK):  # which notes nothing
            assert interrupted(directory) == []
    assert list((directory / "explored").iterdir()) == []
    with pytest.raises(ZeroDivisionError), begun(directory, NAME, "A map", LINK):
        _ = 1 / 0
    assert interrupted(directory) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_process_did_not_end_is_told(directory: Path, how: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(directory), NAME], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"begun\n"
    assert interrupted(directory) == []  # it lives
    child.send_signal(how)
    child.wait(10)
    child.stdout.close()
    (one,) = interrupted(directory)
    assert (one.name, one.title, one.link) == (NAME, "A map", {"page": "prompt"})
    with begun(directory, NAME, "Again", LINK):
        assert interrupted(directory) == []
    assert interrupted(directory) == []


CREATED = b', "created": "2026-01-01"}'


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"[" * 70_000, b'{"title": "x"}'),
        b'{"title": "x", "link": {"a": 1}' + CREATED,
        b'{"title": "x", "link": 3' + CREATED,
        b'{"title": "x", "link": {}, "created": "never"}',
    ],
)
def test_notes_that_make_no_sense_are_no_work(directory: Path, content: bytes) -> None:
    folder = directory / "explored"
    folder.mkdir()
    (folder / f"{NAME}.begun").write_bytes(content)
    (folder / "..begun").write_bytes(b"{}")
    assert interrupted(directory) == []
    dismiss(directory, NAME)
    assert not (folder / f"{NAME}.begun").exists()


def test_nothing_is_noted_through_a_link_or_where_nothing_can_be(directory: Path) -> None:
    outside = directory / "outside"
    outside.write_text("mine")
    folder = directory / "explored"
    folder.mkdir()
    (folder / f"{NAME}.begun").symlink_to(outside)
    with begun(directory, NAME, "A map", LINK):
        assert outside.read_text() == "mine"
    folder.joinpath(f"{NAME}.begun").unlink(missing_ok=True)
    folder.rmdir()
    folder.write_text("in the way")
    with begun(directory, NAME, "A map", LINK):
        assert interrupted(directory) == []


@pytest.mark.slow
def test_data_whose_writer_was_killed_before_it_was_described_is_told_and_removed(
    directory: Path,
) -> None:
    root = Path(__file__).parents[3]
    child = subprocess.run(
        [sys.executable, "-c", WRITER, str(directory)],
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
    )
    assert child.returncode == -9
    left = directory / "explored" / f"{NAME}.nc"
    assert left.exists()
    found, (problem,) = explored.list_all(directory)
    assert found == []
    assert "has no description" in problem
    assert explored.find(directory, ASKED) is None
    other = explored.Explored(
        explored.Asked("edges", [], "f" * 32, "t" * 32, "1.0"), "Scores", "tiny", 1.0, {}
    )
    explored.save(directory, other, RESULT)
    assert not left.exists()
    assert explored.list_all(directory)[1] == []
    assert explored.save(directory, ONE, RESULT).name == NAME
