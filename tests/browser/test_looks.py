"""Looks in a real Chromium: widths, light and dark, keyboard and landmarks."""

from __future__ import annotations

from tests.browser.looking import OpenPage, framed, wait_for_plot

LENS = "lens-forward"
PLOTS = f"...document.querySelectorAll('.st-key-{LENS} .js-plotly-plot')"


def test_cells_are_reached_by_keyboard(open_page: OpenPage) -> None:
    page = open_page("/?page=examples")
    plot = wait_for_plot(page, LENS)
    page.wait_for_function(f"() => [{PLOTS}].flat().some(plot => plot.tabIndex === 0)")
    plot.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    said = page.locator(".ob-cell-tip").inner_text()
    assert "after 1 block" in said
    assert "position 1" in said
    assert page.locator(".st-key-lens-forward .ob-mark").count() == 0  # nothing is chosen yet
    page.keyboard.press("Enter")
    assert framed(page, LENS)
    page.wait_for_url("**layer=1&position=1**", timeout=10_000)
    page.keyboard.press("Escape")
    assert page.locator(".ob-cursor").count() == 0
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("navigation", name="Pages").count() == 1
    assert page.locator("h1").count() == 1
    assert page.locator("h2").count() > 2

    # The link to it, as the button copies it.
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("[data-copy]").click()
    page.locator("[data-copy]", has_text="Copied").wait_for(timeout=3_000)
    assert page.evaluate("navigator.clipboard.readText()") == page.url
