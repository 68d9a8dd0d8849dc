"""A click on a layer of probes, in a real Chromium."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest

from tests.app.test_probes_page import lists
from tests.browser.looking import (
    OpenPage,
    click_point,
    framed,
    sentence,
    wait_for_plot,
    wait_until_drawn,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


_POINT = """plot => {
    const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.l2p(1), box.y + yaxis._offset + yaxis.l2p(0.85)];
}"""


def test_a_click_on_a_layer_tells_its_numbers_and_a_link_shows_the_same(
    open_page: OpenPage,
) -> None:
    page = open_page("/?" + urlencode({"page": "probes", **lists()}, quote_via=quote))
    plot = wait_for_plot(page, "probe-lines")
    page.get_by_text("Click a layer in the figure").wait_for(timeout=60_000)
    wait_until_drawn(page)
    plot.scroll_into_view_if_needed()
    # The frame lies around all of the layer.
    for _ in range(6):
        if click_point(page, "probe-lines", *plot.evaluate(_POINT)):
            break
    said = sentence(page, "In the residual stream after block 0")
    assert "of 31 held-out lines are told right" in said
    page.wait_for_url("**point=1**", timeout=60_000)
    left, top, width, height = framed(page, "probe-lines")
    # Whatever the layer's accuracy.
    assert height > 180
    fresh = open_page(page.url, fresh=True)
    assert sentence(fresh, "In the residual stream after block 0") == said
    assert framed(fresh, "probe-lines") == pytest.approx([left, top, width, height], abs=1)
    assert page.evaluate("document.documentElement.scrollWidth <= 1280")
