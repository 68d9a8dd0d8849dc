"""The slider over a training, in a real Chromium: it moves a line, words and the link."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.app import material
from tests.browser.looking import OpenPage, expect, framed, wait_for_plot

pytestmark = pytest.mark.browser


# All models have been asked, and what was drawn before is gone.
_SETTLED = """() => {
    const one = key => document.querySelectorAll(`.st-key-${key} .js-plotly-plot`).length === 1;
    return one("training-curves") && one("training-ranks")
        && !document.querySelector("[data-testid='stProgress']")
        && document.querySelector("[data-testid='stApp']").dataset.testScriptState !== "running";
}"""

_TOGETHER = """([slider]) => {
    const mark = document.querySelector(".st-key-training-curves .ob-mark");
    const [at, by] = [mark, slider].map(one => one?.getBoundingClientRect());
    return at && by && Math.abs(at.x - (by.x + by.width - 8)) < 4;
}"""

# Writes down each step that is said, as soon as it is.
_STEPS = """said => {
    window.steps = [];
    new MutationObserver(() => window.steps.push(said.textContent))
        .observe(said, { childList: true, characterData: true, subtree: true });
}"""
_PLAYED = """() => window.steps.join() ===
    [0, 40, 200].map(step => `Step ${step} of 200`).join()"""


@pytest.fixture(scope="module")
def trained(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.trained_once(tmp_path_factory) / "tiny"


def test_the_slider_moves_line_words_and_link(open_page: OpenPage, trained: Path) -> None:
    page = open_page(f"/?model={quote(str(trained))}&page=training&step=0")
    page.set_default_timeout(90_000)  # others use the same cores
    page.get_by_text("Open it", exact=True).click()
    page.wait_for_function(_SETTLED, polling=100)
    plot = wait_for_plot(page, "training-curves")
    ranks = wait_for_plot(page, "training-ranks")
    words = page.locator("[data-of-step]")
    words.get_by_text("Asked in reverse").first.wait_for()
    first, left = words.inner_text(), framed(page, "training-curves")[0]
    # Not to be drawn anew: it would lose this, and the reader's zoom.
    plot.evaluate("plot => { plot.mine = true; }")
    slider = page.get_by_label("Step of the training")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('[data-of-step]').innerText !== before", arg=first
    )
    page.wait_for_url(re.compile("step=40"))
    expect(slider).to_have_value("40", timeout=60_000)
    assert framed(page, "training-curves")[0] > left
    page.get_by_text("step 40").first.wait_for()
    page.keyboard.press("End")
    page.wait_for_url(lambda address: "step=" not in address)
    said = page.get_by_text("Step 200 of 200")
    said.wait_for()
    # Where the slider stands, the line stands.
    page.wait_for_function(_TOGETHER, arg=[slider.element_handle()], polling=100)
    # From the end once more from the first step; each is there for a moment only.
    said.evaluate(_STEPS)
    page.get_by_text("▶ Play").click()
    page.wait_for_function(_PLAYED, polling=100)
    page.get_by_text("▶ Play").wait_for()
    assert plot.evaluate("plot => plot.mine === true")
    assert ranks.count() == 1
