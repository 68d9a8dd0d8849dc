"""Everything that one large GPU is to show, in one command with a budget of nine minutes.

Correctness first: where an answer differs by more than rounding explains, nothing is timed, and the
exit code is 1. Then the parts in the order of their importance, both sides in one process, the
device waited for before and after each time is taken. What no longer fits into the time is left
out, which the table says; `--only` runs some parts. Tables are added to a file line by line, so
that a run that is killed keeps what it found.

    python -m benchmarks.gpu [--only patching] [--budget 520] [--out gpu.md] [--golden FOLDER]
    python -m benchmarks.gpu --device cpu --small       # seconds, to see that it runs
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks._checks import Wrong, found_at
from benchmarks._common import describe_machine, matrix_rate, on_gpu
from benchmarks._gpu_parts import PARTS, TINY, Bench, Part, Sizes, forget, missing
from interp.errors import ObverseError

# Stops short of nine minutes by what a last step may take longer than was guessed.
BUDGET = 500.0
_GOLDEN = (Path("shared/golden"), Path("../shared/golden"))
_PACKAGES = ("transformers", "transformer-lens", "numpy", "scikit-learn")


class Report:
    """Lines of Markdown, on the screen and in a file as soon as they are known."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def say(self, text: str = "") -> None:
        print(text, flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())

    def row(self, cells: Sequence[str]) -> None:
        self.say(f"| {' | '.join(cells)} |")


def describe(device: str, width: int) -> Iterator[str]:
    """What was measured on, with the rate of matrix products of a width."""
    yield f"{describe_machine(device)}, Python {platform.python_version()}"
    yield ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + "."
    if on_gpu(device):
        free, whole = torch.cuda.mem_get_info()
        yield (
            f"CUDA {torch.version.cuda}, {free / 1e9:.0f} of {whole / 1e9:.0f} GB free, "
            f"TF32 {'on' if torch.backends.cuda.matmul.allow_tf32 else 'off'}."
        )
    for dtype in (torch.float32, torch.bfloat16):
        rate = matrix_rate(device, dtype, width)
        yield f"Matrix products in {str(dtype).removeprefix('torch.')}: {rate / 1e12:.3g} TFLOP/s."


def run(
    bench: Bench, names: Sequence[str], report: Report, left: Callable[[], float]
) -> dict[str, str]:
    """Run parts; what was left out or failed, by its name, with the reason.

    Args:
        left: seconds that are left.

    Raises:
        Wrong: the device gives other numbers than it should.
    """
    for line in (*describe(bench.device, bench.sizes.llama[1]), *missing()):
        report.say(f"{line}\n")
    if "correctness" in names and bench.golden is None:
        report.say("There are no stored answers (--golden), so none are compared.\n")
    lost: dict[str, str] = {}
    for name in names:
        lost.update(_part(name, PARTS[name], bench, report, left))
    return lost


def _part(
    name: str, part: Part, bench: Bench, report: Report, left: Callable[[], float]
) -> dict[str, str]:
    lost: dict[str, str] = {}
    goal = f" (aim: {part.goal})" if part.goal else ""
    report.say(f"\n## {part.title}{goal}\n")
    report.row(part.header)
    report.say(f"|{'---|' * len(part.header)}")
    for step in part.steps(bench):
        key = f"{name}: {step.what}"
        if left() < step.seconds:
            lost[key] = f"left out, since {left():.0f} s were left of the time and it may take " + (
                f"{step.seconds:.0f}"
            )
            continue
        try:
            for cells in step.lines():
                report.row(cells)
        except Wrong:
            raise
        except (AssertionError, ObverseError, RuntimeError, torch.OutOfMemoryError) as error:
            # One competitor or one size that fails does not take the rest along.
            lost[key] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        finally:
            forget()
    for key, why in lost.items():
        report.say(f"\n{key} {why}.")
    return lost


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", help="these parts, in their order")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds")
    parser.add_argument("--out", type=Path, help="a file of Markdown that the tables are added to")
    parser.add_argument("--golden", type=Path, help="the folder of stored answers")
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    given = parser.parse_args(arguments)
    end = time.monotonic() + given.budget
    if on_gpu(given.device) and not torch.cuda.is_available():
        print("There is no GPU here; with --device cpu --small the same parts run in small.")
        return 2
    warnings.simplefilter("ignore")
    golden = found_at([given.golden] if given.golden else _GOLDEN)
    if given.golden and golden is None:
        print(f"There are no stored answers in '{given.golden}'; give the folder that holds gpt2.")
        return 2
    sizes = TINY if given.small else Sizes()
    bench = Bench(given.device, sizes, golden, given.folder)
    names = [name for name in PARTS if given.only is None or name in given.only]
    report = Report(given.out)
    try:
        lost = run(bench, names, report, lambda: end - time.monotonic())
    except Wrong as wrong:
        report.say(f"\n**{wrong}**")
        return 1
    failed = [key for key, why in lost.items() if why.startswith("failed")]
    report.say(f"\nDone with {max(0.0, end - time.monotonic()):.0f} s of {given.budget:.0f} left.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
