"""The command line in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100", **extra}


def obverse(
    *arguments: str, cwd: Path, module: str = "experiments.cli", **extra: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def toy(*arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return obverse(*arguments, cwd=cwd, module="tests.experiments.toy_cli", **extra)


def start_toy(*arguments: str, cwd: Path, pause: str) -> subprocess.Popen[str]:
    """Start a toy run that waits at `pause`, and return once it got there."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.toy_cli", *arguments],
        cwd=cwd,
        env=environment(TOY_PAUSE=pause),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    while (line := child.stdout.readline()) and line.strip() != pause:
        pass
    return child


def is_one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n") and "Traceback" not in text
