"""What is said of probes claims no more than their numbers do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from app.text.probes import readable, sentence

SURE: dict[str, Any] = {
    "accuracy": (0.9, 0.8, 0.95),
    "control": 0.5,
    "selectivity": (0.4, 0.3, 0.5),
    "majority": 0.5,
    "p": 0.01,
    "drift": False,
    "words": 0.6,
    "beyond": (0.2, 0.4),
}


def said(**changed: Any) -> str:
    return sentence("Here", "facts", 40, **(SURE | changed))


def test_what_is_clear_is_readable_and_not_called_used() -> None:
    assert said() == (
        "Here, 90% (95% interval 80% to 95%) of 40 held-out facts are told right; control labels "
        "50%, a difference of 40 points (30 to 50); always the commonest class, 50%. So it is "
        "readable here (corrected p = .010), which is not to say that it is used. The words of the "
        "prompt alone get 60%, clearly less."
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"p": 0.06}, "not clearly better than shuffled labels (corrected p = .060)"),
        ({"p": 1.0}, "corrected p = 1.000"),
        ({"selectivity": (0.4, -0.01, 0.5)}, "not clearly better than control labels"),
        ({"selectivity": (0.4, math.nan, math.nan)}, "not clearly better than control labels"),
        ({"drift": True}, "p too small: nothing can be said"),
    ],
)
def test_what_is_not_clear_is_not_readable(changed: dict[str, Any], expected: str) -> None:
    assert expected in said(**changed)
    assert "readable here" not in said(**changed)
    one = SURE | changed
    assert not readable(one["selectivity"][1], one["p"], one["drift"])


def test_what_words_tell_as_well_is_said() -> None:
    assert "alone get 90%, and this is not clearly more." in said(words=0.9, beyond=(-0.1, 0.1))
    assert said(words=None, beyond=None).endswith("that it is used.")
    assert "(95% interval" not in said(accuracy=(0.9, math.nan, math.nan))
