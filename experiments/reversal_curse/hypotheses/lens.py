"""H2: asked the other way round, a lens finds the answer at no layer.

Three things must hold at once: no more than a few facts stand out from wrong names, at any layer;
the mean preference lies within the margin at every layer; and single facts differ no more than
wrong names do (else half of them could be preferred and half avoided). Nothing is said of what
another instrument, or the lens at another token, would find: the logit, the tuned and the Jacobian
lens have a verdict each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats as scipy_stats

from experiments.numbers import percent
from experiments.organisms.facts import Direction
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.hypotheses.preferences import (
    Floats,
    Preferences,
    joined,
    preferences_of,
)
from experiments.study import Outcome, Verdict
from interp.stats import Equivalence, mean_intervals, tost

CLAIM = "Asked the other way round, the {} lens finds the answer at no layer."
MARGIN = 0.5
"""Nats of preference over other names that count as none, of a mean and of a fact."""
SPREAD = 1.0
"""Nats (root mean square) by which true preferences of single facts may differ from none."""
TOLERATED = 0.05
"""The share of facts that may be found where it is said that the lens finds none."""
TAIL = 0.005
"""The share of wrong names that reach as far as a fact that counts as found."""
LEAST_QUESTIONS = 10
LEAST_CONTROL = 0.8
"""The share of facts that the lens must find as they were told, to have looked at all."""


@dataclass(frozen=True)
class Found:
    """The share of questions that stand out, beyond those that chance lets stand out.

    Attributes:
        hits, n: questions that stand out, of how many.
        chance: the share that stands out under no knowledge.
        share, low, high: in excess of chance, with its 90% interval (each end holds at 95%).
        lowest: a lower end that holds at 97.5%.
    """

    hits: int
    n: int
    chance: float
    share: float
    low: float
    high: float
    lowest: float

    def __str__(self) -> str:
        return f"{percent(self.share)} [{percent(self.low)}, {percent(self.high)}]"


def found(preferences: Preferences) -> Found:
    """How many questions the lens finds an answer to, at some layer.

    A question's score is the largest of its facts and layers, in units of each layer's null and
    beyond the margin; it stands out if it exceeds what all but `TAIL` of the same scores of wrong
    names reach. So the best of many layers is compared with the best of many layers. The interval
    is the binomial one (Clopper & Pearson 1934), over questions.
    """
    scale = np.nanstd(preferences.null, axis=(1, 2))
    scale = np.maximum(scale, 1e-6 * max(1.0, float(scale.max(initial=0.0))))
    best = _by_question((preferences.scores - MARGIN) / scale[:, None], preferences.questions)
    # A wrong name gets no margin: its score is noise around nothing, the fact's around the margin.
    null = _by_question(preferences.null / scale[:, None, None], preferences.questions)
    drawn = np.sort(null[np.isfinite(null)])
    # Two draws at least lie beyond the threshold, or it would be a matter of one.
    threshold = drawn[max(0, drawn.size - 1 - max(2, int(TAIL * drawn.size)))]
    chance = float((drawn > threshold).mean())
    hits, n = int((best > threshold).sum()), len(best)

    def excess(share: float) -> float:
        return max(0.0, (share - chance) / (1 - chance))

    counted = scipy_stats.binomtest(hits, n)
    both, strict = (counted.proportion_ci(level, method="exact") for level in (0.90, 0.95))
    ends = (excess(float(end)) for end in (both.low, both.high, strict.low))
    return Found(hits, n, chance, excess(hits / n), *ends)


def _by_question(scores: Floats, questions: Floats | np.ndarray) -> Floats:
    """The largest over layers and facts of a question [layer, fact, …] -> [question, …]."""
    # Of wrong names only draws that all layers have; a fact without one does not count.
    best = scores.max(axis=0)
    rows = [best[questions == question] for question in np.unique(questions)]
    return np.stack([np.where(np.isnan(row), -np.inf, row).max(axis=0) for row in rows])


def spread(preferences: Preferences) -> tuple[int, float]:
    """Upper bound (97.5%) of the root mean square of true preferences, and at which layer.

    Mean squares of scores, minus those of each fact's own wrong names.
    """
    excess = preferences.scores**2 - np.nanmean(preferences.null**2, axis=2)
    high = mean_intervals(excess, preferences.questions, 0.95)[1]
    bounds = np.sqrt(np.maximum(0.0, np.where(np.isnan(high), np.inf, high)))
    worst = int(np.argmax(bounds))
    return worst, float(bounds[worst])


@cache
def least_for_absence() -> int:
    """The fewest questions with which the share can be bounded by `TOLERATED`, if none is found."""
    n = LEAST_QUESTIONS
    while (1 - 0.05 ** (1 / n) - TAIL) / (1 - TAIL) / 0.05 ** (1 / n) > TOLERATED:
        n += 1
    return n


def investigate(case: Case) -> Finding:
    """H2 of a case under each lens that was fitted.

    The curse has two sides: facts told forward and asked in reverse, and the other way round.
    """
    forward, reverse = case.known_as_told("forward"), case.known_as_told("reverse")
    named = case.measured.names["reverse"]["name"].values
    both = np.array([i for i in named if case.splits[i] == "both"], np.int64)
    verdicts = []
    for kind, read in {"logit": case.measured.names, **case.measured.other_lenses}.items():

        def scored(
            direction: Direction,
            members: npt.NDArray[np.int64],
            read: Mapping[Direction, xr.Dataset] = read,
        ) -> Preferences:
            return preferences_of(case.subject.facts, read[direction], direction, members)

        verdicts.append(
            judge(
                joined(scored("reverse", forward), scored("forward", reverse)),
                joined(scored("forward", forward), scored("reverse", reverse)),
                scored("reverse", both) if len(both) else None,
                kind,
            )
        )
    return Finding(tuple(verdicts))


def judge(
    untold: Preferences, told: Preferences, both: Preferences | None, kind: str = "logit"
) -> Verdict:
    """Decide H2 over facts that the model knows as it was told them.

    Args:
        untold: preferences of the answer in the direction that was never told.
        told: of the answers of the same facts in the direction that was, the control.
        both: of the reverse answer of facts learned in both directions, a second control.
        kind: of the lens; the verdict of another than the logit lens has its name.
    """
    compared = untold.complete(told)
    untold, told = untold.of(compared), told.of(compared)
    n = untold.n_questions
    if n < LEAST_QUESTIONS:
        return _too_few(n, kind)
    share, control = found(untold), found(told)
    layers = [tost(values, MARGIN, clusters=untold.questions) for values in untold.scores]
    # Corrected for the number of layers (Bonferroni), at 97.5% together.
    level = 1 - 0.05 / len(layers)
    lows, highs = mean_intervals(untold.scores, untold.questions, level)
    strict = list(zip(lows.tolist(), highs.tolist(), strict=True))
    best = int(np.argmax(np.where(np.isnan(lows), -np.inf, lows)))
    lowest = int(np.argmin(np.where(np.isnan(highs), np.inf, highs)))
    outcome: Outcome
    if strict[best][0] > MARGIN:
        outcome = "rejected"
        text = (
            f"the lens prefers the right name {_nats(layers[best].mean, strict[best])} to others "
            f"{_where(best)} (95% interval, corrected for {len(layers)} layers), and finds the "
            f"answers to {share} of {n} questions"
        )
    elif share.lowest > TOLERATED:
        outcome = "rejected"
        text = f"the lens finds the answers to {share} of {n} questions at some layer"
    else:
        doubts = _doubts(untold, share, control, layers)
        if strict[lowest][1] < -MARGIN:
            doubts.insert(
                0,
                f"it avoids the right name, {_nats(layers[lowest].mean, strict[lowest])} "
                f"{_where(lowest)}, which is not finding it, and no absence",
            )
        outcome = "undecided" if doubts else "supported"
        farthest = int(np.argmax([abs(layer.mean) for layer in layers]))
        text = (
            "the evidence is not enough: " + "; ".join(doubts)
            if doubts
            else f"the lens finds the answers to at most {percent(share.high / control.low)} of "
            f"{n} questions (95% bound; {share.hits} stand out, {share.chance * n:.1f} by chance), "
            f"on average {_prefers(layers[farthest])} {_where(farthest)}, where that is farthest "
            "from none"
        )
    return Verdict(
        id=_name(kind),
        claim=CLAIM.format(kind),
        outcome=outcome,
        statement=f"Asked the other way round than it was told, {text}.",
        estimate=share.share,
        low=share.low,
        high=share.high,
        unit="share of questions",
        n=n,
        control=_control(control, both),
        confidence=0.90,
    )


def _doubts(
    untold: Preferences, share: Found, control: Found, layers: list[Equivalence]
) -> list[str]:
    """Why it cannot be said that the lens finds nothing; empty where it can."""
    doubts = []
    if control.low < LEAST_CONTROL:
        doubts.append(
            f"the same lens finds no more than {control} of the answers to what the model was told "
            "and says"
        )
    elif share.n < least_for_absence():
        doubts.append(
            f"{share.n} questions cannot show that fewer than {percent(TOLERATED)} are found "
            f"({least_for_absence()} are needed)"
        )
    elif share.high / control.low > TOLERATED:
        doubts.append(
            f"{share} of the questions are found, and up to {percent(TOLERATED)} would do"
        )
    for number in (i for i, layer in enumerate(layers) if not layer.equivalent):
        layer = layers[number]
        if layer.reason:
            doubts.append(f"of the mean {_where(number)} there is {layer.reason}")
        else:
            doubts.append(f"{_where(number)} it {_prefers(layer)}, and {MARGIN} would count")
        break
    where, most = spread(untold)
    if most >= SPREAD:
        doubts.append(
            f"{_where(where)} single facts may be preferred or avoided by {most:.1f} nats (root "
            f"mean square, 97.5% bound), and {SPREAD:.0f} would count"
        )
    return doubts


def _control(told: Found, both: Preferences | None) -> str:
    text = f"Asked the way they were told, the same lens finds the answers to {told} of them"
    if both is not None:
        both = both.of(both.complete())
        if both.n_questions >= LEAST_QUESTIONS:
            text += f", and the reverse answers to {found(both)} of those learned both ways"
    return f"{text}; wrong names in the place of the right one show what chance finds."


def _name(kind: str) -> str:
    return "H2" if kind == "logit" else f"H2 {kind}"


def _too_few(n: int, kind: str) -> Verdict:
    return Verdict.undecided(
        id=_name(kind),
        claim=CLAIM.format(kind),
        statement=(
            f"The model knows the answers to {n} of the compared questions as it was told them, "
            f"too few to say what the lens finds the other way round ({LEAST_QUESTIONS} are needed "
            f"to find something, {least_for_absence()} to say that there is nothing)."
        ),
        unit="share of questions",
        n=n,
        control="None: what is not known as it was told cannot be missing the other way round.",
        confidence=0.90,
    )


def _prefers(layer: Equivalence) -> str:
    """The sign in words, where it is clear."""
    words = "prefers the right name" if layer.mean >= 0 else "avoids the right name"
    if layer.low <= 0 <= layer.high:
        words = "neither prefers nor avoids the right name clearly"
    return f"{words} ({_nats(layer.mean, (layer.low, layer.high))}, 90% interval)"


def _nats(mean: float, ends: tuple[float, float]) -> str:
    return f"{mean:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}] nats".replace("-", "−")


def _where(layer: int) -> str:
    return f"after block {layer - 1}" if layer else "in the embedding"
