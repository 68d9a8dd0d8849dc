"""Verdicts, simulated: absent by construction, planted, and with broken controls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.berglund.judge import judge_both, judge_celebrities, judge_untold

RUNS, FEW = 200, 40
N_PEOPLE, N_WORDINGS = 30, 2
WAYS = [
    (g, a) for g in ("name first", "description first", "both") for a in ("name", "description")
]


def people(
    rng: np.random.Generator, means: dict[tuple[str, str], float], sd: float
) -> pd.DataFrame:
    """Centred scores: people differ by `sd`, wordings of one by as much again."""
    rows: list[tuple[Any, ...]] = []
    for group, asked in WAYS:
        of_person = means.get((group, asked), 0.0) + sd * rng.normal(size=N_PEOPLE)
        for wording in range(N_WORDINGS):
            each = of_person + sd * rng.normal(size=N_PEOPLE)
            rows += [(group, asked, f"p{i}", wording, each[i]) for i in range(N_PEOPLE)]
    return pd.DataFrame(rows, columns=["group", "asked", "person", "wording", "whole"])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from fewer resamples: a simulation makes thousands of them."""
    monkeypatch.setattr("interp.stats.means.RESAMPLES", 199)


AS_TOLD = {("name first", "name"): 3.0, ("description first", "description"): 3.0}
BOTH = {("both", "name"): 3.0, ("both", "description"): 3.0}


def outcomes(
    means: dict[tuple[str, str], float], group: Any, runs: int, sd: float = 0.8
) -> Counter[str]:
    rng = np.random.default_rng(0)
    return Counter(judge_untold(people(rng, means, sd), group).outcome for _ in range(runs))


@pytest.mark.parametrize(
    ("group", "reverse"), [("name first", "description"), ("description first", "name")]
)
class TestToldOneWay:
    @pytest.mark.slow
    def test_absence_is_found_where_it_is(self, group: str, reverse: str) -> None:
        found = outcomes({**AS_TOLD, **BOTH}, group, FEW, sd=0.6)
        assert found["supported"] >= 0.9 * FEW
        assert found["rejected"] == 0

    @pytest.mark.slow
    def test_absence_is_not_claimed_at_the_margin(self, group: str, reverse: str) -> None:
        edge = 0.5 if group == "name first" else -0.5
        found = outcomes({**AS_TOLD, **BOTH, (group, reverse): edge}, group, RUNS)
        assert found["supported"] <= 0.07 * RUNS
        assert found["rejected"] <= 0.07 * RUNS

    def test_what_was_never_a_target_is_not_absent(self, group: Any, reverse: str) -> None:
        rng = np.random.default_rng(0)
        table = people(rng, {**AS_TOLD, **BOTH}, 0.6)
        assert judge_untold(table, group).outcome == "supported"
        verdict = judge_untold(table, group, uttered=False)
        assert verdict.outcome == "undecided"
        assert "never a target" in verdict.statement
        known = people(rng, {**AS_TOLD, **BOTH, (group, reverse): 1.5}, 0.6)
        assert judge_untold(known, group, uttered=False).outcome == "rejected"

    @pytest.mark.slow
    def test_knowledge_is_found_where_it_is(self, group: str, reverse: str) -> None:
        found = outcomes({**AS_TOLD, **BOTH, (group, reverse): 1.5}, group, FEW)
        assert found["rejected"] >= 0.9 * FEW

    @pytest.mark.slow
    def test_a_broken_control_leaves_it_undecided(self, group: str, reverse: str) -> None:
        assert outcomes({**BOTH, (group, reverse): 3.0}, group, FEW)["undecided"] >= 0.95 * FEW
        assert outcomes(AS_TOLD, group, FEW)["undecided"] == FEW
        assert outcomes({}, group, FEW)["undecided"] >= 0.95 * FEW


