"""Two runs in a real Chromium: pinned, subtracted, and found again by the link."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.browser.conftest import Explorer
from tests.browser.looking import OpenPage, wait_for_plot

pytestmark = pytest.mark.browser


@pytest.fixture
def second(slow_explorer: Explorer) -> Iterator[str]:
    """Another run of the study, beside the one that is there, for as long as the test takes."""
    assert slow_explorer.patches is not None
    folder = slow_explorer.patches.parent / "runs" / slow_explorer.record.study
    copy = folder / "again"
    shutil.copytree(slow_explorer.record.path, copy)
    yield f"{slow_explorer.record.study}/{copy.name}"
    shutil.rmtree(copy)


def test_two_runs_are_pinned_and_subtracted(
    open_slow_page: OpenPage, slow_explorer: Explorer, second: str
) -> None:
    first = f"{slow_explorer.record.study}/{Path(slow_explorer.record.path).name}"
    page = open_slow_page(f"/?run={quote(first)}&page=study")
    page.get_by_role("button", name="Pin this").click()
    page.get_by_text("Pinned; it is on the page Compare.").wait_for(timeout=20_000)
    page.get_by_text("Compare", exact=True).first.click()
    box = page.get_by_role("combobox", name="B", exact=True)
    box.click()
    box.fill(second)
    page.keyboard.press("Enter")
    page.get_by_text("Verdicts", exact=True).wait_for(timeout=30_000)
    page.get_by_text("Patching maps", exact=True).click()
    plot = wait_for_plot(page, "compare-difference")
    page.get_by_text("A minus B", exact=True).wait_for(timeout=20_000)
    page.get_by_text("On a colour scale of its own", exact=False).first.wait_for(timeout=20_000)
    # The same run twice differs nowhere, and nowhere looks as if it did.
    assert "the 95% interval over pairs holds 0" in plot.text_content()
    wait_for_plot(page, "patching-a-resid_pre")
    assert {"a=", "b=", "shown=patching"} <= {
        piece[: len(part)]
        for piece in page.url.partition("?")[2].split("&")
        for part in ("a=", "b=", "shown=patching")
    }
    again = open_slow_page(page.url)
    wait_for_plot(again, "compare-difference")
