"""What is known of how the page is looked at."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.screen import look


@pytest.mark.parametrize(
    ("later", "in_browser", "waited"),
    [(0.1, True, [0.15]), (3.0, True, [0.0]), (0.1, False, [])],
)
def test_the_first_figure_of_a_visit_lets_the_heading_ahead(
    monkeypatch: pytest.MonkeyPatch, later: float, in_browser: bool, waited: list[float]
) -> None:
    now, slept = [10.0], list[float]()
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=slept.append)
    monkeypatch.setattr(look, "time", clock)
    monkeypatch.setattr(look, "in_browser", lambda: in_browser)
    monkeypatch.setattr(look.st, "session_state", {})
    look.page_begins()
    now[0] += later
    look.let_heading_ahead()
    # Others do not wait, nor does another page of the same visit.
    look.let_heading_ahead()
    look.page_begins()
    look.let_heading_ahead()
    assert slept == pytest.approx(waited)
