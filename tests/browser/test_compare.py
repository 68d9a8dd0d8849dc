"""Two states in a real Chromium: pinned, subtracted, and found again by the link."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest

from tests.browser.conftest import Explorer
from tests.browser.looking import (
    OpenPage,
    expect,
    press,
    wait_for_plot,
    wait_until_all_is_drawn,
    wait_until_drawn,
)

pytestmark = pytest.mark.browser


@pytest.fixture
def second(slow_explorer: Explorer) -> Iterator[str]:
    """Another run of the study, beside the one that is there, for as long as the test takes."""
    folder = slow_explorer.patches.parent / "runs" / slow_explorer.record.study
    copy = folder / "again"
    shutil.copytree(slow_explorer.record.path, copy)
    yield f"{slow_explorer.record.study}/{copy.name}"
    shutil.rmtree(copy)


def test_two_runs_are_pinned_and_subtracted(
    open_slow_page: OpenPage, slow_explorer: Explorer, second: str
) -> None:
    first = f"{slow_explorer.record.study}/{Path(slow_explorer.record.path).name}"
    page = open_slow_page(f"/?run={quote(first)}&page=study")
    page.set_default_timeout(90_000)  # others use the same cores
    pin = page.get_by_role("button", name="Pin this")
    pin.wait_for()
    wait_until_drawn(page)
    press(page, pin, lambda: "a=run" in page.url)
    pages = page.get_by_role("radiogroup", name="Page")
    press(page, pages.get_by_text("Compare", exact=True), lambda: "page=compare" in page.url)
    box = page.get_by_role("combobox", name="B", exact=True)
    box.wait_for()
    wait_until_drawn(page)  # what is typed into a list that is drawn anew is lost
    box.click()
    box.fill(second)
    page.get_by_role("option", name=second).first.wait_for()
    page.keyboard.press("Enter")
    page.get_by_text("Verdicts", exact=True).wait_for()
    maps = page.get_by_text("Patching maps", exact=True)
    press(page, maps, lambda: "shown=patching" in page.url)
    plot = wait_for_plot(page, "compare-difference")
    page.get_by_text("A minus B", exact=True).wait_for()
    page.get_by_text("On a colour scale of its own", exact=False).first.wait_for()
    # The same run twice differs nowhere, and nowhere looks as if it did.
    expect(plot).to_contain_text("the 95% interval over pairs holds 0", timeout=60_000)
    wait_for_plot(page, "patching-a-resid_pre")
    assert {"a", "b"} <= dict(parse_qsl(page.url.partition("?")[2])).keys()
    again = open_slow_page(page.url)
    wait_for_plot(again, "compare-difference")


def test_a_press_before_the_answer_to_the_last_one_is_there_moves_nothing_back(
    explorer: Explorer, browser: Any
) -> None:
    """The browser then still tells with it that the list of pages stands where it stood before."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    page = browser.new_page()  # what comes between it and the server stays there
    held: list[bytes] = []
    sockets: list[Any] = []
    holds, answers = False, 0

    def between(socket: Any) -> None:
        server = socket.connect_to_server()
        sockets.append(socket)

        def answered(message: bytes) -> None:
            nonlocal answers
            told = ForwardMsg.FromString(message)
            answers += told.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY and (
                told.WhichOneof("type") == "script_finished"
            )
            if holds:
                held.append(message)
            else:
                socket.send(message)

        socket.on_message(server.send)
        server.on_message(answered)

    def wait_for_answer(before: int) -> None:
        end = time.monotonic() + 90
        while answers == before and time.monotonic() < end:
            page.wait_for_timeout(50)
        assert answers > before

    def let_go() -> None:
        nonlocal holds
        holds = False
        for message in held:
            sockets[-1].send(message)
        held.clear()

    page.route_web_socket("**/_stcore/stream", between)
    page.set_default_timeout(90_000)  # others use the same cores
    page.goto(f"{explorer.url}/?page=start")
    page.locator(".st-key-go-jobs button").wait_for()
    wait_until_drawn(page)
    holds = True
    for key in ("go-jobs", "pin"):
        before = answers
        page.locator(f".st-key-{key} button:visible").first.click()
        wait_for_answer(before)
    let_go()
    page.wait_for_function("() => new URL(location).searchParams.has('a')")
    assert asked(page)["page"] == "jobs"

    # A point of the figure moves the row of the table, and nothing moves that back.
    page.goto(f"{explorer.url}/?page=examples&example=0")
    plot = page.locator("[class*='st-key-figure-'] .js-plotly-plot:visible").first
    plot.wait_for()
    wait_until_all_is_drawn(page)
    number, x, y = plot.evaluate(_POINT)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    plot.locator(".hovertext").first.wait_for()
    holds, before = True, answers
    page.mouse.click(x, y)
    wait_for_answer(before)
    before = answers
    page.locator(".st-key-pin button:visible").first.click()
    wait_for_answer(before)
    let_go()
    page.wait_for_function("() => new URL(location).searchParams.has('a')")
    assert asked(page)["example"] == str(number)
    page.close()


def asked(page: Any) -> dict[str, str]:
    """What the address tells."""
    return dict(parse_qsl(page.url.partition("?")[2]))


# The example of a point that none lies near, and where it is in the window.
_POINT = """plot => {
    const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
    const at = plot.calcdata.flatMap(points => points.map((point, i) => [
        Number(points[0].trace.customdata?.[i]), box.x + xaxis._offset + xaxis.c2p(point.x),
        box.y + yaxis._offset + yaxis.c2p(point.y)])).filter(one => one[0] > 0);
    const near = one => Math.min(...at.filter(other => other !== one)
        .map(other => Math.hypot(one[1] - other[1], one[2] - other[2])));
    return at.sort((one, other) => near(other) - near(one))[0];
}"""
