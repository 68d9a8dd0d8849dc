"""Work in the background: its results, its end, and what it says of its progress."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.compute.work import Progress, Stand, Work
from interp.errors import SiteError

pytestmark = pytest.mark.slow

LONG = 30.0  # seconds; nothing here should take them


def test_results_replace_each_other_until_the_last() -> None:
    go_on = threading.Event()

    def steps(tell: Progress) -> Iterator[str]:
        tell(1, 4)
        yield "first"
        go_on.wait(LONG)
        tell(4, 4)
        yield "last"

    work = Work(steps)
    early = work.wait(0.2)
    assert (early.result, early.done, early.total, early.running) == ("first", 1, 4, True)
    assert early.seconds_left == pytest.approx(3 * early.seconds)
    go_on.set()
    end = work.wait(LONG)
    assert (end.result, end.done, end.running, end.stopped) == ("last", 4, False, False)
    assert end.seconds_left is None
    assert work.stand.seconds == end.seconds  # the clock stands still


def test_work_can_be_stopped_between_and_inside_of_steps_and_keeps_its_results() -> None:
    for inside in (False, True):
        reached, go_on = threading.Event(), threading.Event()
        later: list[str] = []

        def steps(
            tell: Progress,
            inside: bool = inside,
            reached: threading.Event = reached,
            go_on: threading.Event = go_on,
            later: list[str] = later,
        ) -> Iterator[str]:
            yield "estimate"
            reached.set()
            go_on.wait(LONG)
            if inside:
                tell(1, 2)
            yield "better"
            later.append("went on")

        work = Work(steps)
        assert reached.wait(LONG)
        work.stop()
        go_on.set()
        end = work.wait(LONG)
        assert (end.running, end.stopped, end.error) == (False, True, None)
        assert end.result == ("estimate" if inside else "better")
        assert later == []


def test_what_goes_wrong_is_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    def refuses(tell: Progress) -> Iterator[str]:
        yield "estimate"
        raise SiteError("There is no such site; choose another.")

    end = Work(refuses).wait(LONG)
    assert (end.result, end.error) == ("estimate", "There is no such site; choose another.")

    def breaks(tell: Progress) -> Iterator[str]:
        raise ZeroDivisionError("secret")
        yield

    error = Work(breaks).wait(LONG).error
    assert error is not None
    assert "ZeroDivisionError" in error
    assert "secret" not in error
    assert "secret" in caplog.text


def test_no_time_is_told_before_anything_is_done() -> None:
    assert Stand[str]().seconds_left is None
    assert Stand[str](seconds=3.0, total=10).seconds_left is None
