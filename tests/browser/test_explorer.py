"""Clicks, links and downloads in a real Chromium."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.app.material import HOSTILE
from tests.browser.conftest import Explorer
from tests.browser.looking import (
    OpenPage,
    click_cell,
    framed,
    press,
    ranges,
    sentence,
    wait_for_plot,
    wait_until_all_is_drawn,
    wait_until_drawn,
    wait_until_exact,
)

pytestmark = pytest.mark.browser

# As text: what could not be patched is no number, and none of these equals another.
VALUES = "plot => JSON.stringify(plot.data[0].z)"


def test_the_newest_run_is_shown_told_and_handed_out(
    explorer: Explorer, open_page: OpenPage
) -> None:
    page = open_page("/")
    _newest_run(page)
    _table_and_figure(explorer, page)
    _lens_cell(page)
    _patching_cells(explorer, page)
    _row_of_the_table(page)
    _lasso(page)
    _findings(explorer, page)


def _newest_run(page: Any) -> None:
    page.locator(".ob-title").first.wait_for(timeout=90_000)
    wait_for_plot(page, "patching-reverse-resid_pre")
    assert "Tom Cruise" in page.locator(".ob-h2").nth(1).inner_text()
    assert "Tom Cruise" in page.locator(".ob-chosen").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= 1280")


def _table_and_figure(explorer: Explorer, page: Any) -> None:
    wait_for_plot(page, "patching-forward-resid_pre")
    wait_until_drawn(page)
    holder = page.locator(".st-key-patching-forward-resid_pre")
    holder.scroll_into_view_if_needed()
    figure = "contains(@class, 'st-key-figure-patching-forward-resid_pre')"
    page.locator(f"xpath=//*[{figure}]/following::button[contains(., 'Export')][1]").click()
    with page.expect_download(timeout=60_000) as download:
        page.locator(".st-key-patching-forward-resid_pre-csv button").click()
    assert download.value.suggested_filename == "patching-forward-resid_pre.csv"
    table = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()))
    stored = explorer.record.dataset("patching_forward_resid_pre")
    one = stored["patched"].values[list(stored["fact"].values).index(0)]
    np.testing.assert_allclose(np.sort(table["patched"]), np.sort(one[np.isfinite(one)]), rtol=1e-5)
    code = page.locator("[data-testid='stPopoverBody'] code").inner_text()
    assert "patching_map(result" in code
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="Download SVG").click()
    assert download.value.suggested_filename == "patching-forward-resid_pre.svg"
    root = ElementTree.fromstring(Path(download.value.path()).read_text())
    assert root.tag.endswith("svg")
    page.keyboard.press("Escape")
    page.locator("[data-testid='stPopoverBody']").wait_for(state="hidden")


def _lens_cell(page: Any) -> None:
    click_cell(page, "lens-forward", 1, 2)
    assert "at ‘Cruise’ (token 2), the next token would be" in sentence(page, "After 1 block")
    # The same place is marked in the strip, in the other figures, and in the address.
    assert page.locator(".ob-token.on").inner_text() == "Cruise"
    assert "at ‘Cruise’" in sentence(page, "Patching the residual stream into block 1")
    page.wait_for_url("**way=forward&layer=1&position=2", timeout=60_000)


def _patching_cells(explorer: Explorer, page: Any) -> None:
    click_cell(page, "patching-reverse-resid_pre", 0, 3)
    said = sentence(page, "Patching the residual stream into block 0")
    stored = explorer.record.dataset("patching_reverse_resid_pre")
    example = list(stored["fact"].values).index(0)
    # The run has no column for the first token of the name, which has no counterpart.
    label = "subject -1"
    column = list(stored["position_label"].values).index(label)
    assert f"({label})" in said
    moved = float(stored["patched"].values[example, 0, column])
    expected = f"{moved:.2f}" if abs(moved) < 1 else f"{moved:.1f}"
    assert f"to {expected}".replace("-", "−") in said
    lists = page.locator("[data-words='patching-reverse-resid_pre-after'] .ob-next")
    lists.first.wait_for(timeout=60_000)
    assert lists.count() == 2
    # The same vector is carried into the other question.
    carried = sentence(page, "Asked in reverse, what stands at")
    assert "put at ‘Cruise’ of the question asked forward" in carried
    assert "One example" in carried
    heads = page.get_by_role("tab", name="Heads")
    press(page, heads, lambda: "site=z" in page.url)
    click_cell(page, "patching-forward-z", 1, 1)
    assert "Patching head 1 of block 1" in sentence(page, "Patching head")
    page.wait_for_url("**site=z&way=forward&layer=1&head=1", timeout=60_000)


def _row_of_the_table(page: Any) -> None:
    wait_for_plot(page, "patching-forward-z")
    table = page.locator(".st-key-examples-table [data-testid='stDataFrame']")
    wait_until_drawn(page)
    table.scroll_into_view_if_needed()
    page.wait_for_timeout(200)  # scrolling moves it
    box = table.bounding_box()
    page.mouse.click(box["x"] + 16, box["y"] + 36 + 35 * 3 + 17)  # the box of the fourth row
    page.locator(".ob-h2", has_text="Dan Frost").wait_for(timeout=60_000)
    page.wait_for_url("**example=3**", timeout=60_000)
    # A heading sorts, and the order outlives that another row is chosen, which makes a new table.
    for sort in ("sort=subject", "sort=-subject"):
        wait_until_drawn(page)
        table.scroll_into_view_if_needed()
        page.wait_for_timeout(200)
        box = table.bounding_box()
        page.mouse.click(box["x"] + 70, box["y"] + 18)
        page.wait_for_url(f"**{sort}**", timeout=60_000)
    wait_until_drawn(page)
    box = table.bounding_box()
    page.mouse.click(box["x"] + 16, box["y"] + 36 + 17)
    page.locator(".ob-h2", has_text="Tom Cruise").wait_for(timeout=60_000)
    page.wait_for_url("**example=0**", timeout=60_000)
    assert "sort=-subject" in page.url


# Left, top, width and height of what lies between the axes.
_DRAWN_IN = """plot => {
    const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
    return [box.x + xaxis._offset, box.y + yaxis._offset, xaxis._length, yaxis._length];
}"""


def _lasso(page: Any) -> None:
    """Around several points these are chosen, and a double-click lets go of them."""
    for chosen in (True, False):
        plot = page.locator("[class*='st-key-figure-'] .js-plotly-plot:visible").first
        plot.scroll_into_view_if_needed()
        wait_until_drawn(page)
        page.wait_for_timeout(200)
        box = plot.evaluate(_DRAWN_IN)
        left, top, right, bottom = (
            box[0] + 4,
            box[1] + 4,
            box[0] + box[2] - 4,
            box[1] + box[3] - 4,
        )
        if chosen:
            page.mouse.move(left + 4, top + 4)
            page.mouse.down()
            for x, y in ((right, top + 4), (right, bottom), (left + 4, bottom)):
                page.mouse.move(x, y, steps=3)
            page.mouse.up()
            page.get_by_text("were chosen in the figure").first.wait_for(timeout=60_000)
            assert "together=" in page.url
        else:
            page.mouse.dblclick((left + right) / 2, (top + bottom) / 2)
            page.wait_for_function("() => !location.search.includes('together=')", timeout=60_000)


def _findings(explorer: Explorer, page: Any) -> None:
    findings = page.get_by_text("Findings", exact=True)
    press(page, findings, lambda: "page=study" in page.url)
    page.locator(".ob-card").first.wait_for(timeout=60_000)
    shown = page.locator(".ob-card").all_inner_texts()
    assert len(shown) == len(explorer.record.verdicts)
    for text, verdict in zip(shown, explorer.record.verdicts, strict=True):
        assert verdict.claim in text
        assert verdict.outcome.capitalize() in text


def test_a_link_shows_another_person_the_same_and_both_get_the_same_numbers(
    open_page: OpenPage,
) -> None:
    page = open_page("/")
    click_cell(page, "lens-reverse", 2, 1)
    said = sentence(page, "After 2 blocks")
    page.wait_for_url("**layer=2**", timeout=60_000)
    fresh = open_page(page.url, fresh=True)
    both = page, fresh
    assert sentence(fresh, "After 2 blocks") == said
    assert fresh.url == page.url
    for key in ("lens-reverse", "lens-forward", "patching-forward-resid_pre"):
        first, second = (wait_for_plot(one, key).evaluate(VALUES) for one in both)
        assert first == second
    assert framed(page, "lens-reverse") == framed(fresh, "lens-reverse")
    assert page.locator(".st-key-lens-forward .ob-mark").count() == 0
    # At once they ask for what the run has not patched.
    for one in both:
        tab = one.get_by_role("tab", name="MLP output")
        press(one, tab, lambda one=one: "site=mlp_out" in one.url)  # type: ignore[misc]
    exact = [wait_until_exact(one, "patching-reverse-mlp_out") for one in both]
    first, second = (plot.evaluate(VALUES) for plot in exact)
    assert first == second


_ZOOMED = """([plot, whole]) => {
    const {xaxis, yaxis} = plot._fullLayout;
    return JSON.stringify([xaxis.range, yaxis.range]) !== JSON.stringify(whole);
}"""


def test_a_click_frames_the_cell_everywhere_and_keeps_the_zoom(open_page: OpenPage) -> None:
    page = open_page("/?example=0")
    figures = ("lens-forward", "patching-forward-resid_pre")
    for key in figures:
        wait_for_plot(page, key)
    wait_until_all_is_drawn(page)
    for key in figures:
        plot = wait_for_plot(page, key)
        plot.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        box = plot.evaluate(_DRAWN_IN)
        whole = ranges(page, key)
        page.mouse.move(box[0] + 3, box[1] + 3)
        page.mouse.down()
        page.mouse.move(box[0] + 0.7 * box[2], box[1] + box[3] - 4, steps=8)
        page.mouse.up()
        page.wait_for_function(_ZOOMED, arg=[plot.element_handle(), whole], timeout=60_000)
    zoomed = [ranges(page, key) for key in figures]
    unframed = page.locator(".ob-mark").count()
    assert unframed == 0
    click_cell(page, "patching-forward-resid_pre", 1, 1)
    sentence(page, "Patching the residual stream into block 1 at ‘Tom’")
    click_cell(page, "lens-forward", 1, 2)
    sentence(page, "Patching the residual stream into block 1 at ‘Cruise’")
    assert [ranges(page, key) for key in figures] == zoomed
    for key in figures:
        plot = wait_for_plot(page, key)
        middle = plot.evaluate(
            """(plot, [row, column]) => {
                const {xaxis, yaxis} = plot._fullLayout;
                return [xaxis._offset + xaxis.l2p(column), yaxis._offset + yaxis.l2p(row)];
            }""",
            [1, 2],
        )
        left, top, width, height = framed(page, key)
        assert left < middle[0] < left + width
        assert top < middle[1] < top + height
    # What is clicked again is still chosen, and so is what another figure had chosen meanwhile.
    click_cell(page, "patching-forward-resid_pre", 1, 1)
    page.wait_for_url("**position=1", timeout=60_000)
    sentence(page, "Patching the residual stream into block 1 at ‘Tom’")


def test_a_hostile_token_is_text_everywhere(explorer: Explorer, open_page: OpenPage) -> None:
    page = open_page("/?example=1")
    click_cell(page, "lens-forward", 0, 2)
    assert HOSTILE in sentence(page, "At the embedding")
    wait_for_plot(page, "patching-forward-resid_pre")
    assert HOSTILE in page.locator(".ob-strip").first.inner_text()
    labels = wait_for_plot(page, "lens-forward").locator(".xtick text").all_text_contents()
    assert any(label.startswith("<img src=x") for label in labels)
    wait_until_all_is_drawn(page)
    plot = wait_for_plot(page, "lens-forward")
    plot.hover()
    plot.locator(".hovertext").first.wait_for(timeout=60_000)
    assert page.locator("img[src='x']").count() == 0
    circuit = page.get_by_role("radiogroup", name="Page").get_by_text("Circuit", exact=True)
    press(page, circuit, lambda: "page=circuit" in page.url)
    page.locator(".node").first.wait_for(timeout=60_000)
    wait_until_drawn(page)
    press(page, page.get_by_text("This fact", exact=True), lambda: "circuit-of=one" in page.url)
    page.locator(".ob-sentence", has_text="1 independent pair").first.wait_for(timeout=60_000)
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/net")
def test_it_listens_on_this_computer_only(explorer: Explorer) -> None:
    listening = []
    for name in ("tcp", "tcp6"):
        path = Path("/proc/net") / name
        if path.exists():
            for line in path.read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                address, _, port = local.partition(":")
                if int(port, 16) == explorer.port and state == "0A":
                    listening.append(address)
    loopback = {"0100007F", "00000000000000000000000001000000"}
    assert listening
    assert set(listening) <= loopback


def test_a_circuit_is_drawn_measured_and_walked_through(
    explorer: Explorer, open_page: OpenPage
) -> None:
    page = open_page("/?example=0&page=circuit")
    node = page.locator(".way[aria-label='Asked forward'] .node")
    node.first.wait_for(timeout=60_000)
    # Two pairs have no interval, so nothing is said of shares, and the ground is grey.
    said = page.locator(".ob-sentence", has_text="No share can be told")
    said.nth(1).wait_for(timeout=60_000)
    assert page.locator(".ob-shares").count() == 2
    assert "%" not in page.locator(".ob-shares").first.inner_text()
    assert page.locator("svg.grey").count() == 2
    wait_until_drawn(page)
    # Fewer edges.
    edges = page.locator(".way[aria-label='Asked forward'] .edge")
    drawing = edges.first.element_handle()
    shown = "all => all.filter((edge) => edge.style.display !== 'none').length"
    every = edges.evaluate_all(shown)
    page.get_by_label("How many of the strongest edges are shown").fill("3")
    assert edges.evaluate_all(shown) == 3 < every
    page.wait_for_url("**circuit-strongest=3**", timeout=60_000)
    page.get_by_label("How many of the strongest edges are shown").fill(str(every))
    page.wait_for_url(lambda address: "strongest" not in address, timeout=60_000)
    # Found by a word, walked to with the keyboard, opened with Enter, closed with Esc.
    page.get_by_label("Find nodes").fill("logits")
    assert page.locator(".node.found").first.get_attribute("data-node") == "logits"
    page.get_by_label("Find nodes").press("Enter")
    page.wait_for_url("**find=logits**", timeout=60_000)
    wait_until_drawn(page)
    # The server has answered three times, and nothing was drawn anew: that would lose the focus.
    assert drawing.evaluate("edge => edge.isConnected")
    node.locator("visible=true").last.focus()
    page.keyboard.press("ArrowDown")
    there = page.locator(".node.chosen").first
    name = there.get_attribute("data-node")
    page.keyboard.press("Enter")
    if name in ("input", "logits"):  # these open nothing
        head = page.locator(".node[data-node^='a']").first
        name = head.get_attribute("data-node")
        head.click()
    page.wait_for_url(f"**node=forward+{name}**", timeout=60_000)
    page.locator(".ob-h2", has_text="of block").first.wait_for(timeout=60_000)
    fresh = open_page(page.url, fresh=True)
    fresh.locator(".ob-h2", has_text="of block").first.wait_for(timeout=60_000)
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="Save as SVG").first.click()
    drawn = Path(download.value.path()).read_text()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "onerror" not in drawn
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="Save as PNG").first.click()
    assert download.value.suggested_filename == "circuit-forward.png"
    image = Image.open(download.value.path()).convert("RGBA")
    assert image.width > 600
    colours = image.getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 20
    # What it lies on is in the picture: light grey, since this model has no effect to divide.
    *paper, opaque = max(colours)[1]
    assert opaque == 255
    assert all(220 < colour < 250 for colour in paper)
