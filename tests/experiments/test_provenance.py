"""What a run says of its origin."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.experiments.running import ROOT, Ears, run, start_child
from tests.experiments.sealing import edit

pytestmark = pytest.mark.slow


def test_provenance_says_what_and_not_who(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada-the-user")
    monkeypatch.setenv("SOME_TOKEN", "secret-in-the-environment")
    record = run(tmp_path / "run")
    text = (record.path / "provenance.json").read_text()
    import getpass
    import platform
    import socket

    for private in ("ada-the-user", "secret-in", str(tmp_path), str(ROOT), socket.gethostname()):
        assert private not in text
    assert getpass.getuser() not in json.loads(text).values()
    assert record.provenance.versions["python"] == platform.python_version()
    assert record.provenance.versions["numpy"] == np.__version__
    assert record.provenance.device == {"type": "cpu"}
    assert record.provenance.model is not None
    assert record.provenance.model["fingerprint"] == "f" * 32


def test_a_change_of_versions_is_told_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start_child(tmp_path / "run", "report")
    child.kill()
    child.communicate(timeout=30)
    path = tmp_path / "run/provenance.json"
    versions = json.loads(path.read_text())["versions"]
    edit(path, versions={**versions, "numpy": "0.1"})
    ears = Ears()
    record = run(tmp_path / "run", reporter=ears)
    assert [w for w in ears.warnings if "numpy was 0.1" in w]
    assert record.provenance.versions["numpy"] == "0.1"
    assert record.provenance.resumed[0]["versions"]["numpy"] == np.__version__


def test_the_git_revision_is_only_that_of_a_checkout_of_this_package(tmp_path: Path) -> None:
    """A copy of the package inside another project's checkout has no revision; one of its own has.

    Run in copies, so that the test says the same in a checkout and in an archive.
    """
    if shutil.which("git") is None:
        pytest.skip("needs git")
    project = tmp_path / "project"
    site = project / "site-packages"
    for package in ("cache", "experiments"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("bundled"))

    def git(where: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(
            ["git", "-C", str(where), *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def revision() -> Any:
        script = (
            "import json; from experiments.run_directory.provenance import code_revision\n"
            "print(json.dumps(code_revision()))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script], cwd=site, check=True, capture_output=True, text=True
        )
        return json.loads(ended.stdout)

    git(project, "init", "-q")
    git(project, "commit", "-q", "--allow-empty", "-m", "x")
    assert revision() is None
    git(site, "init", "-q")
    git(site, "add", ".")
    git(site, "commit", "-q", "-m", "x")
    head = git(site, "rev-parse", "HEAD").strip()
    assert revision() == {"revision": head, "changed": False}
    with open(site / "experiments/errors.py", "a") as file:
        file.write("# changed\n")
    assert revision()["changed"] is True
