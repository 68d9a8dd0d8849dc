"""A real language model, opened by its folder from the screen, on every page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from app.views.every import PAGES
from tests.browser.looking import OpenPage, click_cell, sentence, wait_for_plot, wait_until_drawn

pytestmark = [pytest.mark.browser, pytest.mark.shared, pytest.mark.slow]


def test_every_page_of_a_model_opened_by_its_folder(open_page: OpenPage, shared: Path) -> None:
    page = open_page("/?page=prompt")
    page.set_default_timeout(90_000)
    page.locator(".st-key-source").get_by_role("combobox").click(timeout=90_000)
    page.get_by_role("option", name="Another model …").click()
    page.get_by_label("Folder of a Hugging Face model").fill(str(shared / "models" / "stories260K"))
    page.get_by_role("button", name="Load").click()
    page.locator(".ob-chosen", has_text="stories260K").wait_for(timeout=90_000)
    sidebar = page.get_by_role("radiogroup", name="Page")
    titles = sidebar.locator("label").all_inner_texts()
    assert len(titles) == len(PAGES)
    for title in titles:
        sidebar.get_by_text(title, exact=True).click()
        main = page.locator("[data-testid='stMain']")
        main.locator(".ob-title, .ob-h2, .ob-empty").first.wait_for(timeout=90_000)
        _rest(page)
        assert main.locator("[data-testid='stException'], [data-testid='stAlert']").count() == 0
    # One of its own stories: asked, looked into, and patched.
    sidebar.get_by_text("Any prompt", exact=True).click()
    page.get_by_label("Prompt", exact=True).wait_for()
    _rest(page)  # what is typed into a form that is drawn anew would be lost
    page.get_by_label("Prompt", exact=True).fill("One day, Lily went to the park. Lily was very")
    page.get_by_label(re.compile("^Answer")).fill("happy")
    page.get_by_label(re.compile("^Second prompt")).fill(
        "One day, Tim went to the park. Tim was very"
    )
    page.get_by_label(re.compile("^Foil")).fill("sad")
    page.get_by_role("button", name="Look").click()
    click_cell(page, "lens-clean", 2, 3)
    assert "the next token would be" in sentence(page, "After 2 blocks")
    click_cell(page, "patching-clean-resid_pre", 2, 3)
    assert sentence(page, "Patching the residual stream into block 2")
    # Two lists of prompts, probed at every layer.
    sidebar.get_by_text("Probes", exact=True).click()
    page.get_by_role("button", name="Probe these").click()
    wait_for_plot(page, "probe-lines")


def _rest(page: Any) -> None:
    """Wait until nothing has run for half a second."""
    page.wait_for_timeout(500)
    wait_until_drawn(page)
