"""Pages as Streamlit's own test harness runs them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


def turned_to(page: AppTest, name: str) -> AppTest:
    """Choose another page; the list of pages has a new key once something else has moved it."""
    [pages] = [radio for radio in page.radio if radio.label == "Page"]
    return pages.set_value(name).run()


def switched(page: AppTest, **values: str) -> None:
    """Move switches of the screen, as a link does; "-" in their names are "_"."""
    page.session_state["view"] = page.session_state["view"].switched(**values)


def numbers(values: Any) -> Any:
    """Those of a trace, as Plotly writes them."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.asarray(values, dtype=float)
