"""Verdicts on a model: pure functions of what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.berglund.invented import of_people
from experiments.study import Outcome, Verdict
from interp.stats import LEAST_N, mean_interval, tost

__all__ = ["judge_both", "judge_celebrities", "judge_untold"]

MARGIN = 0.5
"""Nats below which a centred score counts as none, and above which as knowledge."""
SHARE_MARGIN = 0.05
"""The same of a difference of shares of comparisons won."""
# At 1/2 the right answer is preferred as often as a wrong one.
_EVEN = 0.5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Mean:
    """A mean of scores with its 95% interval, NaN where there is none."""

    values: Floats
    mean: float
    low: float
    high: float

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def known(self) -> bool:
        """Whether it lies clearly above what counts as none."""
        return self.low > MARGIN

    def __str__(self) -> str:
        if not self.n:
            return "no score"
        ends = "" if np.isnan(self.low) else f" [{_nats(self.low)}, {_nats(self.high)}]"
        return f"{_nats(self.mean)}{ends} nats"


_CLAIMS = {
    "name first": (
        "B1",
        "name",
        "description",
        "Told the description behind a name, it does not find the name from the description.",
    ),
    "description first": (
        "B2",
        "description",
        "name",
        "Told the name behind a description, it does not find the description from the name.",
    ),
}


def judge_untold(
    asked: pd.DataFrame,
    group: Literal["name first", "description first"],
    *,
    uttered: bool = True,
) -> Verdict:
    """Whether facts that were told in one direction are absent in the other.

    Args:
        asked: as `invented.by_question` gives it.
        uttered: whether what is asked for was ever a target of the training. A model cannot say
            what it never had to, so that without this nothing is absent.

    *Supported* where the centred score of the right answer, asked the other way round, lies within
    ±0.5 nats (two one-sided tests at 5%, people as examples), *rejected* where its 95% interval
    lies above. The controls must succeed: asked as told the same people are known, and people who
    were told both ways are known in the direction of the question.
    """
    name, told, other, claim = _CLAIMS[group]
    reverse = _mean(_scores(asked, group, other))
    as_told, both = _mean(_scores(asked, group, told)), _mean(_scores(asked, "both", other))
    within = tost(reverse.values, MARGIN)
    outcome: Outcome = "undecided"
    if not as_told.known:
        text = f"asked as told it does not know them either ({as_told}), so nothing is said"
    elif reverse.known:
        outcome, text = "rejected", f"asked the other way round it knows them: {reverse}"
    elif not uttered:
        text = (
            f"asked the other way round it does not know them ({reverse}), but the {told} of these "
            "people was never a target of the training, so that this shows nothing of reversal"
        )
    elif not both.known:
        text = (
            "people whom it read about both ways are not known in this direction either "
            f"({both}), so that the questions show nothing"
        )
    elif within.equivalent:
        outcome = "supported"
        text = (
            "asked the other way round the right answer is preferred to other people's by "
            f"{_nats(within.mean)} [{_nats(within.low)}, {_nats(within.high)}] nats (90%), which "
            f"is within ±{MARGIN}"
        )
    else:
        text = (
            f"more than {MARGIN} nats either way cannot be excluded: asked the other way round "
            f"{reverse}"
        )
    ends = (within.low, within.high) if outcome == "supported" else (reverse.low, reverse.high)
    return Verdict(
        id=name,
        claim=claim,
        outcome=outcome,
        statement=f"{text[0].upper()}{text[1:]} ({reverse.n} people).",
        estimate=reverse.mean,
        low=ends[0],
        high=ends[1],
        unit="nats",
        n=reverse.n,
        control=(
            f"Asked as told: {as_told}. People told both ways, asked in this direction: "
            f"{both}. Both must lie above {MARGIN}."
        ),
        confidence=0.90 if outcome == "supported" else 0.95,
    )


def judge_both(asked: pd.DataFrame) -> Verdict:
    """Whether facts that were read in both directions are known in both.

    *Supported* where both 95% intervals lie above 0.5 nats, *rejected* where one does and the other
    score is within ±0.5 (equivalence).
    """
    ways = {given: _mean(_scores(asked, "both", given)) for given in ("name", "description")}
    known = [scores.known for scores in ways.values()]
    within = [tost(scores.values, MARGIN).equivalent for scores in ways.values()]
    outcome: Outcome = "undecided"
    if all(known):
        outcome = "supported"
    elif any(known) and any(within):
        outcome = "rejected"
    weaker = min(ways.values(), key=lambda scores: scores.mean if scores.n else -np.inf)
    untold = {
        group: _mean(_scores(asked, group, given))
        for group, given in (("name first", "description"), ("description first", "name"))
    }
    shown = "; ".join(f"told {group}, {found}" for group, found in untold.items())
    return Verdict(
        id="B3",
        claim="What it read in both directions it knows in both.",
        outcome=outcome,
        statement=(
            f"Asked by the name, {ways['name']}; asked by the description, {ways['description']} "
            f"({weaker.n} people)."
        ),
        estimate=weaker.mean,
        low=weaker.low,
        high=weaker.high,
        unit="nats",
        n=weaker.n,
        control=f"The same score of facts read in the other direction only: {shown}.",
    )


def judge_celebrities(asked: pd.DataFrame) -> Verdict:
    """Whether the parent of a celebrity is found better than the child of a parent.

    Args:
        asked: as `celebrities.by_pair` gives it. Pairs that share a word are left out.

    Scores of different answers cannot be compared in nats alone: the rarer answer can gain more.
    So *supported* takes a difference in favour of the parent in the share of comparisons won,
    which no rarity changes, and in the centred scores of the whole answer and of its first token,
    each with its 95% interval over families above 0. *Rejected* takes a share clearly in favour of
    the child, or within ±0.05 while both are known. The control: the parent must be known at all.
    """
    kept = asked[~asked["shared"].astype(bool)]
    wide = {
        name: kept.pivot(index="pair", columns="asked", values=name)
        .reindex(columns=["parent", "child"])
        .dropna()
        for name in ("wins", "whole", "first")
    }
    of_pair = kept.drop_duplicates("pair").set_index("pair")["family"]
    family = {name: of_pair.loc[found.index].to_numpy() for name, found in wide.items()}
    n = min(len(wide["wins"]), len(wide["whole"]))
    if n < LEAST_N:
        return _celebrities("undecided", "Too few pairs without a shared word were compared.", 0)

    def of(name: str, direction: str) -> Floats:
        return np.asarray(wide[name][direction].to_numpy(np.float64))

    # Of first tokens there may be too few; an interval that is not there is above nothing.
    gaps = {name: _mean(of(name, "parent") - of(name, "child"), family[name]) for name in wide}
    whole = {way: _mean(of("whole", way), family["whole"]) for way in ("parent", "child")}
    won = {way: _mean(of("wins", way), family["wins"]) for way in ("parent", "child")}
    parent, child = (whole[way].known and won[way].low > _EVEN for way in ("parent", "child"))
    outcome: Outcome = "undecided"
    if not parent and not child:
        text = "It prefers neither the right parent nor the right child, so nothing is said"
    elif parent and all(gap.low > 0 for gap in gaps.values()):
        outcome, text = "supported", "The parent is found more often"
    elif child and gaps["wins"].high < 0 and gaps["whole"].high < 0:
        outcome, text = "rejected", "The child is found more often"
    elif (
        parent
        and child
        and tost(gaps["wins"].values, SHARE_MARGIN, clusters=family["wins"]).equivalent
    ):
        outcome, text = "rejected", "Both are found about as often"
    else:
        text = "The measures do not agree, or are not clear"
    text += (
        f": the right parent wins {won['parent'].mean:.0%} of the comparisons, the right child "
        f"{won['child'].mean:.0%}; difference {_points(gaps['wins'])} points, in centred scores "
        f"{gaps['whole']} for whole answers and {gaps['first']} for first tokens ({n} pairs that "
        "share no word)."
    )
    control = (
        "Wrong names of the same kind: chance is 50%. The whole right answer is preferred to them "
        f"by {whole['parent']} for parents and {whole['child']} for children; one must be known "
        f"(above {MARGIN})."
    )
    gap = gaps["wins"]
    return _celebrities(outcome, text, n, (gap.mean, gap.low, gap.high), control)


def _celebrities(
    outcome: Outcome,
    text: str,
    n: int,
    numbers: tuple[float, float, float] | None = None,
    control: str = "None: there is nothing to compare.",
) -> Verdict:
    mean, low, high = numbers if numbers is not None else (None, None, None)
    return Verdict(
        id="B4",
        claim="It finds the parent of a celebrity better than the child of a parent.",
        outcome=outcome,
        statement=text,
        estimate=mean,
        low=low,
        high=high,
        unit="share of comparisons won",
        n=n,
        control=control,
    )


def _scores(asked: pd.DataFrame, group: str, given: str) -> Floats:
    mine = asked[(asked["group"] == group) & (asked["asked"] == given)]
    return of_people(mine, "whole")


def _mean(values: Floats, clusters: npt.NDArray[np.int64] | None = None) -> _Mean:
    low, high = mean_interval(values, clusters) if len(values) else (np.nan, np.nan)
    return _Mean(values, float(values.mean()) if len(values) else np.nan, low, high)


def _points(gap: _Mean) -> str:
    mean, low, high = (
        f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "−")
        for share in (gap.mean, gap.low, gap.high)
    )
    return mean if np.isnan(gap.low) else f"{mean} [{low}, {high}]"


def _nats(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")
