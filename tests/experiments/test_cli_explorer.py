"""`obverse app`: what it refuses, where it listens, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from experiments.cli import explorer
from tests.experiments.commands import ROOT, environment, is_one_sentence, obverse
from tests.interp.executing import alive, wait_for

pytestmark = pytest.mark.slow


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = obverse("app", "--port", str(port), "--no-browser", cwd=tmp_path)
    assert ended.returncode == 2
    assert (
        ended.stderr
        == f"Error: Port {port} is in use; end what uses it, or choose another --port.\n"
    )


def test_the_explorer_refuses_what_is_not_a_run(tmp_path: Path) -> None:
    ended = obverse("app", "--run", "nowhere", "--no-browser", cwd=tmp_path)
    assert ended.returncode == 2
    assert is_one_sentence(ended.stderr)
    assert "'nowhere' is not a run directory" in ended.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_explorer_listens_here_only_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/__init__.py").touch()
    (tmp_path / "app/server.py").write_text("raise SystemExit('another app')\n")
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", "app", "--port", str(port), "--no-browser"],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == f"Starting the explorer at http://localhost:{port} …\n"
        assert child.stdout.readline() == "The explorer is ready; Ctrl-C ends it.\n"
        with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health") as answer:
            assert answer.read() == b"ok"
        addresses = {int(line.split()[1].split(":")[0], 16) for line in _listening(port)}
        loopback = {int.from_bytes(b"\x7f\0\0\1", sys.byteorder)}
        assert addresses <= loopback
        # As a terminal does it: Ctrl-C goes to the whole group.
        os.killpg(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130
    assert errors == "The explorer is stopped.\n"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_the_server_ends_with_the_command_however_that_ends(
    tmp_path: Path, how: signal.Signals
) -> None:
    """The page is never asked for: what matters is the process that would serve it."""
    (tmp_path / "streamlit/static").mkdir(parents=True)
    (tmp_path / "streamlit/__init__.py").write_text(SERVER)
    (tmp_path / "streamlit/static/index.html").touch()
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", "app", "--port", str(port), "--no-browser"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("Starting")
        assert child.stdout.readline() == "The explorer is ready; Ctrl-C ends it.\n"
        server = int((tmp_path / "pid").read_text())
        os.kill(server, 0)
        child.send_signal(how)
        child.wait(timeout=30)
    finally:
        child.kill()
        child.communicate()
    assert wait_for(lambda: not alive(server), 10)


# Answers on the port that it is given, and ignores requests to end.
SERVER = """
import os, pathlib, signal, socket, time

class App:
    def __init__(self, page, middleware, lifespan):
        pass

    def run(self, config):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        pathlib.Path("pid").write_text(str(os.getpid()))
        with socket.create_server(("127.0.0.1", config["server.port"])):
            time.sleep(60)
"""


def _listening(port: int) -> list[str]:
    """The lines of /proc/net/tcp (none on other systems) of sockets that listen on `port`."""
    table = Path("/proc/net/tcp")
    lines = table.read_text().splitlines()[1:] if table.exists() else []
    return [
        line
        for line in lines
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]


def test_the_explorer_is_told_which_runs_to_show() -> None:
    server, *told = explorer.server_arguments(8600, Path("runs/x"), Path("runs"))
    assert Path(server) == ROOT / "app/server.py"
    assert told == ["--port", "8600", "--root", "runs", "--run", "runs/x"]
    assert explorer.server_arguments(1, None, Path("r"))[1:] == ["--port", "1", "--root", "r"]
