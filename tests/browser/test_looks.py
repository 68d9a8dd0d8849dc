"""Looks in a real Chromium: widths, light and dark, keyboard and landmarks."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.browser.conftest import Explorer
from tests.browser.looking import OpenPage, framed, wait_for_plot

pytestmark = pytest.mark.browser

LENS = "lens-forward"
PLOTS = f"...document.querySelectorAll('.st-key-{LENS} .js-plotly-plot')"
OVERFLOW = """() => {
    const main = document.querySelector("[data-testid=stMain]");
    return main.scrollWidth - main.clientWidth;
}"""

# The widths that the page tells the browser to remember.
WIDTHS = """
window.widths = [];
const kept = Object.getOwnPropertyDescriptor(Document.prototype, "cookie");
Object.defineProperty(document, "cookie", {
    get: () => kept.get.call(document),
    set: (text) => {
        const width = /^obverse_width=([0-9]+)/.exec(text);
        if (width) window.widths.push(Number(width[1]));
        kept.set.call(document, text);
    },
});
"""


def background(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor"))


def test_a_page_by_keyboard_on_wide_and_narrow_screens_light_and_dark(open_page: OpenPage) -> None:
    page = open_page("/?page=examples", fresh=True)
    _keyboard(page)
    _landmarks(page)
    _link(page)
    _wide(page)
    _dark(page)
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    _narrow(page)


def test_a_first_visit_is_measured_once_beside_the_sidebar(
    explorer: Explorer, browser: Any
) -> None:
    def slowly(route: Any) -> None:
        """Each part of the page comes by itself, the sidebar behind what measures."""
        server = route.connect_to_server()

        def on(message: Any) -> None:
            time.sleep(0.1)
            route.send(message)

        server.on_message(on)

    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.add_init_script(WIDTHS)
    page.route_web_socket("**/_stcore/stream", slowly)
    page.goto(explorer.url + "/?page=start")
    page.wait_for_function("() => window.widths.length", timeout=60_000)
    beside = page.evaluate("document.querySelector('[data-testid=stMain]').clientWidth")
    widths = page.evaluate("window.widths")
    page.context.close()
    assert beside < 1280
    assert max(widths) < beside  # it has margins
    assert len(set(widths)) == 1


def _keyboard(page: Any) -> None:
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
    page.wait_for_url("**layer=1&position=1**", timeout=60_000)
    page.keyboard.press("Escape")
    assert page.locator(".ob-cursor").count() == 0


def _landmarks(page: Any) -> None:
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("navigation", name="Pages").count() == 1
    assert page.locator("h1").count() == 1
    assert page.locator("h2").count() > 2
    assert page.title().endswith("Obverse")
    assert page.title().startswith("Examples · ")


def _link(page: Any) -> None:
    """As the button copies it."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("[data-copy]").click()
    page.locator("[data-copy]", has_text="Copied").wait_for(timeout=60_000)
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def _wide(page: Any) -> None:
    assert page.evaluate(OVERFLOW) <= 0
    narrow = wait_for_plot(page, LENS).bounding_box()["width"]
    page.set_viewport_size({"width": 1920, "height": 1080})
    page.wait_for_function("() => document.cookie.includes('obverse_width=1')", timeout=60_000)
    wide = f"plot => plot.clientWidth > {narrow} * 1.5"
    page.wait_for_function(f"() => [{PLOTS}].flat().some({wide})", timeout=60_000)
    assert page.evaluate(OVERFLOW) <= 0
    block = page.locator("[data-testid=stMainBlockContainer]").bounding_box()
    assert block["width"] > 0.85 * 1920


def _dark(page: Any) -> None:
    assert background(page) == "rgb(255, 255, 255)"
    page.locator("[data-theme-choice=dark]").click()
    at_night = "plot => plot._fullLayout?.paper_bgcolor === '#14171d'"
    page.wait_for_function(f"() => [{PLOTS}].flat().some({at_night})", timeout=60_000)
    assert background(page) == "rgb(20, 23, 29)"


def _narrow(page: Any) -> None:
    for key in (LENS, "patching-forward-resid_pre"):
        plot = wait_for_plot(page, key)
        page.wait_for_function(
            "([plot]) => plot._fullLayout.width >= 480", arg=[plot.element_handle()]
        )
    assert background(page) == "rgb(20, 23, 29)"  # the choice is kept
    # The figures move sideways, the page does not.
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    page.goto(page.url.split("?")[0] + "?page=study")
    page.locator(".ob-card").first.wait_for(timeout=60_000)
    cards = page.locator(".ob-card").evaluate_all("all => all.map(a => a.getBoundingClientRect())")
    assert all(card["right"] <= 390 for card in cards)
