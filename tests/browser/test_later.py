"""What stands below the first screen is drawn when it is scrolled to, and else when all rests."""

from __future__ import annotations

import pytest

from tests.browser.looking import (
    PLOT,
    OpenPage,
    expect,
    press,
    wait_for_plot,
    wait_until_drawn,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_WAITING = """() => [...document.querySelectorAll('.ob-later')]
    .map((place) => place.getBoundingClientRect().top).sort((a, b) => a - b)"""

# Whether the module that draws figures is there.
_READ = """() => performance.getEntriesByType("resource")
    .some((one) => one.name.includes("/PlotlyChart."))"""

_ACT = """() => {
    window.acting = setInterval(() => document.dispatchEvent(new Event("wheel")), 100);
}"""


def test_what_is_below_the_screen_is_drawn_later(open_page: OpenPage) -> None:
    page = open_page("/?page=examples")
    # As long as somebody does something, only what is scrolled to is filled.
    page.evaluate(_ACT)
    page.locator(".ob-later").first.wait_for(state="attached", timeout=90_000)
    expect(page.locator(".ob-next")).to_have_count(2, timeout=60_000)  # of both prompts
    expect(page.locator(".ob-later")).to_have_count(3, timeout=60_000)
    tops = page.evaluate(_WAITING)
    assert tops[0] > 800
    assert page.locator(PLOT.format("lens-forward")).count() == 0
    wait_until_drawn(page)
    # The last of them is scrolled to: it is drawn before those above it.
    page.locator(".ob-later").last.scroll_into_view_if_needed()
    page.evaluate("clearInterval(window.acting)")
    page.get_by_role("tab", name="Attribution").wait_for(timeout=90_000)
    # Nobody scrolls any more: all of it is drawn.
    for key in ("lens-forward", "ranks", "patching-forward-resid_pre"):
        wait_for_plot(page, key)
    expect(page.locator(".ob-later")).to_have_count(0, timeout=60_000)
    # What is changed inside reaches the link, and all that is shown stays.
    tab = page.get_by_role("tab", name="Attribution")
    press(page, tab, lambda: "inside=attribution" in page.url)
    wait_for_plot(page, "lens-forward")
    assert page.locator(".ob-later").count() == 0


def test_a_page_of_words_reads_what_draws_figures_when_it_has_rested(open_page: OpenPage) -> None:
    page = open_page("/?page=study")
    page.evaluate(_ACT)
    expect(page.locator(".ob-later")).to_have_count(2, timeout=60_000)
    wait_until_drawn(page)
    # Where headings are painted while somebody does something, no figure holds that up.
    assert not page.evaluate(_READ)
    page.wait_for_function(_READ, timeout=60_000)
    assert page.locator(".js-plotly-plot, [data-testid='stDataFrame']").count() == 0
    page.evaluate("clearInterval(window.acting)")
    page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=60_000)
    page.locator("[data-testid='stDataFrame']").wait_for(timeout=60_000)
    expect(page.locator(".ob-later")).to_have_count(0, timeout=60_000)
    page.get_by_text("Stored tables", exact=True).wait_for()


# What a figure of kinds that no page draws needs: how often a mark of it is drawn.
_OTHER_KINDS = """async () => {
    const path = performance.getEntriesByType("resource")
        .map((one) => one.name).find((name) => name.includes("/PlotlyChart."));
    await import(path);
    const place = () => document.body.appendChild(document.createElement("div"));
    const kinds = () => Object.keys(Plotly.PlotSchema.get().traces).length;
    const layout = {width: 300, height: 300}, pie = {type: "pie", values: [1, 2, 3]};
    const counted = [], first = kinds();
    const drawn = async (selector, element) =>
        counted.push((await element).querySelectorAll(selector).length);
    await drawn(".bars .point", Plotly.newPlot(place(), [{type: "bar", y: [1, 2]}], layout));
    await drawn(".points path", Plotly.react(place(), {data: [{y: [1, 2, 1]}], layout}));
    const still = kinds() === first;
    await drawn(".slice", Plotly.react(place(), {data: [{y: [1]}, pie], layout}));
    await drawn(".slice", Plotly.newPlot(place(), [pie], layout));
    await drawn("path.violin", Plotly.newPlot(place(), [{type: "violin", y: [1, 2, 4]}], layout));
    return {counted, still, more: kinds() - first};
}"""


def test_figures_of_other_kinds_are_drawn_where_a_page_has_some(open_page: OpenPage) -> None:
    page = open_page("/?page=probes")
    page.locator(".js-plotly-plot:visible").first.wait_for(timeout=90_000)
    seen = page.evaluate(_OTHER_KINDS)
    assert seen["still"]
    assert seen["more"] > 30
    assert seen["counted"][:4] == [2, 3, 3, 3]
    assert seen["counted"][4] > 0
