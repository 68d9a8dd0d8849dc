"""The command line in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.warm import Process

ROOT = Path(__file__).parents[2]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100", **extra}


def obverse(
    *arguments: str, cwd: Path, module: str = "experiments.cli", **extra: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    env = environment(**extra)
    if "PYTHONIOENCODING" in extra:  # is read as Python starts
        return subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
        )
    child = Process(module, arguments, cwd, env)
    output, errors = child.communicate(timeout=120)
    return subprocess.CompletedProcess(command, child.wait(0), output, errors)


def toy(*arguments: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return obverse(*arguments, cwd=cwd, module="tests.experiments.toy_cli", **extra)


def start_toy(*arguments: str, cwd: Path, pause: str) -> Process:
    """Start a toy run that waits at `pause`, and return once it got there."""
    child = Process("tests.experiments.toy_cli", arguments, cwd, environment(TOY_PAUSE=pause))
    while (line := child.stdout.readline()) and line.strip() != pause:
        pass
    return child


def is_one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith(".\n") and "Traceback" not in text
