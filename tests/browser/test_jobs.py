"""Long work in a real Chromium: it goes on when the page is reloaded, and can be cancelled."""

from __future__ import annotations

import pytest

from tests.browser.looking import OpenPage, wait_for_plot

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_reload_finds_its_jobs_and_their_page_cancels_them(open_slow_page: OpenPage) -> None:
    page = open_slow_page("/?example=4&site=mlp_out")  # the run has not patched this one
    wait_for_plot(page, "patching-forward-mlp_out")
    cancel = page.get_by_role("button", name="Cancel")
    cancel.first.wait_for(timeout=20_000)
    page.reload()
    cancel.first.wait_for(timeout=20_000)
    page.get_by_text("Cache and jobs").click()
    page.get_by_text("asked for here").first.wait_for(timeout=20_000)
    # One for each way; the page that was reloaded has not begun them again.
    assert page.get_by_text("asked for here").count() <= 2
    cancel.first.click()
    page.get_by_text("cancelled after").first.wait_for(timeout=20_000)
