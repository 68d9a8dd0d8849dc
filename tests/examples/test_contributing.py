"""The worked examples of CONTRIBUTING.md do what the page says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from interp.kinds import KINDS
from tests.experiments.packages import install
from tests.interp.architectures import ARCHITECTURES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def blocks(heading: str, language: str = "python") -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)


def run(heading: str) -> dict[str, Any]:
    found = blocks(heading)
    assert found
    names: dict[str, Any] = {}
    exec(compile("\n".join(found), f"CONTRIBUTING.md, {heading}", "exec"), names)
    return names


def test_a_study_of_another_package_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("Add a study")
    (about,) = blocks("Add a study", "toml")
    (point,) = re.findall(r"^word-lengths = \"(.*)\"$", about, flags=re.MULTILINE)
    packages = tmp_path / "site-packages"
    install(packages, "word-lengths", {"word-lengths": point}, {"word_lengths": code})
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setattr(
        sys, "argv", ["obverse", "run", "word-lengths", "--out", str(tmp_path / "run")]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err
    (verdicts,) = (tmp_path / "run").rglob("verdicts.json")
    (verdict,) = json.loads(verdicts.read_text())
    assert verdict["outcome"] == "supported"


def test_an_instrument_gives_what_hugging_face_does() -> None:
    names = run("Add an instrument")
    assert names["norms"]["norm"].dims == ("example", "layer")


def test_a_site_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KINDS, "mlp_in", raising=False)
    try:
        run("Add a site")
    finally:
        KINDS.pop("mlp_in", None)


def test_an_architecture_is_one_entry() -> None:
    try:
        run("Add an architecture")
    finally:
        ARCHITECTURES.pop("SmolLM 3", None)
