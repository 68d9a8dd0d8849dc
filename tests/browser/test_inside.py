"""Heads, marks and filters in a real Chromium."""

from __future__ import annotations

import pytest

from tests.browser.looking import (
    OpenPage,
    click_cell,
    expect,
    press,
    wait_for_plot,
    wait_until_drawn,
)

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_a_head_that_is_clicked_is_the_one_whose_attention_is_drawn(open_page: OpenPage) -> None:
    page = open_page("/?example=0&inside=heads&head-score=attribution")
    click_cell(page, "heads-forward", 1, 1)
    page.wait_for_url("**attention-head=1**", timeout=60_000)
    tab = page.get_by_role("tab", name="Attention", exact=True)
    press(page, tab, lambda: "inside" not in page.url)
    wait_for_plot(page, "attention-forward")
    expect(page.get_by_label("Head", exact=True)).to_have_value("1", timeout=60_000)
    expect(page.get_by_label("Block", exact=True)).to_have_value("1", timeout=60_000)
    # The link holds all of it.
    assert "attention-layer=1" in page.url
    assert "inside" not in page.url


def test_a_cell_is_marked_in_the_circuit_and_its_filters_are_in_the_link(
    open_page: OpenPage,
) -> None:
    link = "/?example=0&page=circuit&way=forward&layer=1&position=2&circuit-strongest=4"
    page = open_page(link)
    mark = page.locator(".way[aria-label='Asked forward'] rect.mark")
    mark.wait_for(state="attached", timeout=90_000)
    wait_until_drawn(page)
    slider = page.get_by_label("How many of the strongest edges are shown")
    expect(slider).to_have_value("4", timeout=60_000)
    edges = page.locator(".way[aria-label='Asked forward'] .edge")
    shown = "all => all.filter((edge) => edge.style.display !== 'none').length"
    assert edges.evaluate_all(shown) == 4
    slider.focus()
    slider.fill("2")
    page.wait_for_url("**circuit-strongest=2**", timeout=60_000)
    group = page.get_by_role("button", name="Group heads")
    press(page, group, lambda: group.get_attribute("aria-pressed") == "true")
    page.wait_for_url("**circuit-heads=grouped**", timeout=60_000)
    assert "circuit-strongest=2" in page.url
    expect(page.locator("rect.mark")).to_have_count(1, timeout=60_000)
