"""Memory of the explorer over many jobs: `python -m benchmarks._explorer_memory`.

A small random model, a map of another pair of prompts in each job, all asked by one session; what
the process holds is read after every tenth job.
"""

from __future__ import annotations

import gc
import itertools
import tempfile
from pathlib import Path

from app.compute.background import requests
from app.compute.background.jobs import Jobs
from app.compute.engine import Engine, ModelSpec
from app.compute.pairs import typed
from app.resources import load_apart
from tests.app.material import FACTS, make_model

_WARM, _JOBS, _EVERY = 60, 240, 20
_PAGE = 4096


def resident() -> float:
    """MB that the process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * _PAGE / 1e6


def rows() -> list[tuple[int, float]]:
    """(jobs so far, MB)."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        spec = ModelSpec(str(make_model(Path(folder) / "tiny")))
        model = load_apart(spec)
        jobs = Jobs(Engine(lambda _: model).turns, lambda session: True)
        names = [fact.subject for fact in FACTS] + [fact.object for fact in FACTS]
        couples = itertools.permutations([name for name in names if "<" not in name], 2)
        asked = [
            typed(f"{a}'s {what} is", f"{b}'s {what} is", "Mary", "Bea")
            for a, b in couples
            for what in ("mother", "son", "mother's son", "son's mother")
        ]
        for number, pair in enumerate(asked[: _WARM + _JOBS], 1):
            job = jobs.ask(requests.patching(spec, pair, "resid_pre", run=True), "a")
            job.work.wait(60)
            if number % _EVERY == 0:
                gc.collect()
                found.append((number, resident()))
    return found


def main() -> None:
    table = rows()
    for number, size in table:
        print(f"{number:4d} jobs: {size:7.1f} MB")
    settled = [size for number, size in table if number >= _WARM]
    print(f"after {_WARM} jobs: {max(settled) - settled[0]:+.1f} MB at most in {_JOBS} more")


if __name__ == "__main__":
    main()
