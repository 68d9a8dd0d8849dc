"""A click on a layer of probes, in a real Chromium."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest

from tests.app.test_probes_page import lists
from tests.browser.looking import OpenPage, framed, sentence, wait_for_plot

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_click_on_a_layer_tells_its_numbers_and_a_link_shows_the_same(
    open_page: OpenPage,
) -> None:
    page = open_page("/?" + urlencode({"page": "probes", **lists()}, quote_via=quote))
    plot = wait_for_plot(page, "probe-lines")
    page.get_by_text("Click a layer in the figure").wait_for(timeout=20_000)
    x, y = plot.evaluate(
        """plot => {
            const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
            return [box.x + xaxis._offset + xaxis.l2p(1),
                    box.y + yaxis._offset + yaxis.l2p(0.85)];
        }"""
    )
    page.mouse.move(x, y)
    page.mouse.move(x + 2, y + 1)
    page.mouse.click(x + 2, y + 1)
    said = sentence(page, "In the residual stream after block 0")
    assert "of 31 held-out lines are told right" in said
    page.wait_for_url("**point=1**")
    left, top, width, height = framed(page, "probe-lines")
    # The frame lies around all of the layer, whatever its accuracy.
    assert height > 180
    fresh = open_page(page.url, fresh=True)
    assert sentence(fresh, "In the residual stream after block 0") == said
    assert framed(fresh, "probe-lines") == [left, top, width, height]
    assert page.evaluate("document.documentElement.scrollWidth <= 1280")
