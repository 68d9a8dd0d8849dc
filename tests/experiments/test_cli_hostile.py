"""Every option of every command, given what nobody should give it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

import experiments.cli.explorer
import experiments.cli.train
import experiments.registry
import interp.loading.where
from cache.errors import ObverseError
from experiments.cli import application
from experiments.organisms.arms import find_arm
from experiments.organisms.bundled import reversal_curse
from experiments.organisms.config import TrainConfig
from tests.experiments import toy
from tests.experiments.organisms.test_train import TINY

pytestmark = pytest.mark.slow

TEXTS = [
    "",
    "x" * 5000,
    "[bold]x[/nonsense]",
    "\x1b]0;pwned\x07",
    "\u202e\u0000x",
    "\udcff",
    "nan",
    "-1",
    "9" * 400,
    "0-99999999999",
    "~nosuchuser/x",
    "/dev/zero",
]
NUMBERS = ["", "x", "-1", "0.5", "nan", "inf", str(2**63), str(2**64), "9" * 400, "[bold]"]
PATHS = ["", " ", "a\0b", "/dev/zero", "pipe", "x" * 300, "file/below", "loop"]
PAIRS = """clean,corrupt,answer,foil
Tom Cruise's mother is,Kate Hudson's mother is,Mary,Goldie
Kate Hudson's mother is,Tom Cruise's mother is,Goldie,Mary
"""
LABELLED = "text,label\n" + "".join(
    f"{name} {word},{word}\n"
    for word in ("mother", "son")
    for name in ("Tom", "Kate", "Goldie", "Mary", "Ben")
)
COUNTS = {"--edges", "--only", "--seed", "--top", "--port", "--steps", "--context", "--workers"}
COUNTS |= {"--skip-first"}
FOLDERS = [*PATHS, "file"]
FILES = [*PATHS, "missing", "folder", "empty"]


def commands() -> dict[str, Any]:
    """The commands by name, those of groups too: "cache ls"."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        for key, one in (inner or {}).items():
            yield from walk(one, f"{name} {key}".strip())

    return dict(walk(typer.main.get_command(application.application), ""))


# What the commands need to be given at all. A wrong value comes after, and wins.
NEEDED = {
    # One run: whatever tells runs apart is refused there.
    "run": ["toy", "--out", "run"],
    "lens": ["Tom Cruise's mother is"],
    "app": ["--no-browser"],
    "train": ["reversal-curse"],
    "harvest": ["--text", "corpus.txt"],
    "tune-lens": ["--text", "corpus.txt", "--steps", "1"],
    "fit-lens": ["--text", "corpus.txt", "--skip-first", "0"],
    "cache rm": ["--all", "--yes"],
    "patch": ["--pairs", "pairs.csv", "--layers", "0"],
    "circuit": ["--pairs", "pairs.csv"],
    "transplant": ["--source", "Tom Cruise's", "--target", "Kate Hudson's"],
    "diff": ["reversal-curse", "my-model", "--prompt", "Tom Cruise's mother is"],
    "probe": ["--texts", "labelled.csv", "--layers", "0"],
}
OPTIONS = [
    (name, option.opts[0], option)
    for name, command in commands().items()
    for option in command.params
    if option.opts[0].startswith("--") and not option.is_flag and option.opts[0] != "--help"
]


def values(option: Any) -> list[str]:
    kind = str(option.metavar or "")
    if kind == "FOLDER":
        return FOLDERS
    if kind == "FILE":
        return FILES
    return NUMBERS if option.opts[0] in COUNTS else TEXTS


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with things that are in the way; work itself costs nothing."""
    monkeypatch.chdir(tmp_path)
    # Set first, so that what a command leaves in the environment is taken back afterwards.
    monkeypatch.setenv("OBVERSE_CACHE", "")
    monkeypatch.delenv("OBVERSE_CACHE")
    Path("corpus.txt").write_text("Tom Cruise's mother is Mary Lee Pfeiffer.\n" * 40)
    Path("pairs.csv").write_text(PAIRS)
    Path("labelled.csv").write_text(LABELLED)
    shutil.copytree(reversal_curse(), "my-model")
    Path("file").write_text("precious")
    Path("empty").touch()
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    loaded = interp.load_model

    def started(*_: object) -> None:
        raise ObverseError("It would have started.")

    monkeypatch.setattr(experiments.registry, "entry_points", toy.installed)
    monkeypatch.setattr(interp, "load_model", loaded_once(loaded))
    monkeypatch.setattr(experiments.cli.explorer, "served", started)
    monkeypatch.setattr(experiments.cli.train, "arm_config", _tiny)
    monkeypatch.setattr(interp.loading.where, "entry_points", _installed)
    return tmp_path


def _tiny(arm: str, _: int) -> TrainConfig:
    """An organism that is trained in no time, of an arm that there is."""
    find_arm(arm)
    return TINY


@cache
def _installed(group: str) -> EntryPoints:
    """What is installed stays the same from one command to the next."""
    return entry_points(group=group)


@cache
def loaded_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """Loading, remembered by what was given: the model is as it was after every command, and a
    folder of one name holds the same."""
    models: dict[Any, Any] = {}

    def remembered(*arguments: Any, **options: Any) -> Any:
        key = (arguments, tuple(options.items()))
        if key not in models:
            models[key] = load(*arguments, **options)
        return models[key]

    return remembered


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the errors of a command that is run here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["obverse", *arguments])
        with pytest.raises(SystemExit) as end:
            application.main()
    code = end.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option", "kind"), OPTIONS, ids=[f"{c} {o}" for c, o, _ in OPTIONS]
)
def test_a_wrong_value_is_one_sentence(
    command: str, option: str, kind: Any, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    must_fail = str(kind.metavar or "") in ("FOLDER", "FILE") or values(kind) is NUMBERS
    for value in values(kind):
        code, errors = ended(capsys, *command.split(), *NEEDED.get(command, []), option, value)
        lines = [line for line in errors.splitlines() if not line.startswith("Warning: ")]
        assert "\x1b" not in errors, value
        if code == 0 and not must_fail:
            assert lines == [], value
            continue
        assert code == 2, (value, errors)
        assert len(lines) == 1, (value, errors)
        assert re.fullmatch(r"Error: .*\.", lines[0]), (value, errors)
        assert len(lines[0]) < 12_000
    assert Path("file").read_text() == "precious"


@pytest.mark.parametrize("command", ["run", "train", "lens"])
def test_a_wrong_argument_is_one_sentence(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in TEXTS:
        code, errors = ended(capsys, command, "--", value)
        assert "\x1b" not in errors
        assert code == 2 or (command == "lens" and code == 0), value
        assert errors.count("\n") == (code != 0), errors


def test_every_option_was_tried() -> None:
    """The walk finds what the help shows; an option that it misses would be tried by nobody."""
    assert len(OPTIONS) > 45
    assert {name for name, _, _ in OPTIONS} == {*commands()} - {"models"}
    assert [value for _, _, kind in OPTIONS for value in values(kind)]
