"""What a model is right of by luck alone is not known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from experiments.reversal_curse.case import by_luck, known_as_told

COLOURS = [f" colour{i}" for i in range(8)]


def table(n: int, knows: float, seed: int = 0) -> pd.DataFrame:
    """Facts with one of eight answers, of which a share is known; of others any colour is said."""
    rng = np.random.default_rng(seed)
    answers = rng.choice(COLOURS, n)
    said = np.where(rng.random(n) < knows, answers, rng.choice(COLOURS, n))
    return pd.DataFrame(
        {
            "split": "unknown",
            "relation": "colour",
            "inverse": "person",
            "forward_answer": answers,
            "forward_said": said,
            "forward_correct": answers == said,
        }
    )


def known(facts: pd.DataFrame) -> int:
    names = xr.Dataset(coords={"name": np.arange(len(facts))})
    return len(known_as_told(facts, {"forward": names}, "forward"))  # type: ignore[dict-item]


@pytest.mark.parametrize("seed", range(20))
def test_a_model_that_knows_which_answers_there_are_knows_no_fact(seed: int) -> None:
    facts = table(400, 0.0, seed)
    assert facts["forward_correct"].sum() > 20  # enough to be judged
    assert known(facts) == 0


def test_a_model_that_says_the_same_of_all_knows_no_fact() -> None:
    facts = table(200, 0.0)
    facts["forward_said"] = COLOURS[0]
    facts["forward_correct"] = facts["forward_answer"] == COLOURS[0]
    assert known(facts) == 0
    facts["forward_answer"], facts["forward_correct"] = COLOURS[0], True
    assert known(facts) == 0


@pytest.mark.parametrize("knows", [0.5, 1.0])
def test_what_is_known_beyond_luck_stays_known(knows: float) -> None:
    facts = table(200, knows)
    assert known(facts) == facts["forward_correct"].sum() > 90
    assert by_luck(facts, "forward") == pytest.approx(
        (1 - knows) / 8 / (knows + (1 - knows) / 8), abs=0.05
    )


def test_different_answers_leave_nothing_to_luck_and_nothing_known_is_no_luck() -> None:
    facts = table(30, 1.0)
    facts["forward_answer"] = facts["forward_said"] = [f" name{i}" for i in range(30)]
    facts["forward_correct"] = [True] + [False] * 29
    assert by_luck(facts, "forward") == 0.0
    assert known(facts) == 1
    facts["forward_correct"] = False
    assert by_luck(facts, "forward") == 0.0
    assert by_luck(facts[:0], "forward") == 0.0
