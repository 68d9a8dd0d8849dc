"""The result in sentences that a person would quote."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from experiments.numbers import percent
from interp.stats import wilson

# Below this share of right answers, with its interval, the model does not know a direction.
_KNOWS_NEITHER = 0.05


@dataclass(frozen=True)
class Rate:
    """Accuracy over questions: each counts once, whatever its templates and facts."""

    right: float
    questions: int
    facts: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{percent(self.right)} [{percent(self.low)}, {percent(self.high)}]"


def rate(
    asked: pd.DataFrame, splits: tuple[str, ...], direction: str, templates: str | None = None
) -> Rate | None:
    """Accuracy pooled over `splits` (and over both groups of templates unless one is named).

    Args:
        asked: one row for each answer with its question, as `measure.with_questions` gives it.
    """
    rows = asked[asked["split"].isin(splits) & (asked["direction"] == direction)]
    if templates is not None:
        rows = rows[rows["templates"] == templates]
    if rows.empty:
        return None
    tries = rows.groupby(["question", "templates", "template"])["correct"].any()
    right = tries.groupby("question").mean()
    interval = wilson(float(right.sum()), len(right))
    return Rate(float(right.mean()), len(right), int(rows["fact"].nunique()), *interval)


def headline(model: str, asked: pd.DataFrame, names: int) -> list[str]:
    """One to three sentences: what is known as told, the other way round, and told both ways.

    Args:
        model: its name.
        asked: see `rate`.
        names: how many people an answer could be, to say what guessing would give.
    """
    for told, other in (("forward", "reverse"), ("reverse", "forward")):
        known, back = rate(asked, (told,), told), rate(asked, (told,), other)
        if known is not None and back is not None:
            break
    else:
        return _unlabelled(model, asked)
    sentences = [
        f"Asked the way it learned {known.facts} fact{'' if known.facts == 1 else 's'}, {model} "
        f"gets {known} right; asked the other way round, {back}{_chance(back, 1 / max(1, names))}."
    ]
    ways = [rate(asked, ("both",), direction) for direction in ("forward", "reverse")]
    if ways[0] is not None and ways[1] is not None:
        sentences.append(
            f"Facts that it read in both directions it answers both ways: {ways[0]} forward and "
            f"{ways[1]} in reverse."
            if min(ways[0].low, ways[1].low) > 0.5
            else f"Facts that it read in both directions it answers in {ways[0]} forward and "
            f"{ways[1]} in reverse."
        )
    unseen = [rate(asked, (told,), direction, "held_out") for direction in (told, other)]
    if unseen[0] is not None and unseen[1] is not None:
        sentences.append(
            f"In wordings that it never saw: {unseen[0]} as it was told, {unseen[1]} the other way "
            "round."
        )
    return sentences


def _unlabelled(model: str, asked: pd.DataFrame) -> list[str]:
    splits = tuple(asked["split"].unique())
    forward, reverse = (rate(asked, splits, way) for way in ("forward", "reverse"))
    if forward is None or reverse is None:
        return [f"{model} was asked in one direction only."]
    numbers = f"{forward} of {_questions(forward)} forward and {reverse} of {_questions(reverse)}"
    numbers += " in reverse"
    if forward.high < _KNOWS_NEITHER and reverse.high < _KNOWS_NEITHER:
        return [
            f"{model} knows neither direction: it answers {numbers}. Nothing can be said about "
            "reversal where the fact itself is not known."
        ]
    if reverse.high < forward.low:
        return [f"{model} answers {numbers}: it knows more asked forward."]
    if forward.high < reverse.low:
        return [f"{model} answers {numbers}: it knows more asked in reverse."]
    return [f"{model} answers {numbers}: no direction stands out."]


def _chance(found: Rate, chance: float) -> str:
    if found.low <= chance <= found.high:
        return (
            ", an interval that holds what guessing one of the names would give "
            f"({percent(chance)})"
        )
    return ""


def _questions(found: Rate) -> str:
    return f"{found.questions} {'question' if found.questions == 1 else 'questions'}"
