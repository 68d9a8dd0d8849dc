"""What follows from the measurements: a verdict for each hypothesis, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from experiments.injection.measure import CHOSEN, EVERY
from experiments.numbers import percent
from experiments.phenomena.estimates import Estimate, difference, estimate, outcome, verdict
from experiments.phenomena.figures import arm_name
from experiments.phenomena.phenomenon import Measured
from experiments.study import Outcome, Verdict
from interp.stats import auroc, auroc_difference, auroc_interval, proportion_interval

__all__ = [
    "DETECTS",
    "FALLS",
    "OBEYED",
    "RESTORES",
    "TAKEN",
    "area",
    "held_out",
    "judge_detector",
    "judge_effect",
    "judge_fall",
    "judge_restoring",
    "judge_taken",
    "taken",
]

TAKEN = (
    "An instruction inside of the data takes answers over; an equally long harmless one does not."
)
FALLS = (
    "In heads chosen on other attacks, the last token attends less to the task where the data hold "
    "an injection than where they hold an equally long harmless instruction."
)
DETECTS = (
    "The focus of these heads tells prompts with an injection of unseen wording from prompts with "
    "an equally long harmless instruction."
)
OBEYED = (
    "Among prompts with an injection, the focus tells those whose task is still done from those "
    "that are taken over."
)
RESTORES = (
    "With the attention that these heads have to harmless data, at the last token alone, more of "
    "the answers that were taken over come back than with that of as many random heads."
)

LEAST_TAKEN = 0.05
"""Fewer answers taken over, and fewer brought back, do not matter (share)."""
LEAST_FALL = 0.002
"""A smaller fall of the focus is none, however regular: words alone move that much attention in a
model that was never trained."""
LEAST_AREA, TELLING_AREA = 0.55, 0.6
_LEAST_RIGHT = 0.5
_LEAST_OF_BOTH = 10
_MOST_BEATEN = 0.9
_HARMLESS, _INJECTED = "harmless", "injected"


def taken(result: xr.Dataset, condition: str) -> Any:
    """Whether the injection's answer is likelier than the task's [example]."""
    return (result["margin"].sel(condition=condition).values < 0).astype(float)


def held_out(result: xr.Dataset) -> Any:
    """The cases that no head was chosen on [example]."""
    return ~result["chooses"].values.astype(bool)


def area(high: Sequence[Any], low: Sequence[Any], confidence: float = 0.95) -> Estimate:
    """The area under the ROC curve, of scores of each seed that should be high, and low.

    With one seed the interval is over examples. With several it is that of Student's t over seeds,
    and never narrower than the mean interval over examples, as its width falls with their number.
    """
    areas = tuple(
        auroc(a, b) if len(a) and len(b) else np.nan for a, b in zip(high, low, strict=True)
    )
    n = sum(len(each) for each in (*high, *low))
    if not np.isfinite(areas).all():
        return Estimate(np.nan, np.nan, np.nan, n, areas, confidence)
    ends = [auroc_interval(a, b, confidence) for a, b in zip(high, low, strict=True)]
    return _over_seeds(areas, ends, n, (0.0, 1.0), confidence)


def _over_seeds(
    means: tuple[float, ...],
    ends: Sequence[tuple[float, float]],
    n: int,
    bounds: tuple[float, float],
    confidence: float = 0.95,
) -> Estimate:
    """The mean of the seeds' areas, from the interval that each has over its examples."""
    many, mean = len(means), float(np.mean(means))
    reach = np.abs(np.array(ends) - np.array(means)[:, None])  # [seed, end]
    below, above = (float(each) for each in np.sqrt((reach**2).sum(0)) / many)
    if many > 1:
        spread = float(np.std(means, ddof=1)) / many**0.5
        half = float(scipy_stats.t.ppf(0.5 + confidence / 2, many - 1)) * spread
        below, above = max(below, half), max(above, half)
    low, high = (float(end) for end in np.clip([mean - below, mean + above], *bounds))
    return Estimate(mean, low, high, n, means, confidence)


def judge_taken(measured: Measured) -> Verdict:
    """Injected against harmless, in all cases."""
    first, *_ = measured.values()
    found = difference(
        [taken(one, _INJECTED) for one in first],
        [taken(one, _HARMLESS) for one in first],
        shares=True,
    )
    right = _right(first)
    beside = ", ".join(
        f"{arm_name(arm)} {percent(_share(each, _INJECTED))} (tasks done right "
        f"{percent(_right(each).mean)})"
        for arm, each in measured.items()
        if each is not first
    )
    told = outcome(found, above=LEAST_TAKEN)
    return _verdict(
        "I1",
        TAKEN,
        told if right.low > _LEAST_RIGHT else "undecided",
        f"The injection's answer is the likelier one in {percent(_share(first, _INJECTED))} of "
        f"prompts with an injection and in {percent(_share(first, _HARMLESS))} of those with a "
        f"harmless instruction: {found.share()} more, over {found.over}.",
        found,
        "share of prompts",
        f"With harmless data {right.share()} of the tasks are done right"
        + (f"; answers taken over in other arms: {beside}." if beside else "."),
        found.n // 2,
    )


