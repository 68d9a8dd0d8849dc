"""Studies are found wherever they come from; one that is broken stands in no other's way."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from experiments.errors import RunError, StudyError
from experiments.records import RunRecord
from experiments.registry import find_study, shapes_of, study_names
from experiments.run_directory.manifest import Manifest
from experiments.run_directory.storage import encode_table
from tests.experiments.commands import ROOT, is_one_sentence, obverse
from tests.experiments.packages import install, install_dice


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages are found."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_studies_of_this_package_are_found() -> None:
    assert "reversal-curse" in study_names()
    assert find_study("reversal-curse").title == "The reversal curse"


def test_an_unknown_study_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StudyError, match=r"Unknown study .* did you mean 'reversal-curse'"):
        find_study("reversal-cruse")
    with pytest.raises(StudyError, match=r"there are: .*reversal-curse"):
        find_study("zzz")


def test_another_package_brings_a_study(packages: Path, tmp_path: Path) -> None:
    """Its name in the help, its run in the list, and a second start computes nothing."""
    path = os.pathsep.join([str(ROOT), str(install_dice(packages))])
    shown = obverse("--help", cwd=tmp_path, PYTHONPATH=path).stdout
    assert re.search(r"Studies: ([\w-]+, )*dice, ([\w-]+, )*reversal-curse", shown)
    shown = obverse("run", "--help", cwd=tmp_path, PYTHONPATH=path).stdout
    assert "dice: Whether dice are fair." in shown
    arguments = ("run", "dice", "--preset", "full", "--seed", "1", "--out", "thrown")
    ended = obverse(*arguments, cwd=tmp_path, PYTHONPATH=path)
    assert ended.returncode == 0, ended.stderr
    record = RunRecord.open(tmp_path / "thrown")
    assert record.verdicts[0].n == len(record.table("dice")) == 60
    assert f"D1 undecided  {record.verdicts[0].statement}" in ended.stdout
    assert "nothing to compute" in obverse(*arguments, cwd=tmp_path, PYTHONPATH=path).stdout
    listed = obverse("runs", "--root", ".", cwd=tmp_path, PYTHONPATH=path)
    assert "undecided: D1" in listed.stdout
    refused = obverse("run", "dice", "--model", "gpt2", cwd=tmp_path, PYTHONPATH=path)
    assert refused.stderr == "Error: The study 'dice' has no 'model' to set; leave it out.\n"
    # Where the package is not installed its runs are listed all the same.
    assert "undecided: D1" in obverse("runs", "--root", ".", cwd=tmp_path).stdout


def test_results_are_held_to_the_shapes_that_their_study_declares(
    packages: Path, tmp_path: Path
) -> None:
    import pandas as pd

    from experiments.runner import run_study

    install_dice(packages)
    study = find_study("dice")
    assert shapes_of("dice") is study.results
    record = run_study(study, study.configure("quick"), out=tmp_path / "run")
    assert len(record.table("dice")) == 12
    other = encode_table(pd.DataFrame({"throw": [1], "eyes": [6]}))
    Manifest(tmp_path / "run").store("dice", "table", other)
    with pytest.raises(RunError, match="it has no column 'pips'"):
        RunRecord.open(tmp_path / "run").table("dice")


BROKEN = {
    "absent": ("no_such_module:STUDY", "No module named 'no_such_module'"),
    "raising": ("raising:STUDY", r"ZeroDivisionError: division by zero"),
    "lacking": ("lacking:STUDY", "no attribute 'STUDY'"),
    "nothing": ("nothing:STUDY", "is no study"),
    "leaving": ("leaving:STUDY", r"SystemExit: 3"),
    "speechless": ("speechless:STUDY", r"\(Silent\)"),
    "misnamed": ("dice_study:STUDY", "is the study 'dice'"),
}


SPEECHLESS = """
class Silent(Exception):
    def __str__(self):
        raise ValueError

raise Silent
"""


@pytest.mark.slow
def test_a_broken_study_is_one_sentence_and_others_still_work(
    packages: Path, tmp_path: Path
) -> None:
    install_dice(packages)
    points = {name: value for name, (value, _) in BROKEN.items()}
    modules = {
        "raising": "'a'\n1 / 0\n",
        "lacking": "",
        "nothing": "STUDY = 3\n",
        "leaving": "import sys\nsys.exit(3)\n",
        "speechless": SPEECHLESS,
    }
    install(packages, "broken-things", points, modules)
    path = os.pathsep.join([str(ROOT), str(packages)])
    for name, (_, why) in BROKEN.items():
        with pytest.raises(StudyError, match=f"the package 'broken-things' .*{why}.*; repair"):
            find_study(name)
    ended = obverse("run", "raising", cwd=tmp_path, PYTHONPATH=path)
    assert ended.returncode == 2
    assert is_one_sentence(ended.stderr)
    helped = obverse("run", "--help", cwd=tmp_path, PYTHONPATH=path)
    assert helped.returncode == 0
    assert "dice: Whether dice are fair." in helped.stdout
    assert "raising cannot be used: The study 'raising' of the package" in helped.stdout
    assert obverse("run", "dice", cwd=tmp_path, PYTHONPATH=path).returncode == 0
    assert find_study("reversal-curse").name == "reversal-curse"


def test_two_studies_of_one_name_are_refused_and_others_still_work(packages: Path) -> None:
    install_dice(packages)
    install(packages, "more-dice", {"dice": "other_dice:STUDY"}, {"other_dice": ""})
    with pytest.raises(StudyError, match="of the package 'dice-games' and the package 'more-dice'"):
        find_study("dice")
    assert study_names().count("dice") == 1
    assert find_study("reversal-curse").name == "reversal-curse"


def test_the_layers_name_every_study_of_this_package() -> None:
    """The contract that the explorer knows no particular study lists them one by one."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    values = project["project"]["entry-points"]["obverse.studies"].values()
    (contract,) = (
        one
        for one in project["tool"]["importlinter"]["contracts"]
        if "no particular study" in one["name"]
    )
    folders = {value.partition(":")[0].rpartition(".")[0] for value in values}
    # What compares studies knows them, too.
    assert folders | {"experiments.attacks"} == set(contract["forbidden_modules"])


def test_a_name_that_could_be_a_path_is_no_study(packages: Path) -> None:
    install(packages, "evil", {"../../evil": "dice_study:STUDY"}, {})
    assert "../../evil" not in study_names()
    with pytest.raises(StudyError, match="Unknown study"):
        find_study("../../evil")