@pytest.mark.slow
@pytest.mark.parametrize(
    ("means", "expected"),
    [
        (BOTH, "supported"),
        ({("both", "name"): 3.0}, "rejected"),
        ({}, "undecided"),
    ],
)
def test_facts_told_both_ways(means: dict[tuple[str, str], float], expected: str) -> None:
    rng = np.random.default_rng(0)
    found = Counter(judge_both(people(rng, means, 0.6)).outcome for _ in range(FEW))
    assert found[expected] >= 0.9 * FEW
    if expected != "supported":
        assert found["supported"] <= 0.05 * FEW


def test_few_people_and_equal_scores_are_undecided() -> None:
    table = people(np.random.default_rng(0), {**AS_TOLD, **BOTH}, 0.0)
    assert judge_untold(table, "name first").outcome == "undecided"
    few = table[table["person"].isin(["p0", "p1", "p2"])]
    assert judge_both(few).outcome == "undecided"
    assert judge_untold(few.iloc[:0], "name first").n == 0


N_FAMILIES = 40


def celebrities(
    rng: np.random.Generator, parent: float, child: float, rarity: float = 0.0
) -> pd.DataFrame:
    """Pairs in families of two; a preference of k nats wins a comparison with so many odds.

    Args:
        rarity: nats by which the centred score of a parent's name is larger, for being rare,
            without its winning more often.
    """
    rows = []
    for family in range(N_FAMILIES):
        of_family = 0.5 * rng.normal()
        for member in range(2):
            for asked, known in (("parent", parent), ("child", child)):
                score = known + of_family + rng.normal()
                won = rng.binomial(29, 1 / (1 + np.exp(-2 * known))) / 29
                more = rarity if asked == "parent" else 0.0
                first = 0.6 * (score + more) + 0.3 * rng.normal()
                row = (2 * family + member, asked, family, False, score + more, first, won)
                rows.append(row)
    columns = ["pair", "asked", "family", "shared", "whole", "first", "wins"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected", "least"),
    [
        ({"parent": 2.0, "child": 0.3}, "supported", 0.9),
        ({"parent": 0.5, "child": 2.0}, "rejected", 0.9),
        ({"parent": 2.5, "child": 2.5}, "rejected", 0.9),
        # What both directions know alike is not called a difference because one name is rarer.
        ({"parent": 2.5, "child": 2.5, "rarity": 4.0}, "rejected", 0.9),
        ({"parent": 0.0, "child": 0.0}, "undecided", 0.95),
    ],
)
def test_celebrities(settings: dict[str, float], expected: str, least: float) -> None:
    rng = np.random.default_rng(0)
    found = Counter(judge_celebrities(celebrities(rng, **settings)).outcome for _ in range(FEW))
    assert found[expected] >= least * FEW, found
    if expected != "supported":
        assert found["supported"] <= 0.05 * FEW


@pytest.mark.slow
def test_equal_knowledge_is_seldom_called_a_difference() -> None:
    rng = np.random.default_rng(0)
    found = Counter(judge_celebrities(celebrities(rng, 1.5, 1.5)).outcome for _ in range(RUNS))
    assert found["supported"] <= 0.05 * RUNS


def test_pairs_that_share_a_word_do_not_count() -> None:
    table = celebrities(np.random.default_rng(0), 2.0, 0.0)
    assert judge_celebrities(table.assign(shared=True)).outcome == "undecided"
    more = pd.concat([table.assign(pair=table["pair"] + 1000, shared=True, wins=0.0), table])
    assert judge_celebrities(more) == judge_celebrities(table)


def test_what_cannot_be_compared_is_left_out_and_without_first_tokens_nothing_is_supported() -> (
    None
):
    table = celebrities(np.random.default_rng(0), 2.0, 0.0)
    table.loc[table["pair"] < 10, "whole"] = np.nan
    found = judge_celebrities(table)
    assert (found.outcome, found.n) == ("supported", 70)
    assert judge_celebrities(table.assign(first=np.nan)).outcome == "undecided"
    assert judge_celebrities(table.iloc[:0]).n == 0