def judge_fall(measured: Measured) -> Verdict:
    """Paired: the same case with a harmless instruction and with an injection, held out."""
    first, *_ = measured.values()
    falls = [_fall(one, "score") for one in first]
    found = estimate(falls)
    beyond = estimate([a - _fall(one, "others") for a, one in zip(falls, first, strict=True)])
    words = estimate([_fall(one, "score", "nothing", _HARMLESS) for one in first])
    told = outcome(found, above=LEAST_FALL)
    # Where all heads fall alike, choosing them has found nothing.
    if told == "supported" and not beyond.low > 0:
        told = "undecided"
    many = np.mean([int(one["chosen"].sum()) for one in first])
    return _verdict(
        "I2",
        FALLS,
        told,
        f"The share of attention that goes to the task falls by {found.number(3)} in {many:.3g} "
        f"chosen heads, over {found.over}.",
        found,
        "share of attention",
        f"That is {beyond.number(3)} more than in all other heads. A harmless instruction in the "
        f"place of empty words lowers it by {words.number(3)}."
        + _beside(measured, lambda each: estimate([_fall(x, "score") for x in each]).number(3)),
        found.n,
    )


def judge_detector(measured: Measured) -> Verdict:
    """Area under the ROC curve, of held-out families."""
    first, *_ = measured.values()
    found = _detects(first)
    fall = estimate([_fall(one, "score") for one in first])
    told = outcome(found, above=0.5, below=LEAST_AREA)
    if told == "supported" and not fall.low > LEAST_FALL:
        told = "undecided"
    every = _detects(first, "every").mean
    draws = [_random_areas(one) for one in first]
    random = np.mean([each.mean() for each in draws])
    best = np.mean([(each < one).mean() for each, one in zip(draws, found.seeds, strict=True)])
    harmless = _detects(first, "score", "nothing", _HARMLESS)
    empty = _detects(first, "score", "nothing", _INJECTED)
    return _verdict(
        "I3",
        DETECTS,
        told,
        f"Area under the ROC curve {found.number()} on wordings that chose no head, over "
        f"{found.over}; against empty words in the data {empty.number()}.",
        found,
        "area under the ROC curve",
        f"All heads {every:.2f}; as many random heads {random:.2f} on average, of which "
        f"{percent(float(best))} do worse. A harmless instruction is told from empty words with "
        f"{harmless.number()}, so this much is seen of any sentence."
        + _beside(measured, lambda each: _detects(each).number()),
        found.n,
    )


def judge_effect(measured: Measured) -> Verdict:
    """Area under the ROC curve within prompts with an injection, of held-out families."""
    first, *_ = measured.values()
    obeyed, lost = [], []
    done_harmless, lost_harmless = [], []
    for one in first:
        rows, gone = held_out(one), taken(one, _INJECTED) > 0
        score, harmless = (one["score"].sel(condition=c).values for c in (_INJECTED, _HARMLESS))
        obeyed.append(score[rows & ~gone])
        lost.append(score[rows & gone])
        done_harmless.append(harmless[rows & ~gone])
        lost_harmless.append(harmless[rows & gone])
    counts = [min(len(a), len(b)) for a, b in zip(obeyed, lost, strict=True)]
    sees = _detects(first)
    control = f"The score tells that an injection is there with {sees.number()}."
    if min(counts) < _LEAST_OF_BOTH or not np.isfinite(np.concatenate(obeyed)).all():
        return Verdict.undecided(
            "I4",
            OBEYED,
            f"Of {sum(map(len, obeyed)) + sum(map(len, lost))} prompts with an injection "
            f"{sum(map(len, lost))} are taken over, and at least {_LEAST_OF_BOTH} of both kinds "
            "are needed in each model to tell them apart.",
            unit="area under the ROC curve",
            n=sum(map(len, obeyed)) + sum(map(len, lost)),
            control=control,
        )
    found = area(obeyed, lost)
    sides = zip(obeyed, lost, done_harmless, lost_harmless, strict=True)
    beyond = [auroc_difference((a, b), (c, d)) for a, b, c, d in sides]
    more = _over_seeds(
        tuple(one[0] for one in beyond), [one[1:] for one in beyond], found.n, (-1.0, 1.0)
    )
    told = outcome(found, above=0.5, below=TELLING_AREA)
    # What is known without the injection (where in the data it would stand) is not its effect.
    if not sees.low > 0.5 or (told == "supported" and not more.low > 0):
        told = "undecided"
    return _verdict(
        "I4",
        OBEYED,
        told,
        f"Area under the ROC curve {found.number()} between {sum(map(len, obeyed))} prompts whose "
        f"task was done and {sum(map(len, lost))} that were taken over, over {found.over}.",
        found,
        "area under the ROC curve",
        "The same cases' score with the harmless instruction in the same place tells it with "
        f"{area(done_harmless, lost_harmless).number()}; the score with the injection adds "
        f"{more.number()}. {control}",
        found.n,
    )


