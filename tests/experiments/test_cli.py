from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.cli import explorer
from experiments.cli.console import visible
from experiments.cli.models import describe
from experiments.records import RunRecord
from tests.interp.executing import alive, wait_for

ROOT = Path(__file__).parents[2]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100", **extra}


def obverse(
    *arguments: str, cwd: Path, module: str = "experiments.cli", **extra: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def toy(*arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return obverse(*arguments, cwd=cwd, module="tests.experiments.toy_cli", **extra)


def start_toy(*arguments: str, cwd: Path, pause: str) -> subprocess.Popen[str]:
    """Start a toy run that waits at `pause`, and return once it got there."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.toy_cli", *arguments],
        cwd=cwd,
        env=environment(TOY_PAUSE=pause),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    while (line := child.stdout.readline()) and line.strip() != pause:
        pass
    return child


def is_one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n") and "Traceback" not in text


# --- help -----------------------------------------------------------------------------------


def test_help_comes_at_once_and_names_every_command(tmp_path: Path) -> None:
    def once() -> float:
        start = time.monotonic()
        ended = obverse("--help", cwd=tmp_path)
        assert ended.returncode == 0
        for command in ("run", "train", "lens", "app", "runs", "models", "--version"):
            assert re.search(rf"\s{command}\s", ended.stdout), command
        assert "obverse run reversal-curse" in ended.stdout
        return time.monotonic() - start

    # The quickest of three: another process may be busy meanwhile.
    assert min(once() for _ in range(3)) < 1.0


@pytest.mark.parametrize("command", ["", "run", "train", "lens", "app", "runs", "models"])
def test_help_imports_nothing_heavy(tmp_path: Path, command: str) -> None:
    script = (
        "import sys; from experiments.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'pandas', 'xarray', 'transformers', 'transformer_lens', 'scipy',\n"
        "         'plotly', 'streamlit', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    arguments = [command, "--help"] if command else ["--help"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Usage" in ended.stdout


def test_no_command_shows_the_help(tmp_path: Path) -> None:
    ended = obverse(cwd=tmp_path)
    assert "Usage" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_the_explorer_cannot_be_offered_to_the_network(tmp_path: Path) -> None:
    ended = obverse("app", "--host", "0.0.0.0", cwd=tmp_path)
    assert ended.returncode == 2
    assert "--host" not in obverse("app", "--help", cwd=tmp_path).stdout


# --- run ------------------------------------------------------------------------------------


def test_a_run_tells_its_findings_and_where_the_report_is(tmp_path: Path) -> None:
    ended = toy("run", "toy", "--seed", "3", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    (config,) = tmp_path.glob("runs/toy/*/config.json")
    record = RunRecord.open(config.parent)
    assert record.config["seed"] == 3
    assert record.config["preset"] == "quick"
    path = config.parent.relative_to(tmp_path)
    assert f"T1 undecided  {record.verdicts[0].statement}" in ended.stdout
    assert f"Report:   {path}/report.html" in ended.stdout
    assert f"obverse app --run {path}" in ended.stdout
    for stage in ("numbers", "field", "long"):
        assert re.search(rf"^  {stage}: [\d.]+ s$", ended.stdout, re.MULTILINE)
    assert ended.stdout.startswith("Starting toy …\n")

    again = toy("run", "toy", "--seed", "3", cwd=tmp_path)
    assert again.returncode == 0
    assert "nothing to compute" in again.stdout
    assert record.verdicts[0].statement in again.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_says_so_and_goes_on_with_the_same_command(
    tmp_path: Path, how: signal.Signals
) -> None:
    child = start_toy("run", "toy", cwd=tmp_path, pause="long 4")
    child.send_signal(how)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 128 + how
    assert errors == "Stopped; run the same command again to go on.\n"
    assert "not finished, 2 results" in obverse("runs", cwd=tmp_path).stdout
    log = tmp_path / "log"
    ended = toy("run", "toy", cwd=tmp_path, TOY_LOG=str(log))
    assert ended.returncode == 0
    assert log.read_text().split() == ["long", "4", "long", "6", "report"]
    assert "numbers: kept from before" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "reversal-cruse"], "did you mean 'reversal-curse'?"),
        (["run", "toi"], "Unknown study 'toi'"),
    ],
)
def test_an_unknown_study_is_one_sentence(
    tmp_path: Path, arguments: Sequence[str], words: str
) -> None:
    ended = obverse(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.startswith("Error: Unknown study")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_refusals_of_the_runner_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for arguments in (
        ["--out", "mine"],
        ["--out", "file/run"],
        ["--facts", "missing.csv"],
        ["--templates", "missing.json"],
    ):
        ended = toy("run", "toy", *arguments, cwd=tmp_path)
        assert ended.returncode == 2, arguments
        assert is_one_sentence(ended.stderr), ended.stderr
        assert arguments[1].partition("/")[0] in ended.stderr
    ended = toy("run", "toy", "--revision", "main", cwd=tmp_path)
    assert ended.stderr == "Error: The study 'toy' has no 'revision' to set; leave it out.\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments", [["--seed", "-1"], ["--seed", "x"], ["--preset", "huge"], ["--nonsense"]]
)
def test_wrong_options_are_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    ended = toy("run", "toy", *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_options_reach_the_settings(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text("a\n")
    options = ["--model", "some/model", "--preset", "full", "--facts", "facts.csv", "--out", "r"]
    ended = toy("run", "toy", *options, "--dtype", "bfloat16", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    stored = json.loads((tmp_path / "r/config.json").read_text())
    assert (
        stored["model"],
        stored["preset"],
        stored["facts"],
        stored["dtype"],
        stored["size"],
    ) == (
        "some/model",
        "full",
        "facts.csv",
        "bfloat16",
        20,
    )


def test_runs_lists_states_and_verdicts(tmp_path: Path) -> None:
    ended = obverse("runs", cwd=tmp_path)
    assert ended.returncode == 0
    assert "There are no runs in 'runs'" in ended.stdout
    assert toy("run", "toy", cwd=tmp_path).returncode == 0
    (tmp_path / "runs/toy/broken").mkdir()
    (tmp_path / "runs/toy/broken/config.json").write_text("{")
    ended = obverse("runs", cwd=tmp_path)
    assert ended.returncode == 0
    assert "finished" in ended.stdout
    assert "undecided: T1" in ended.stdout
    assert "skipped: " in ended.stderr
    assert "broken" in ended.stderr


# --- models ---------------------------------------------------------------------------------


def test_a_model_is_described_from_its_files_alone(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]},
            "b": {"dtype": "F32", "shape": [], "data_offsets": [60, 64]},
        }
    ).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(64)
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 3}')
    model = describe("m", tmp_path, "about")
    assert (model.parameters, model.layers) == (16, 3)
    assert model.size == len(data) + len('{"num_hidden_layers": 3}')


def test_the_bundled_model_is_listed_without_loading_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from experiments.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "models"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    row = next(line for line in ended.stdout.splitlines() if line.startswith("reversal-curse"))

    from safetensors import safe_open

    from interp.loading.where import bundled_models

    folder = bundled_models()["reversal-curse"]
    with safe_open(str(folder / "model.safetensors"), framework="np") as weights:
        total = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118
    assert f"{total / 1e3:.1f} k" in row


# --- the explorer ---------------------------------------------------------------------------


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
        # As a shell does it: Ctrl-C goes to the whole group, here to the command alone.
        child.send_signal(signal.SIGINT)
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
    def __init__(self, page, middleware):
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
    server, *told = explorer._arguments(8600, Path("runs/x"), Path("runs"))
    assert Path(server) == ROOT / "app/server.py"
    assert told == ["--port", "8600", "--root", "runs", "--run", "runs/x"]
    assert explorer._arguments(1, None, Path("r"))[1:] == ["--port", "1", "--root", "r"]


# --- text from elsewhere --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Tom", "·Tom"),
        ("\n", "↵"),
        ("\t", "→"),
        ("\x1b[31mred", "␛[31mred"),
        ("\x00", "␀"),
        ("\x7f", "␡"),
        ("\x9b31m", "\\u009b31m"),
        ("\u202eabc", "\\u202eabc"),
        ("\u200b", "\\u200b"),
        ("[bold]x[/]", "[bold]x[/]"),
        ("é漢", "é漢"),
    ],
)
def test_tokens_are_shown_as_text(token: str, shown: str) -> None:
    assert visible(token, spaces=True) == shown


def test_a_hostile_name_does_not_reach_the_terminal(tmp_path: Path) -> None:
    ended = obverse("run", "\x1b]0;pwned\x07[bold]x", cwd=tmp_path)
    assert ended.returncode == 2
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "[bold]x" in ended.stderr
