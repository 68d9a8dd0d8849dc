"""A map that is an estimate first, in a real Chromium."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

from app.compute.pairs import build
from experiments.reversal_curse.explorer import page as study_page
from interp.loading.load import load_model
from interp.patching import sweep
from tests.browser.conftest import Explorer
from tests.browser.looking import (
    OpenPage,
    cells_of,
    click_cell,
    sentence,
    wait_for_plot,
    wait_until_drawn,
    wait_until_exact,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(autouse=True)
def held(slow_explorer: Explorer) -> None:
    """Each test says itself when work may go on."""
    slow_explorer.hold()


ESTIMATED = "plot => (plot.data || []).some(trace => trace.name === 'estimated')"


def test_an_estimate_is_hatched_until_its_cells_were_run(
    slow_explorer: Explorer, open_slow_page: OpenPage
) -> None:
    page = open_slow_page("/?example=5&site=attn_out")  # the run has not patched this one
    plot = wait_for_plot(page, "patching-forward-attn_out")
    assert plot.evaluate(ESTIMATED)
    page.get_by_text("Running cells").first.wait_for(timeout=60_000)
    slow_explorer.go_on()
    wait_until_exact(page, "patching-forward-attn_out")
    wait_until_exact(page, "patching-reverse-attn_out")
    page.get_by_text("cells that were run").first.wait_for(timeout=60_000)


def alone(explorer: Explorer, example: int, site: str) -> np.ndarray:
    """What each patch changes, asked forward, when nobody else asks."""
    examples = study_page().examples
    assert examples is not None
    table, config = explorer.record.table("facts"), explorer.record.config
    model = load_model(str(config["model"]))
    row = list(table[examples.key]).index(example)
    pair = examples.pair(model, table, row, examples.ways[0], config)
    found = sweep(model, build(model, [pair]), site)
    return np.asarray((found["patched"] - found["corrupt"]).isel(example=0).values)


def test_work_can_be_cancelled_and_that_of_others_goes_on(
    slow_explorer: Explorer, open_slow_page: OpenPage
) -> None:
    from playwright.sync_api import TimeoutError as Unanswered

    page = open_slow_page("/?example=5&site=mlp_out")
    # Somebody else waits for the same.
    other = open_slow_page("/?example=5&site=mlp_out", fresh=True)
    for one in (page, other):
        wait_for_plot(one, "patching-forward-mlp_out")
    again = page.get_by_role("button", name="Run every cell")
    stop = page.get_by_role("button", name="Cancel")
    stop.first.wait_for(timeout=60_000)
    while not again.count():  # it is drawn anew each two seconds, and then a click may be lost
        with contextlib.suppress(Unanswered):
            stop.first.click(timeout=10_000)
        with contextlib.suppress(Unanswered):
            again.first.wait_for(timeout=15_000)
    assert wait_for_plot(page, "patching-forward-mlp_out").evaluate(ESTIMATED)
    slow_explorer.go_on()
    wait_until_exact(page, "patching-reverse-mlp_out")  # the other one goes on
    wait_until_exact(other, "patching-forward-mlp_out")
    drawn = np.array(cells_of(other, "patching-forward-mlp_out"), np.float64)
    np.testing.assert_allclose(drawn, alone(slow_explorer, 5, "mlp_out"), atol=2e-4)
    # A click is lost where the page is drawn anew at that very moment: as a person would, look
    # whether it was taken.
    end = time.monotonic() + 60
    while time.monotonic() < end and wait_for_plot(page, "patching-forward-mlp_out").evaluate(
        ESTIMATED
    ):
        if not stop.count() and again.count():
            with contextlib.suppress(Unanswered):  # it went away at that moment
                again.first.click(timeout=10_000)
        page.wait_for_timeout(500)
    wait_until_exact(page, "patching-forward-mlp_out")


def test_no_work_is_done_for_a_click_that_a_newer_one_has_replaced(
    slow_explorer: Explorer, open_slow_page: OpenPage
) -> None:
    key = "patching-forward-resid_pre"
    first, second = (open_slow_page("/?example=0", fresh=fresh) for fresh in (False, True))
    for page in (first, second):
        wait_for_plot(page, "patching-reverse-resid_pre")
        wait_until_drawn(page)
    click_cell(first, key, 1, 1)  # takes until the test goes on: the other session has to wait
    for _ in range(300):
        if slow_explorer.patches.exists():
            break
        first.wait_for_timeout(100)
    for column in (1, 2, 3, 2):
        click_cell(second, key, 0, column, drawn=False)
    second.wait_for_timeout(500)
    slow_explorer.go_on()
    sentence(second, "Patching the residual stream into block 0 at ‘Cruise’")
    second.locator(".ob-two").first.wait_for(timeout=60_000)
    second.wait_for_timeout(1_500)  # two looks at the work
    ran = slow_explorer.patches.read_text().splitlines()
    assert len(ran) == 2, ran  # one for each session, of the second one's four
    assert "1, " in ran[0]
