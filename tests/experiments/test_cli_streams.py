"""Commands under a terminal that is not UTF-8, closed streams, and folders that are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli.process import Stopped, stopped_by_signals
from tests.experiments.commands import environment, is_one_sentence, obverse, start_toy, toy

pytestmark = pytest.mark.slow


def shell(line: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """A line for bash, in which `obverse` is the command; the exit code is the command's."""
    script = f'obverse() {{ "{sys.executable}" -m tests.experiments.toy_cli "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", f"{script}; exit ${{PIPESTATUS[0]}}"],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_terminal_that_is_not_utf_8_gets_what_it_can_show(tmp_path: Path) -> None:
    ended = toy("run", "toy", "--out", "漢字", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    for encoding in ("ascii", "latin-1:strict"):
        for arguments in (["runs", "--root", "."], ["run", "--help"]):
            ended = obverse(*arguments, cwd=tmp_path, PYTHONIOENCODING=encoding)
            assert (ended.returncode, ended.stderr) == (0, "")
            assert ("\\u6f22" in ended.stdout) == (arguments[0] == "runs")


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
def test_a_run_without_streams_is_a_run(tmp_path: Path, streams: str) -> None:
    ended = shell(f"obverse run toy --out run {streams}", tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    # Nothing that a library printed stands in a file of the run.
    listed = obverse("runs", "--root", ".", cwd=tmp_path)
    assert "finished" in listed.stdout
    assert shell(f"obverse runs --root . {streams}", tmp_path).returncode == 0


@pytest.mark.parametrize("command", ["run toy", "runs", "run --help"])
def test_nobody_who_reads_on_is_a_quiet_end(tmp_path: Path, command: str) -> None:
    ended = shell(f"obverse {command} | sleep 0", tmp_path)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["models", "run --help"])
def test_output_onto_a_full_disk_is_one_sentence(tmp_path: Path, command: str) -> None:
    ended = shell(f"obverse {command} > /dev/full", tmp_path)
    assert ended.returncode == 2
    assert is_one_sentence(ended.stderr)


def test_a_folder_that_is_gone_or_read_only_is_one_sentence(tmp_path: Path) -> None:
    ended = shell("mkdir gone; cd gone; rmdir ../gone; obverse run toy", tmp_path)
    assert ended.returncode == 2
    assert "does not exist any more" in ended.stderr
    assert is_one_sentence(ended.stderr)
    if Path("/proc").is_dir():  # where nobody can make a folder, root neither
        ended = shell("cd /proc; obverse run toy", tmp_path)
        assert ended.returncode == 2
        assert is_one_sentence(ended.stderr)


def test_no_home_is_needed(tmp_path: Path) -> None:
    ended = shell("unset HOME; obverse run toy --out run", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("store", ["/dev/null", "nothing/here", "file"])
def test_a_store_in_the_environment_that_cannot_be_is_one_sentence(
    tmp_path: Path, store: str
) -> None:
    (tmp_path / "file").touch()
    ended = obverse("cache", "ls", cwd=tmp_path, OBVERSE_CACHE=store)
    assert ended.returncode == 2
    assert is_one_sentence(ended.stderr)


# --- signals ---------------------------------------------------------------------------------


def test_a_second_signal_does_not_tear_the_clean_up() -> None:
    done: list[str] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
            done.append("cleaned")

    with pytest.raises(Stopped) as ended, stopped_by_signals():
        work()
    assert done == ["cleaned"]
    assert ended.value.exit_code == 128 + signal.SIGTERM
    assert isinstance(ended.value, KeyboardInterrupt)


def test_a_signal_that_was_swallowed_is_not_the_last() -> None:
    """Some libraries catch everything; the next signal counts."""

    def work() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(Stopped), stopped_by_signals():
        work()


def test_what_the_starter_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_many_signals_at_once_leave_a_run_that_goes_on(tmp_path: Path) -> None:
    child = start_toy("run", "toy", "--out", "run", cwd=tmp_path, pause="long 2")
    for how in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        child.send_signal(how)
    _, errors = child.communicate(timeout=30)
    assert child.returncode > 128
    assert errors == "Stopped; run the same command again to go on.\n"
    assert toy("run", "toy", "--out", "run", cwd=tmp_path).returncode == 0
