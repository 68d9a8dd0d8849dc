"""Finished runs of the toy study, and how a damaged one is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.errors import ObverseError
from experiments.records import RunRecord, list_runs
from experiments.runner import run_study
from tests.experiments import toy

FILES = ("config.json", "provenance.json", "stages.json", "verdicts.json")


def run(out: Path, **options: Any) -> RunRecord:
    return run_study(toy.STUDY, toy.Config(), out=out, model=toy.fake_model(), **options)


def refused(directory: Path) -> str:
    """The sentence with which a folder is refused, told of as skipped in a list too."""
    message = said(lambda: RunRecord.open(directory))
    assert message
    skipped: list[str] = []
    assert list_runs(directory.parent, on_skip=lambda _, why: skipped.append(why)) == []
    assert skipped == [message]
    return message


def said(act: Callable[[], object]) -> str:
    """The sentence with which something is refused; nothing if it is not."""
    try:
        act()
    except ObverseError as error:
        message = str(error)
    else:
        return ""
    assert message.endswith(".")
    assert "\n" not in message
    return message