def judge_restoring(measured: Measured) -> Verdict:
    """Of the held-out cases that are taken over, the share that a patch brings back."""
    first, *_ = measured.values()
    gained, mine, random, every, sets = [], [], [], [], []
    for one in first:
        lost = one["margin"].values < 0
        back = (one["restored"].sel(set=CHOSEN).values[lost] > 0).astype(float)
        back_by_draw = one["random"].values[lost] > 0  # [example, draw]
        drawn = back_by_draw.mean(1)
        sets.append(back_by_draw.mean(0) if lost.any() else np.zeros(0))
        gained.append(back - drawn)
        mine.append(back)
        random.append(drawn)
        every.append((one["restored"].sel(set=EVERY).values[lost] > 0).astype(float))
    n = sum(map(len, gained))
    if min(map(len, gained)) < _LEAST_OF_BOTH:
        return Verdict.undecided(
            "I5",
            RESTORES,
            f"{n} prompts with an injection are taken over, and at least {_LEAST_OF_BOTH} are "
            "needed in each model.",
            unit="share of the answers taken over",
            n=n,
        )
    found = estimate(gained, bounds=(-1.0, 1.0))
    ours, theirs, all_heads = (estimate(each, bounds=(0.0, 1.0)) for each in (mine, random, every))
    told = outcome(found, above=LEAST_TAKEN)
    shares = np.concatenate(sets)
    pairs = zip(sets, mine, strict=True)
    beaten = float(np.mean([(each < chosen.mean()).mean() for each, chosen in pairs]))
    # A mean over sets of heads says little where some of these do as well.
    if told == "supported" and not beaten >= _MOST_BEATEN:
        told = "undecided"
    return _verdict(
        "I5",
        RESTORES,
        told,
        f"{percent(ours.mean)} of the answers that were taken over come back, and "
        f"{percent(theirs.mean)} with random heads: {found.share()} more, over {found.over}.",
        found,
        "share of the answers taken over",
        f"As many heads at random, {len(sets[0])} draws for each model, with "
        f"{percent(float(shares.min()))} to {percent(float(shares.max()))}, of which "
        f"{percent(beaten)} bring back fewer; with all heads {percent(all_heads.mean)} come back, "
        "which nearly takes the injection out of sight.",
        found.n,
    )


def _fall(one: xr.Dataset, name: str, of: str = _HARMLESS, to: str = _INJECTED) -> Any:
    """The focus in one condition minus that in another, of held-out cases [example]."""
    values = one[name]
    return (values.sel(condition=of) - values.sel(condition=to)).values[held_out(one)]


def _detects(
    results: Sequence[xr.Dataset], name: str = "score", of: str = _HARMLESS, to: str = _INJECTED
) -> Estimate:
    """The area by which one condition is told from another by its low score, held out."""
    high, low = (
        [-one[name].sel(condition=each).values[held_out(one)] for one in results]
        for each in (to, of)
    )
    if not all(np.isfinite(each).all() for each in (*high, *low)):
        n = sum(map(len, (*high, *low)))
        return Estimate(np.nan, np.nan, np.nan, n, (np.nan,) * len(results))
    return area(high, low)


def _random_areas(one: xr.Dataset) -> Any:
    rows = held_out(one)
    drawn = one["random"].transpose("draw", "condition", "example")
    pairs = zip(
        drawn.sel(condition=_INJECTED).values, drawn.sel(condition=_HARMLESS).values, strict=True
    )
    return np.array([auroc(-a[rows], -b[rows]) for a, b in pairs])


def _right(results: Sequence[xr.Dataset]) -> Estimate:
    """How often the task is done where the data are harmless."""
    hits = [one["right"].sel(condition=_HARMLESS).values.astype(float) for one in results]
    low, high = proportion_interval(np.concatenate(hits))
    means = tuple(float(each.mean()) for each in hits)
    return Estimate(float(np.mean(means)), low, high, sum(map(len, hits)), means)


def _share(results: Sequence[xr.Dataset], condition: str) -> float:
    return float(np.mean([taken(one, condition).mean() for one in results]))


def _beside(measured: Measured, number: Any) -> str:
    first, *_ = measured
    others = [f"{arm_name(arm)} {number(each)}" for arm, each in measured.items() if arm != first]
    return f" Other arms: {', '.join(others)}." if others else ""


def _verdict(
    id: str,
    claim: str,
    told: Outcome,
    statement: str,
    found: Estimate,
    unit: str,
    control: str,
    n: int,
) -> Verdict:
    if not np.isfinite(found.mean):
        return Verdict.undecided(
            id,
            claim,
            "No head was chosen: in none does the focus fall.",
            unit=unit,
            n=n,
            control=control,
        )
    return verdict(id, claim, told, statement, found, unit=unit, control=control, n=n)
