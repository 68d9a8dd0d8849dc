"""Heads, marks and filters in a real Chromium."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.looking import OpenPage, click_cell, wait_for_plot

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_a_head_that_is_clicked_is_the_one_whose_attention_is_drawn(open_page: OpenPage) -> None:
    page = open_page("/?example=0&inside=heads&head-score=attribution")
    click_cell(page, "heads-forward", 1, 1)
    page.wait_for_url("**attention-head=1**")
    page.get_by_role("tab", name="Attention", exact=True).click()
    wait_for_plot(page, "attention-forward")
    assert page.get_by_label("Head", exact=True).input_value() == "1"
    assert page.get_by_label("Block", exact=True).input_value() == "1"
    # The link holds all of it.
    assert "attention-layer=1" in page.url
    assert "inside" not in page.url


def test_a_cell_is_marked_in_the_circuit_and_its_filters_are_in_the_link(
    open_page: OpenPage,
) -> None:
    link = "/?example=0&page=circuit&way=forward&layer=1&position=2&circuit-strongest=4"
    page = open_page(link)
    mark = page.locator(".way[aria-label='Asked forward'] rect.mark")
    mark.wait_for(state="attached", timeout=30_000)
    slider = page.get_by_label("How many of the strongest edges are shown")
    assert slider.input_value() == "4"
    edges = page.locator(".way[aria-label='Asked forward'] .edge")
    shown = "all => all.filter((edge) => edge.style.display !== 'none').length"
    assert edges.evaluate_all(shown) == 4
    slider.focus()
    slider.fill("2")
    page.wait_for_url("**circuit-strongest=2**")
    page.get_by_role("button", name="Group heads").click()
    page.wait_for_url("**circuit-heads=grouped**")
    assert "circuit-strongest=2" in page.url
    assert boxes(page) == 1


def boxes(page: Any) -> int:
    return int(page.locator("rect.mark").count())
