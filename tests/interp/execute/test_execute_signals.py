"""Signals while workers start: nothing is left, and the signal is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from interp.execute import actors
from interp.execute.signals import signals_held
from tests.interp.executing import alive, pids, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


class Terminated(BaseException):
    """What the handler of a test raises."""


@pytest.fixture
def handler() -> Any:
    """SIGTERM raises `Terminated` here."""

    def terminate(number: int, _: object) -> None:
        raise Terminated(number)

    before = signal.signal(signal.SIGTERM, terminate)
    yield terminate
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_until_the_block_has_ended(handler: Any) -> None:
    done: list[object] = []

    def work() -> None:
        with signals_held() as waiting:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            done.append(sorted(waiting))
        done.append("not reached")

    with pytest.raises(Terminated):
        work()
    assert done == [[signal.SIGINT, signal.SIGTERM]]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_while_ray_starts_ends_it_wholly(
    handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    told: list[str] = []
    folders: list[Path] = []

    def init(*, _temp_dir: str, **_: object) -> None:
        # As Ray does it: a handler of its own, which would end this process as it is.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: told.append("Ray's handler"))
        folders.append(Path(_temp_dir))
        (folders[0] / "session").mkdir()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        told.append("started")

    def shutdown(**_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # a second one
        told.append("ended")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    with pytest.raises(Terminated):
        actors.Actors(2, None)
    assert told[:2] == ["started", "ended"]
    assert "Ray's handler" not in told
    assert not folders[0].exists()
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_processes_start_leaves_none(tmp_path: Path, how: signal.Signals) -> None:
    """The workers are in the middle of what stands for loading a model."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert wait_for(lambda: len(pids(tmp_path)) == 2, 60)
        child.send_signal(how)
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert "Traceback" not in errors
    assert wait_for(lambda: not any(alive(pid) for pid in pids(tmp_path)))
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"pid"}


PROGRAM = """
import sys
from functools import partial
from pathlib import Path
import typer
from experiments.cli.console import guarded
from interp.execute import Executor, Unit, execute
from tests.interp.executing import load_for_ever

@guarded()
def work():
    start = partial(load_for_ever, Path(sys.argv[1]))
    list(execute([Unit(str(i), i) for i in range(4)], start, Executor("processes", 2)))

try:
    work()
except typer.Exit as end:
    sys.exit(end.exit_code)
"""
