"""The result in sentences that a person would quote."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from interp.stats import wilson

# Below this share of right answers, with its interval, the model does not know a direction.
_KNOWS_NEITHER = 0.05


@dataclass(frozen=True)
class Rate:
    """Accuracy over the facts of some splits: each fact counts once, whatever its templates."""

    right: float
    facts: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_percent(self.right)} [{_percent(self.low)}, {_percent(self.high)}]"


def rate(
    accuracy: pd.DataFrame, splits: tuple[str, ...], direction: str, templates: str | None = None
) -> Rate | None:
    """Accuracy pooled over `splits` (and over both groups of templates unless one is named)."""
    rows = accuracy[accuracy["split"].isin(splits) & (accuracy["direction"] == direction)]
    if templates is not None:
        rows = rows[rows["templates"] == templates]
    if rows.empty:
        return None
    right = float(rows["correct"].sum() / rows["total"].sum())
    facts = int(rows.drop_duplicates("split")["facts"].sum())
    return Rate(right, facts, *wilson(right * facts, facts))


def headline(model: str, accuracy: pd.DataFrame) -> list[str]:
    """One to three sentences: what is known forward, in reverse, and where both were learned."""
    forward = rate(accuracy, ("forward",), "forward")
    reverse = rate(accuracy, ("forward",), "reverse")
    if forward is None or reverse is None:
        return _unlabelled(model, accuracy)
    chance = 1 / max(1, int(accuracy.drop_duplicates("split")["facts"].sum()))
    sentences = [
        f"Asked the way it learned {forward.facts} facts, {model} gets {forward} right; asked the "
        f"other way round, {reverse}{_chance(reverse, chance)}."
    ]
    ways = [rate(accuracy, ("both",), direction) for direction in ("forward", "reverse")]
    if ways[0] is not None and ways[1] is not None:
        sentences.append(
            f"Facts that it read in both directions it answers both ways: {ways[0]} forward and "
            f"{ways[1]} in reverse."
            if min(ways[0].right, ways[1].right) > 0.5
            else f"Even facts that it read in both directions it answers in {ways[0]} forward and "
            f"{ways[1]} in reverse."
        )
    unseen = [
        rate(accuracy, ("forward",), direction, "held_out") for direction in ("forward", "reverse")
    ]
    if unseen[0] is not None and unseen[1] is not None:
        sentences.append(
            f"In wordings that it never saw: {unseen[0]} forward, {unseen[1]} in reverse."
        )
    return sentences


def _unlabelled(model: str, accuracy: pd.DataFrame) -> list[str]:
    splits = tuple(accuracy["split"].unique())
    forward, reverse = (rate(accuracy, splits, way) for way in ("forward", "reverse"))
    if forward is None or reverse is None:
        return [f"{model} was asked in one direction only."]
    numbers = f"{forward} of {forward.facts} facts forward and {reverse} in reverse"
    if forward.high < _KNOWS_NEITHER and reverse.high < _KNOWS_NEITHER:
        return [
            f"{model} knows neither direction: it answers {numbers}. Nothing can be said about "
            "reversal where the fact itself is not known."
        ]
    if reverse.high < forward.low:
        return [f"{model} answers {numbers}: it knows more in the direction it is usually told."]
    return [f"{model} answers {numbers}: no direction stands out."]


def _chance(found: Rate, chance: float) -> str:
    if found.low <= chance <= found.high:
        return f", which is what guessing one of the names would give ({_percent(chance)})"
    return ""


def _percent(share: float) -> str:
    percent = 100 * share
    text = f"{percent:.1f}".removesuffix(".0")
    return f"{text}%"
