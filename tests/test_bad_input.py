"""Bad input gets one sentence and an exit code, and what was there before stays as it was."""

from __future__ import annotations

import errno
import io
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from experiments.cli.application import application, main
from experiments.organisms.bundled import reversal_curse
from interp import PromptPairs, Site, capture, load_model, logit_lens, sweep
from interp.errors import ObverseError
from interp.model.model import Model

FACTS = (
    "subject,object,relation,inverse\n"
    "Tom Cruise,Mary Lee Pfeiffer,mother,son\n"
    "Kate Hudson,Goldie Hawn,mother,daughter\n"
    "Carrie Fisher,Debbie Reynolds,mother,daughter\n"
)


@pytest.fixture(scope="session")
def organism() -> Model:
    return load_model("reversal-curse")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be damaged."""
    return Path(shutil.copytree(reversal_curse(), tmp_path / "model"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def told(*arguments: str) -> str:
    """What the command line says on the way out; fails unless it is one sentence and an error."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as printed:
        patch.setattr("sys.argv", ["obverse", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code not in (0, None), printed.getvalue()
    text = " ".join(printed.getvalue().split())
    assert "Traceback" not in text
    errors = re.findall(r"Error: (.*)", text)
    assert len(errors) == 1, text
    return str(errors[0])


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def truncated(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def without_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def without_config(model: Path) -> None:
    (model / "config.json").unlink()


def non_finite(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without_weights, "no weights"),
        (truncated, "truncated or damaged"),
        (without_tokenizer, "no tokenizer"),
        (without_config, "no config.json"),
        (non_finite, "non-finite weights"),
    ],
)
def test_a_damaged_model_is_refused(
    damage: Callable[[Path], None], sentence: str, folder: Path, home: Path
) -> None:
    damage(folder)
    assert sentence in told("run", "reversal-curse", "--model", str(folder))
    assert files(home) == {}


@pytest.mark.slow
def test_an_unknown_model_is_refused_with_the_nearest_name(home: Path) -> None:
    text = told("run", "reversal-curse", "--model", "reversal-course", "--facts", "none.csv")
    assert "none.csv" in text or "reversal-curse" in text
    assert "did you mean 'reversal-curse'" in told("lens", "Tom", "--model", "reversal-course")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name,mother\nTom,Mary\n", "no column 'subject'"),
        (b"", "is empty"),
        (b"subject,object\n", "is empty"),
        ("subject,object\nZoë,Lisa\n".encode("latin-1"), "not UTF-8"),
        (FACTS.encode() + b"Tom Cruise,Mary Lee Pfeiffer,mother,son\n", "same fact twice"),
        (FACTS.encode() + b"Tom Cruise,,mother,son\n", "empty name in line 5"),
        (b"subject,object,split\nTom,Mary,sideways\n", "unknown split 'sideways'"),
        (b"subject,object\nTom Cruise,Mary Lee Pfeiffer\n", "does not know 'parent'"),
        ("".join(FACTS.splitlines(True)[:2]).encode(), "three different names"),
    ],
)
def test_a_bad_facts_file_is_refused(content: bytes, sentence: str, home: Path) -> None:
    path = home / "facts.csv"
    path.write_bytes(content)
    assert sentence in told("run", "reversal-curse", "--facts", str(path))
    assert files(home) == {"facts.csv": content}


def test_a_missing_facts_file_is_refused(home: Path) -> None:
    assert "There is no file" in told("run", "reversal-curse", "--facts", "nowhere.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lens", ""), "empty"),
        (("lens", "Tom Cruise's mother is", "--answer", " "), "no tokens"),
        (("lens", "Tom " * 500), "reads at most"),
        (("run", "reversal-course"), "reversal-curse"),
    ],
)
def test_a_bad_question_is_refused(arguments: tuple[str, ...], sentence: str, home: Path) -> None:
    assert sentence in told(*arguments)
    assert files(home) == {}


def test_a_folder_that_is_no_run_is_left_alone(home: Path) -> None:
    (home / "thesis.txt").write_text("three years of work")
    told("run", "reversal-curse", "--out", str(home))
    assert files(home) == {"thesis.txt": b"three years of work"}


def test_a_run_of_another_study_is_left_alone(home: Path) -> None:
    (home / "config.json").write_text(
        '{"schema": 2, "study": "another", "preset": "quick", "seed": 0, "dtype": "float32"}'
    )
    before = files(home)
    assert "another" in told("run", "reversal-curse", "--out", str(home))
    assert {name: data for name, data in files(home).items() if name in before} == before


