from __future__ import annotations

import json
import re
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.cli.console import visible
from experiments.cli.models import describe
from experiments.records import RunRecord
from tests.experiments.commands import environment, is_one_sentence, obverse, start_toy, toy

pytestmark = pytest.mark.slow

# --- help -----------------------------------------------------------------------------------


def test_help_comes_at_once_and_names_every_command(tmp_path: Path) -> None:
    def once() -> float:
        """Seconds of a processor: other processes may be busy meanwhile."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = obverse("--help", cwd=tmp_path)
        assert ended.returncode == 0
        for command in ("run", "train", "lens", "app", "runs", "models", "--version"):
            assert re.search(rf"\s{command}\s", ended.stdout), command
        assert "obverse run reversal-curse" in ended.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

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
    assert f"{total / 1e3:.3g} k" in row


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
