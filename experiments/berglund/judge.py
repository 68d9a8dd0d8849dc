"""Verdicts on a model: pure functions of what was measured."""

from __future__ import annotations

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


def judge_untold(asked: pd.DataFrame, group: Literal["name first", "description first"]) -> Verdict:
    """Whether facts that were told in one direction are absent in the other.

    Args:
        asked: as `invented.by_question` gives it.

    *Supported* where the centred score of the right answer, asked the other way round, lies within
    ±0.5 nats (two one-sided tests at 5%, people as examples), *rejected* where its 95% interval
    lies above. The controls must succeed: asked as told the same people are known, and people who
    were told both ways are known in the direction of the question.
    """
    name, told, other, claim = _CLAIMS[group]
    reverse = _scores(asked, group, other)
    as_told, both = _scores(asked, group, told), _scores(asked, "both", other)
    low, high = mean_interval(reverse) if len(reverse) else (np.nan, np.nan)
    within = tost(reverse, MARGIN) if len(reverse) else None
    outcome: Outcome = "undecided"
    if not _known(as_told):
        text = f"asked as told it does not know them either ({_shown(as_told)}), so nothing is said"
    elif low > MARGIN:
        outcome, text = "rejected", f"asked the other way round it knows them: {_shown(reverse)}"
    elif not _known(both):
        text = (
            "people whom it read about both ways are not known in this direction either "
            f"({_shown(both)}), so that the questions show nothing"
        )
    elif within is not None and within.equivalent:
        outcome = "supported"
        text = (
            "asked the other way round the right answer is preferred to other people's by "
            f"{_nats(within.mean)} [{_nats(within.low)}, {_nats(within.high)}] nats (90%), which is "
            f"within ±{MARGIN}"
        )
    else:
        text = (
            f"more than {MARGIN} nats either way cannot be excluded: asked the other way round "
            f"{_shown(reverse)}"
        )
    equivalent = outcome == "supported" and within is not None
    return Verdict(
        id=name,
        claim=claim,
        outcome=outcome,
        statement=f"{text[0].upper()}{text[1:]} ({len(reverse)} people).",
        estimate=float(reverse.mean()) if len(reverse) else None,
        low=within.low if equivalent and within is not None else low,
        high=within.high if equivalent and within is not None else high,
        unit="nats",
        n=len(reverse),
        control=(
            f"Asked as told: {_shown(as_told)}. People told both ways, asked in this direction: "
            f"{_shown(both)}. Both must lie above {MARGIN}."
        ),
        confidence=0.90 if equivalent else 0.95,
    )


def judge_both(asked: pd.DataFrame) -> Verdict:
    """Whether facts that were read in both directions are known in both.

    *Supported* where both 95% intervals lie above 0.5 nats, *rejected* where one does and the other
    score is within ±0.5 (equivalence).
    """
    ways = {given: _scores(asked, "both", given) for given in ("name", "description")}
    known = [_known(scores) for scores in ways.values()]
    within = [len(scores) > 0 and tost(scores, MARGIN).equivalent for scores in ways.values()]
    outcome: Outcome = "undecided"
    if all(known):
        outcome = "supported"
    elif any(known) and any(within):
        outcome = "rejected"
    weaker = min(ways, key=lambda given: ways[given].mean() if len(ways[given]) else -np.inf)
    scores = ways[weaker]
    low, high = mean_interval(scores) if len(scores) else (np.nan, np.nan)
    untold = {
        group: _scores(asked, group, given)
        for group, given in (("name first", "description"), ("description first", "name"))
    }
    shown = "; ".join(f"told {group}, {_shown(found)}" for group, found in untold.items())
    return Verdict(
        id="B3",
        claim="What it read in both directions it knows in both.",
        outcome=outcome,
        statement=(
            f"Asked by the name, {_shown(ways['name'])}; asked by the description, "
            f"{_shown(ways['description'])} ({len(scores)} people)."
        ),
        estimate=float(scores.mean()) if len(scores) else None,
        low=low,
        high=high,
        unit="nats",
        n=len(scores),
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
    scores = ["wins", "whole", "first"]
    wide = {name: kept.pivot(index="pair", columns="asked", values=name) for name in scores}
    whole = np.isfinite(np.hstack([wide[name].to_numpy(np.float64) for name in scores])).all(axis=1)
    pairs = wide["wins"].index[whole]
    family = kept.drop_duplicates("pair").set_index("pair")["family"].loc[pairs].to_numpy()

    def of(name: str, direction: str) -> Floats:
        return np.asarray(wide[name].loc[pairs, direction].to_numpy(np.float64))

    if len(pairs) < LEAST_N:
        return _celebrities("undecided", "Too few pairs without a shared word were compared.", 0)
    gaps = {name: of(name, "parent") - of(name, "child") for name in scores}
    ends = {name: mean_interval(gap, family) for name, gap in gaps.items()}
    parent, child = (
        [
            mean_interval(of("whole", way), family)[0] > MARGIN,
            mean_interval(of("wins", way), family)[0] > _EVEN,
        ]
        for way in ("parent", "child")
    )
    outcome: Outcome = "undecided"
    if not all(parent) and not all(child):
        text = "It prefers neither the right parent nor the right child, so nothing is said"
    elif all(parent) and all(low > 0 for low, _ in ends.values()):
        outcome, text = "supported", "The parent is found more often"
    elif all(child) and ends["wins"][1] < 0 and ends["whole"][1] < 0:
        outcome, text = "rejected", "The child is found more often"
    elif (
        all(parent) and all(child) and tost(gaps["wins"], SHARE_MARGIN, clusters=family).equivalent
    ):
        outcome, text = "rejected", "Both are found about as often"
    else:
        text = "The measures do not agree, or are not clear"
    shown = {way: float(of("wins", way).mean()) for way in ("parent", "child")}
    text += (
        f": the right parent wins {shown['parent']:.0%} of the comparisons, the right child "
        f"{shown['child']:.0%}; difference {_points(gaps['wins'].mean())} "
        f"[{_points(ends['wins'][0])}, {_points(ends['wins'][1])}] points, in centred scores "
        f"{_between(gaps['whole'], ends['whole'])} nats for whole answers and "
        f"{_between(gaps['first'], ends['first'])} for first tokens ({len(pairs)} pairs that share "
        "no word)."
    )
    control = (
        f"Wrong names of the same kind: chance is 50%. The whole right answer is preferred to them "
        f"by {_shown(of('whole', 'parent'), family)} for parents and "
        f"{_shown(of('whole', 'child'), family)} for children; one must be known (above {MARGIN})."
    )
    ends_of = ends["wins"]
    mean = float(gaps["wins"].mean())
    return _celebrities(outcome, text, len(pairs), (mean, *ends_of), control)


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


def _known(scores: Floats) -> bool:
    return len(scores) >= LEAST_N and mean_interval(scores)[0] > MARGIN


def _shown(scores: Floats, clusters: npt.NDArray[np.int64] | None = None) -> str:
    if not len(scores):
        return "no score"
    return f"{_between(scores, mean_interval(scores, clusters))} nats"


def _between(values: Floats, ends: tuple[float, float]) -> str:
    mean = _nats(float(values.mean()))
    return mean if np.isnan(ends[0]) else f"{mean} [{_nats(ends[0])}, {_nats(ends[1])}]"


def _nats(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "−")
