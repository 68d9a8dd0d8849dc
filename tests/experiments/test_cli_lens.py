"""`obverse tune-lens`, `fit-lens`, and `lens` through what they made, as a user types them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from experiments.cli.application import application
from interp import load_model

pytestmark = pytest.mark.slow

TRAIN = ("tune-lens", "--text", "corpus.jsonl", "--steps", "20", "--out", "mine")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = load_model("reversal-curse").path
    assert path is not None
    with (path / "facts.csv").open() as file:
        facts = [f"{f['subject']}'s {f['relation']} is {f['object']}" for f in csv.DictReader(file)]
    Path("corpus.jsonl").write_text("".join(f'"{fact}"\n' for fact in facts))


def obverse(*words: str) -> Result:
    return CliRunner().invoke(application, list(words), env={"COLUMNS": "200"})


def test_a_lens_is_trained_and_used() -> None:
    trained = obverse(*TRAIN)
    assert trained.exit_code == 0, trained.output
    rows = re.findall(r"(embedding|\d) +([\d.]+) nats +([\d.]+) nats", trained.output)
    assert [name for name, _, _ in rows] == ["embedding", "1", "2"]
    assert all(float(tuned) < float(plain) for _, plain, tuned in rows)
    plain = obverse("lens", "Tom Cruise's mother is")
    used = obverse("lens", "Tom Cruise's mother is", "--tuned", "mine")
    assert used.exit_code == 0, used.output
    # The model's own prediction stays, the reading of earlier layers does not.
    assert plain.output.split("layer")[0] == used.output.split("layer")[0]
    assert plain.output != used.output


def test_a_folder_without_a_lens_is_refused_in_a_sentence() -> None:
    ended = obverse("lens", "Tom Cruise's mother is", "--tuned", "nothing")
    assert ended.exit_code != 0
    assert "lens.json' cannot be read: it does not exist" in " ".join(ended.output.split())


def test_another_training_in_the_folder_is_refused_in_a_sentence() -> None:
    assert obverse(*TRAIN).exit_code == 0
    ended = obverse(*TRAIN, "--seed", "1")
    assert ended.exit_code != 0
    assert "choose another folder" in " ".join(ended.output.split())


def test_a_jacobian_lens_is_fitted_and_used() -> None:
    fit = ("fit-lens", "--text", "corpus.jsonl", "--skip-first", "1", "--tokens", "100")
    fitted = obverse(*fit, "--out", "mine")
    assert fitted.exit_code == 0, fitted.output
    rows = re.findall(r"(embedding|\d) +([\d.]+) +([\d.]+)%", fitted.output)
    assert [name for name, _, _ in rows] == ["embedding", "1", "2"]
    plain = obverse("lens", "Tom Cruise's mother is")
    for path in ("mine", "mine/lens.pt"):
        used = obverse("lens", "Tom Cruise's mother is", "--jacobian", path)
        assert used.exit_code == 0, used.output
        assert plain.output.split("layer")[0] == used.output.split("layer")[0]
        assert plain.output != used.output
    for words, message in (
        (("--jacobian", "nothing"), "There is no file 'nothing'"),
        (("--jacobian", "corpus.jsonl"), "not the file of a Jacobian lens"),
        (("--jacobian", "mine", "--tuned", "mine"), "give --tuned or --jacobian"),
    ):
        ended = obverse("lens", "Tom Cruise's mother is", *words)
        assert ended.exit_code != 0
        assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", ended.output).split())
