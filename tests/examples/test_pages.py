"""The examples of a page run as scripts, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_page_on_execution_run(tmp_path: Path) -> None:
    sweeps, module, own = blocks("execution.md")
    (tmp_path / "sweeps.py").write_text(sweeps)
    (tmp_path / "counting.py").write_text(module)
    (tmp_path / "own.py").write_text(own)
    for name in ("sweeps.py", "own.py"):
        ended = subprocess.run(
            [sys.executable, name],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
