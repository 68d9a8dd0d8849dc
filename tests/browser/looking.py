"""What a person does with a page: wait for a figure, click into it, read what is said."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

OpenPage = Callable[..., Any]
# While the page is drawn again, figures of the last time stand beside the new ones, unseen.
PLOT = ".st-key-{} .js-plotly-plot:visible"


def expect(locator: Any) -> Any:
    """Playwright's assertions, which look again and again."""
    from playwright.sync_api import expect as assertions

    return assertions(locator)


def wait_for_plot(page: Any, key: str) -> Any:
    plot = page.locator(PLOT.format(key))
    plot.wait_for(timeout=90_000)  # others use the same cores
    return plot


def wait_until_drawn(page: Any) -> None:
    """What stands on a page that is being drawn may be exchanged at any moment."""
    page.wait_for_function(
        """() => document.querySelector("[data-test-script-state]")
            .dataset.testScriptState !== 'running'""",
        polling=100,
        timeout=90_000,
    )


def wait_until_all_is_drawn(page: Any) -> None:
    """Also what stands below the screen."""
    page.wait_for_function(
        """() => !document.querySelector(".ob-later, [data-testid='stProgress']")
            && document.querySelector("[data-test-script-state]")
                .dataset.testScriptState !== 'running'""",
        polling=100,
        timeout=90_000,
    )


_CELL = """(plot, [layer, column]) => {
    const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.l2p(column), box.y + yaxis._offset + yaxis.l2p(layer)];
}"""
# Whether the frame of the chosen cell lies around a point of the window.
_TAKEN = """([selector, x, y]) => [...document.querySelectorAll(selector)].some(plot => {
    const box = plot.querySelector(":scope > .ob-mark")?.getBoundingClientRect();
    const within = box && box.left < x && x < box.right && box.top < y && y < box.bottom;
    return plot.offsetParent && within;
})"""


def click_cell(page: Any, key: str, layer: int, column: int, *, drawn: bool = True) -> None:
    """Click in the middle of a cell of a heatmap, as a person would; with patience if `drawn`.

    The browser frames it at once. A click into a figure that is drawn anew at that very moment is
    lost, which a person sees, and clicks again; without `drawn` at once, since the page may be held
    until the test goes on.
    """
    plot = wait_for_plot(page, key)
    if drawn:
        wait_until_drawn(page)
    for _ in range(6):
        plot.scroll_into_view_if_needed()
        page.wait_for_timeout(200)  # scrolling moves it
        at = plot.evaluate(_CELL, [layer, column])
        if click_point(page, key, *at, seconds=10 if drawn else 3):
            return
        if drawn:
            wait_until_drawn(page)
        plot = wait_for_plot(page, key)
    raise AssertionError(f"the cell {layer}, {column} of {key} cannot be chosen")


def click_point(page: Any, key: str, x: float, y: float, *, seconds: float = 10) -> bool:
    """Click there; returns whether the figure frames the cell within so many seconds."""
    from playwright.sync_api import TimeoutError as Unanswered

    page.mouse.move(x, y)
    page.mouse.move(x + 1, y + 1)
    page.mouse.click(x + 1, y + 1)
    selector = PLOT.format(key).removesuffix(":visible")
    with contextlib.suppress(Unanswered):
        cell = [selector, x + 1, y + 1]
        page.wait_for_function(_TAKEN, arg=cell, polling=50, timeout=1000 * seconds)
        return True
    return False


def press(page: Any, button: Any, taken: Callable[[], bool]) -> None:
    """Click, look whether that was taken, and click again where it was not: a click on what is
    drawn anew at that very moment is lost. Not for what a second click takes back.

    Args:
        taken: asked again and again.
    """
    from playwright.sync_api import TimeoutError as Unanswered

    for _ in range(6):
        with contextlib.suppress(Unanswered):
            button.click(timeout=15_000)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            if taken():
                return
            page.wait_for_timeout(100)
    raise AssertionError(f"nothing came of clicks on {button}; the page is {page.url}")


def framed(page: Any, key: str) -> list[float]:
    """Where the frame of the chosen cell lies in a figure: left, top, width, height."""
    frame = page.locator(f".st-key-{key} .ob-mark")
    frame.wait_for(timeout=60_000)
    box: list[float] = frame.evaluate(
        """frame => {
            const at = frame.getBoundingClientRect(), plot = frame.parentElement;
            const around = plot.getBoundingClientRect();
            return [at.x - around.x, at.y - around.y, at.width, at.height];
        }"""
    )
    return box


def ranges(page: Any, key: str) -> list[list[float]]:
    """What part of its axes a figure shows."""
    found: list[list[float]] = wait_for_plot(page, key).evaluate(
        "plot => [plot._fullLayout.xaxis.range, plot._fullLayout.yaxis.range]"
    )
    return found


def sentence(page: Any, beginning: str) -> str:
    found = page.locator(".ob-sentence", has_text=beginning).first
    found.wait_for(timeout=60_000)
    return str(found.inner_text())


def wait_until_exact(page: Any, key: str) -> Any:
    """A map whose every cell has been run: none is hatched."""
    plot = wait_for_plot(page, key)
    page.wait_for_function(
        """selector => {
            const seen = [...document.querySelectorAll(selector)].filter(p => p.offsetParent);
            // A figure that is only being made has no data yet, or they are not worked on yet.
            const exact = p => p.calcdata?.length
                && p.data?.length && !p.data.some(t => t.name === "estimated");
            return seen.length && seen.every(exact);
        }""",
        arg=PLOT.format(key).removesuffix(":visible"),
        polling=100,  # looking at every frame has frames drawn, and they take what the work needs
        timeout=90_000,
    )
    return plot


def cells_of(page: Any, key: str) -> list[list[float | None]]:
    """The numbers of a map, row by row; those of a map that is just being drawn anew as soon as it
    has them."""
    found = page.wait_for_function(
        """selector => [...document.querySelectorAll(selector)].filter(p => p.offsetParent)
            .map(p => p.calcdata?.[0]?.[0]?.z).find(rows => rows)
            ?.map(row => [...row].map(cell => cell ?? null))""",
        arg=PLOT.format(key).removesuffix(":visible"),
        polling=100,
        timeout=60_000,
    )
    rows: list[list[float | None]] = found.json_value()
    return rows
