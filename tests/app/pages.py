"""Pages as Streamlit's own test harness runs them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from experiments.records import RunRecord

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"

Open = Callable[..., AppTest]


def root_of(record: RunRecord) -> Path:
    return record.path.parent.parent


def html(page: AppTest) -> str:
    """The page's markup, without that around terms that are explained."""
    return re.sub(r"</?abbr[^>]*>", "", "\n".join(str(element.value) for element in page.html))


def assert_fine(page: AppTest) -> None:
    assert not page.exception
    assert [str(error.value) for error in page.error] == []


def switched(page: AppTest, **values: str) -> None:
    """Move switches of the screen, as a link does; "-" in their names are "_"."""
    page.session_state["view"] = page.session_state["view"].switched(**values)
