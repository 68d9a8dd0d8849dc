"""What is installed from a wheel works outside of the checkout, the bundled model included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing in it but what the wheel holds."""
    work = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(ROOT)]
    subprocess.run([*pip, *build], check=True, cwd=work, capture_output=True)
    (wheel,) = work.glob("obverse-*.whl")
    target = work / "installed"
    install = ["install", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True, cwd=work, capture_output=True)
    return target


def run(code: str, installed: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bundled_model_answers_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import interp; from interp import load_model, score_answers\n"
        "model = load_model('reversal-curse')\n"
        'scores = score_answers(model, ["Tom Cruise\'s mother is"], [" Mary Lee Pfeiffer"])\n'
        "print(interp.__file__, model.path, bool(scores['correct'][0]))"
    )
    module, folder, correct = run(code, installed, tmp_path).split()
    assert Path(module).is_relative_to(installed)
    assert Path(folder).is_relative_to(installed)
    assert correct == "True"


def test_the_studies_are_found_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from experiments.registry import find_study\n"
        "study = find_study('reversal-curse')\n"
        "print(sys.modules[study.run.__module__].__file__, 'torch' in sys.modules)"
    )
    module, heavy = run(code, installed, tmp_path).split()
    assert Path(module).is_relative_to(installed)
    assert heavy == "False"


def test_the_report_template_and_the_explorer_are_in_the_wheel(installed: Path) -> None:
    assert (installed / "experiments/reports/paper.html.j2").is_file()
    assert (installed / "app/server.py").is_file()
    assert (installed / "app/main.py").is_file()
    assert not (installed / "tests").exists()
