"""The notebooks run from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One that has imported what takes long, in the folder of the notebooks."""
    manager, client = start_new_kernel(cwd=str(NOTEBOOKS[0].parent))
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, kernel: KernelManager) -> None:
    notebook = nbformat.read(path, as_version=4)
    # A run of the whole study has tests of its own, and takes a minute.
    notebook.cells = [cell for cell in notebook.cells if "study" not in tags(cell)]
    # No name is left of the notebook before.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=120).execute()


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def test_one_notebook_is_stored_with_its_outputs_and_the_others_without() -> None:
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        shown = [bool(cell.get("outputs")) for cell in cells if cell.cell_type == "code"]
        if path.stem == "reversal_curse":
            # Two cells only define what others call.
            assert sum(shown) >= len(shown) - 2, path
            assert path.stat().st_size < 1 << 20
        else:
            assert not any(shown), path


def test_the_study_of_the_notebook_is_the_quick_one() -> None:
    path = next(path for path in NOTEBOOKS if path.stem == "reversal_curse")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "study" in tags(cell)]
    assert 'run_study(study, study.configure("quick"), preset="quick")' in cells[0].source
    outputs = str(cells[0].outputs)
    for name in ("H1", "H2", "H3", "H4", "H5", "H6", "H7", "H8", "H9", "T"):
        assert f"{name:12} " in outputs
