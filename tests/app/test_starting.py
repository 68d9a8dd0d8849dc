"""What is imported beside the server, and what is told of it meanwhile."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import starting
from app.starting import Starting
from tests.app.pages import MAIN


def test_stages_come_in_order_and_what_fails_stops_no_other(tmp_path: Path) -> None:
    gates = [threading.Event() for _ in range(2)]
    seen = []

    def first(root: Path) -> None:
        seen.append(root)
        gates[0].wait(10)
        raise RuntimeError("not there")

    def second(root: Path) -> None:
        gates[1].wait(10)

    one = Starting(tmp_path, (("a", first), ("b", second)))
    assert one.told is not None
    assert one.told.startswith("Loading a: 1 of 2, ")
    gates[0].set()
    while one.done < 1:
        one.wait(0.01)
    assert one.told is not None
    assert one.told.startswith("Loading b: 2 of 2, ")
    gates[1].set()
    one.wait(10)
    assert one.told is None
    assert seen == [tmp_path]


def test_who_comes_too_early_is_told_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["main.py", "--root", str(tmp_path)])
    loaded, told = threading.Event(), []
    one = Starting(tmp_path, (("much", lambda root: loaded.wait(20)),))
    wait, info = one.wait, starting.st.delta_generator.DeltaGenerator.info

    def noticed(place: object, text: str, **given: object) -> object:
        told.append(text)
        loaded.set()
        wait(10)
        return info(place, text, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(starting.st.delta_generator.DeltaGenerator, "info", noticed)
    monkeypatch.setattr(starting, "begun", [one])
    page = AppTest.from_file(str(MAIN), default_timeout=60).run()
    assert len(told) == 1
    assert "just been started. Loading much: 1 of 1" in told[0]
    assert [str(one.value) for one in page.info] == []
    assert not page.exception