def test_a_run_directory_that_cannot_be_written_is_refused(home: Path) -> None:
    (home / "runs").write_text("a file where the folder should be")
    told("run", "reversal-curse")
    assert files(home) == {"runs": b"a file where the folder should be"}


@pytest.mark.slow
def test_a_full_disk_ends_a_run_that_can_go_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cache.files

    facts = home / "facts.csv"
    facts.write_text(FACTS)
    real = cache.files.os.fsync
    calls = 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    command = ["run", "reversal-curse", "--facts", str(facts), "--out", str(home / "run")]
    command += ["--set", "n_names=2", "--set", "n_pairs=2"]
    with monkeypatch.context() as patch:
        patch.setattr(cache.files.os, "fsync", full)
        assert "space" in told(*command)
    kept = {n for n in files(home / "run") if n.startswith("results/")}
    result = CliRunner().invoke(application, command)
    assert result.exit_code == 0, result.output
    assert kept <= set(files(home / "run"))
    assert "report.html" in files(home / "run")


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_port_in_use_is_refused(busy_port: int, home: Path) -> None:
    assert str(busy_port) in told("app", "--port", str(busy_port))


def pairs(model: Model, **changes: Any) -> PromptPairs:
    given: dict[str, Any] = {
        "clean": ["Tom Cruise's mother is"],
        "corrupt": ["Kate Hudson's mother is"],
        "answers": [" Mary"],
        "foils": [" Goldie"],
    }
    return PromptPairs(model, **{**given, **changes})


CALLS: list[tuple[str, Callable[[Model], object], str]] = [
    ("layer", lambda m: capture(m, ["Tom"], Site("z", 99)), "Layer 99 is out of range"),
    ("head", lambda m: capture(m, ["Tom"], Site("z", 0, 99)), "Head 99 is out of range"),
    ("head of a stream", lambda m: capture(m, ["Tom"], "resid_pre.0.h1"), "has no heads"),
    ("site", lambda m: sweep(m, pairs(m), "residual"), "Unknown site 'residual'"),
    ("site as written", lambda m: capture(m, ["Tom"], "z.one"), "is not a site"),
    ("metric", lambda m: sweep(m, pairs(m), "z", "logit_dif"), "Did you mean 'logit_diff'"),
    ("swept layer", lambda m: sweep(m, pairs(m), "z", layers=[99]), "Layer 99 is out of range"),
    ("swept head", lambda m: sweep(m, pairs(m), "z", heads=[99]), "Head 99 is out of range"),
    ("position", lambda m: sweep(m, pairs(m), "mlp_out", positions=[99]), "Position 99"),
    ("axis", lambda m: sweep(m, pairs(m), "mlp_out", by="head"), "has no heads"),
    ("direction", lambda m: sweep(m, pairs(m), "z", direction="up"), "denoising"),  # type: ignore[arg-type]
    ("unequal lengths", lambda m: pairs(m, corrupt=["Kate's mother is"]), "name spans"),
    ("span", lambda m: pairs(m, spans={"subject": ["Brad Pitt"]}), "is not in the prompt"),
    ("counts", lambda m: pairs(m, answers=[" Mary", " Lee"]), "2 answers for 1 prompts"),
    ("empty answer", lambda m: pairs(m, answers=[""]), "no tokens"),
    ("no foils", lambda m: sweep(m, pairs(m, foils=None), "z"), "foils"),
    ("no prompts", lambda m: logit_lens(m, []), "no prompts"),
    ("too long", lambda m: logit_lens(m, ["Tom " * 500]), "reads at most"),
    ("token ids", lambda m: logit_lens(m, torch.tensor([[10**6]])), "vocabulary"),
    ("dtype", lambda m: load_model("reversal-curse", dtype="int8"), "Unknown dtype"),
    ("device", lambda m: load_model("reversal-curse", device="abacus"), "no device"),
]


@pytest.mark.parametrize(("call", "sentence"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_a_bad_call_says_what_is_wrong(
    call: Callable[[Model], object], sentence: str, organism: Model
) -> None:
    with pytest.raises(ObverseError) as caught:
        call(organism)
    text = str(caught.value)
    assert sentence in text
    assert "\n" not in text
    assert text.endswith((".", "…", "?"))
