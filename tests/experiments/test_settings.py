"""Settings on the command line: typed by the config, and refused with the nearest name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from experiments.errors import StudyError
from experiments.settings import read_settings
from experiments.study import Study, Verdict
from tests.experiments import toy
from tests.experiments.commands import toy as run_toy


@dataclass(frozen=True)
class Config:
    model: str = "m"
    data: str | None = None
    n_pairs: int = 3
    rate: float | None = 0.5
    whole: bool = False
    kind: Literal["none", "full"] = "none"
    words: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 2)

    @classmethod
    def preset(cls, name: str) -> Config:
        return cls()


def _run(config: Config, context: Any) -> Sequence[Verdict]:
    return []


STUDY = Study("s", "S", "…", Config, _run)


def test_values_have_the_types_of_the_config() -> None:
    written = ["n-pairs=7", "rate=1e-3", "whole=yes", "kind=full", "words=a, b", "pair=3,4"]
    found = read_settings(STUDY, [*written, "data=x=y", "model= gpt2 "])
    assert found == {
        "n_pairs": 7,
        "rate": 1e-3,
        "whole": True,
        "kind": "full",
        "words": ("a", "b"),
        "pair": (3, 4),
        "data": "x=y",
        "model": "gpt2",
    }
    assert read_settings(STUDY, ["rate=none", "data=None"]) == {"rate": None, "data": None}
    assert read_settings(STUDY, []) == {}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (["n_pairs"], "sets nothing"),
        (["n_pair=3"], "did you mean 'n_pairs'?"),
        (["zzz=3"], "there are: model, data, n_pairs"),
        (["preset=full"], "has no setting 'preset'"),
        (["n_pairs=3", "n-pairs=4"], "'n_pairs' is set twice"),
        (["n_pairs=2.5"], "'n_pairs' is a whole number, not '2.5'"),
        (["n_pairs=" + "9" * 5000], "'n_pairs' is a whole number"),
        (["rate=nan"], "'rate' is a number, not 'nan'"),
        (["rate=inf"], "'rate' is a number"),
        (["whole=perhaps"], "'whole' is true or false"),
        (["kind=half"], "'kind' is one of none, full, not 'half'"),
        (["words=,"], "'words' takes words between commas"),
        (["pair=1"], "'pair' takes 2 values"),
        (["model="], "'model' is empty"),
        (["n_pairs=" + "9" * 20], "'n_pairs' is a whole number"),
        (["n_pairs=none"], "'n_pairs' is a whole number"),
    ],
)
def test_what_cannot_be_set_is_refused_in_a_sentence(written: list[str], words: str) -> None:
    with pytest.raises(StudyError) as refused:
        read_settings(STUDY, written)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_reach_a_run_and_clashes_are_refused(tmp_path: Path) -> None:
    ended = run_toy(
        "run", "toy", "--set", "size=9", "--set", "pair=5,6", "--out", "r", cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    from experiments.records import RunRecord

    config = RunRecord.open(tmp_path / "r").config
    assert (config["size"], config["pair"]) == (9, [5, 6])
    for arguments, words in (
        (["--set", "sise=9"], "did you mean 'size'?"),
        (["--model", "x", "--set", "model=y"], "'model' is given as an option and with --set"),
        (["--data", "."], "has no 'data' to set"),
        (["--berglund-results", "."], "has no 'berglund_results' to set"),
    ):
        ended = run_toy("run", "toy", *arguments, cwd=tmp_path)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
        assert "Traceback" not in ended.stderr
        assert words in ended.stderr
    assert toy.STUDY.configure("quick", {"size": 9}).size == 9
