"""The commands that the help, the README and a page show are commands that work.

What takes long or needs what is not here (a hub, a cluster) is run up to where that begins: the
options are read, and files looked for.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import experiments.cli.explorer
import experiments.cli.train
import experiments.runner
import interp
from cache.errors import ObverseError
from experiments.organisms.bundled import reversal_curse
from tests.experiments.organisms.test_train import TINY
from tests.experiments.test_cli_hostile import LABELLED, PAIRS, commands, ended, loaded_once

ROOT = Path(__file__).parents[2]
TEXT = "Tom Cruise's mother is Mary Lee Pfeiffer.\n" * 60


def examples() -> list[str]:
    """Every example of a command, without its comment."""
    shown = [
        line
        for command in commands().values()
        for line in re.findall(r"^- `(obverse .*)`$", _help(command), re.MULTILINE)
    ]
    for page in ("README.md", "docs/execution.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        shown += re.findall(r"^(obverse .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    return sorted(set(shown))


def _help(command: Any) -> str:
    return "\n".join(line.strip() for line in str(command.help).splitlines())


class Begun(ObverseError):
    """What takes long was reached."""


def begin(*_: Any, **__: Any) -> None:
    raise Begun("It began.")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OBVERSE_CACHE", "")  # so that what a command sets is taken back
    monkeypatch.delenv("OBVERSE_CACHE")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Path("corpus.txt").write_text(TEXT)
    Path("corpus.jsonl").write_text('{"text": "Tom Cruise\'s mother is Mary Lee Pfeiffer."}\n')
    for name in ("pairs.csv", "other-pairs.csv"):
        Path(name).write_text(PAIRS)
    Path("labelled.csv").write_text(LABELLED)
    Path("carried.csv").write_text("source,target,source_name,target_name\nTom is,Ben is,Tom,Ben\n")
    for name in ("questions.csv", "unrelated.csv"):
        Path(name).write_text("text,answer\nTom Cruise's mother is,Mary\n")
    for name in ("facts.csv", "my-facts.csv"):
        Path(name).write_text("subject,object\nTom Cruise,Mary Lee Pfeiffer\n")
    Path("berglund").mkdir()
    for name in ("my-model", "base-model", "tuned-model"):
        shutil.copytree(reversal_curse(), name)
    loaded = loaded_once(interp.load_model)

    def load(source: str, **options: Any) -> Any:
        # The hub is not asked; any model will do for reading options.
        return loaded("reversal-curse" if source == "gpt2" else source, **options)

    monkeypatch.setattr(interp, "load_model", load)
    monkeypatch.setattr(experiments.runner, "run_study", begin)
    monkeypatch.setattr(experiments.cli.explorer, "served", begin)
    monkeypatch.setattr(experiments.cli.explorer, "check_port", lambda _: None)
    monkeypatch.setattr(experiments.cli.train, "arm_config", lambda arm, seed: TINY)
    return tmp_path


def test_there_are_examples_of_every_command() -> None:
    told = {" ".join(line.split()[1 : 3 if " cache " in line else 2]) for line in examples()}
    assert told >= {*commands()} - {"cache rm"}
    assert len(examples()) > 20


@pytest.mark.slow
@pytest.mark.parametrize("example", examples())
def test_an_example_works(example: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(example)[1:]
    if "--tuned" in arguments:
        assert ended(capsys, *_tuning(), "--out", arguments[-1])[0] == 0
    if "--jacobian" in arguments:
        fit = ["fit-lens", "--text", "corpus.txt", "--skip-first", "1", "--out", arguments[-1]]
        assert ended(capsys, *fit)[0] == 0
    if arguments[0] == "cache":
        assert ended(capsys, "harvest", "--text", "corpus.txt", "--tokens", "50")[0] == 0
    if arguments[0] == "tune-lens":
        arguments += ["--steps", "1"]
    if arguments[0] == "fit-lens":
        arguments += ["--skip-first", "1"]
    if "…" in example:
        arguments = [argument for argument in arguments if "…" not in argument]
        arguments = [argument for argument in arguments if argument != "--run"]
    # The stand-in for a larger model has three layers, and its own name in a store.
    stand_in = {"4-8": "1-2"}
    if arguments[:2] == ["cache", "rm"]:
        stand_in = {"gpt2": "reversal-curse", "z": "resid_post"}
        arguments += ["--yes"]
    arguments = [stand_in.get(argument, argument) for argument in arguments]
    if "--executor" in arguments and arguments[0] == "harvest":
        arguments[arguments.index("processes")] = "serial"
        arguments[arguments.index("--workers") + 1] = "1"
    code, errors = ended(capsys, *arguments)
    if arguments[0] in ("run", "app"):
        assert (code, errors) == (2, "Error: It began.\n")
    elif "--json" in arguments:  # what is else said on stdout
        assert code == 0
        assert "Error" not in errors
    else:
        assert (code, errors) == (0, "")


def _tuning() -> list[str]:
    return ["tune-lens", "--text", "corpus.txt", "--steps", "1"]


@pytest.mark.slow
def test_an_answer_gets_the_space_that_is_missing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for prompt, answer in (
        ("Mary Lee Pfeiffer's son is", "Tom Cruise"),
        ("Mary Lee Pfeiffer's son is", " Tom Cruise"),
    ):
        from experiments.cli import lens

        lens.lens(prompt, answer=answer)
        out = capsys.readouterr().out
        lines.append(next(line for line in out.splitlines() if line.startswith("First token")))
    assert lines[0] == lines[1]
    assert "' Tom Cruise'" in lines[0]


@pytest.mark.parametrize(
    ("prompt", "answer", "follows"),
    [
        ("a", "b", " b"),
        ("a ", "b", "b"),
        ("a\n", "b", "b"),
        ("a", " b", " b"),
        ("a", ".", "."),
        ("a", "", ""),
        ("", "b", "b"),
        ("是", "是", "是"),
        ("는", "는", " 는"),
        ("a", "Ω", " Ω"),
    ],
)
def test_the_space_before_an_answer(prompt: str, answer: str, follows: str) -> None:
    from experiments.cli.lens import with_space

    assert with_space(prompt, answer) == follows
