"""The report opens from the disk, offline, and draws every figure."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.records import RunRecord

pytestmark = pytest.mark.slow


@pytest.mark.browser
def test_the_report_draws_its_figures_offline_and_runs_no_name(
    browser: Any, record: RunRecord
) -> None:
    # Two of the names on it hold markup that would run a script.
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.goto((record.path / "report.html").resolve().as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    figures = page.locator("[data-figure]")
    assert figures.count() >= 10
    assert page.locator("[data-figure] svg.main-svg").count() >= figures.count()
    assert page.get_by_text("Mary Lee Pfeiffer").first.is_visible()
    assert page.locator("img").count() == 0
    context.close()
    assert problems == []
