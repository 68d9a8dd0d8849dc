"""The page that lays two states side by side, and pins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.records import RunRecord
from tests.app.pages import Open, assert_fine, html, root_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_runs(record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same run twice."""
    root = tmp_path_factory.mktemp("two")
    for name in ("one", "other"):
        shutil.copytree(record.path, root / name)
    return root


def test_without_pins_it_says_how(open_page: Open, record: RunRecord) -> None:
    page = open_page(root_of(record), query={"page": "compare"})
    assert_fine(page)
    assert "Choose A and B above." in html(page)
    assert "Nothing is pinned." in html(page)


def test_two_runs_are_compared(open_page: Open, two_runs: Path) -> None:
    query = {"page": "compare", "a": "run=one", "b": "run=other"}
    page = open_page(two_runs, query=query)
    assert_fine(page)
    assert "Both runs studied the same weights" in html(page)
    assert html(page).count("ob-table") >= 2
    page = open_page(two_runs, query=query | {"shown": "patching", "asking": "reverse"})
    assert_fine(page)
    assert len(page.get("plotly_chart")) == 3
    assert "A has 2 pairs and B 2, of which 2 have the same prompts and answers" in html(page)
    page = open_page(two_runs, query=query | {"shown": "ranks", "group": "held_out"})
    assert_fine(page)
    assert len(page.get("plotly_chart")) == 1
