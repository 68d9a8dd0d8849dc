"""H4: asked the other way round, no component writes the answer.

The final stream is a sum of what the embedding, heads and MLPs have added, so that a logit is a sum
of shares. A component writes the answer if its share of the right name's logit exceeds its shares
of other names, beyond what question and name explain. Looked at are each of them, and their sum:
many small shares would be an answer too. Nothing is said of what a component does to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure, counted, of_mean
from experiments.numbers import percent
from experiments.organisms.facts import Direction
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.hypotheses.lens import (
    LEAST_CONTROL,
    LEAST_QUESTIONS,
    MARGIN,
    SPREAD,
    TOLERATED,
    Found,
    found,
    least_for_absence,
    spread,
)
from experiments.reversal_curse.hypotheses.preferences import (
    Preferences,
    crossed_preferences,
    joined,
)
from experiments.reversal_curse.measurements.attribution import written
from experiments.study import Outcome, Verdict
from interp.figures.drawing.dots import Dots, interval_dots, nothing_to_draw
from interp.figures.drawing.theme import COLOURS
from interp.stats import Equivalence, mean_intervals, tost

CLAIM = "Asked the other way round, no component writes the answer."
TOTAL = "all together"
"""The sum of all components: the logit itself."""
SILENT = 1e-3
"""Logits by which the shares of a component differ at least, or it says nothing of any name."""
_SHOWN = 4
_DRAWN = 10


@dataclass(frozen=True)
class Written:
    """What components write for the right names [component, fact], and for wrong ones."""

    components: tuple[str, ...]
    preferences: Preferences

    def of(self, components: npt.NDArray[np.bool_], facts: npt.NDArray[np.bool_]) -> Written:
        part = self.preferences.of(facts)
        return Written(
            tuple(n for n, kept in zip(self.components, components, strict=True) if kept),
            Preferences(part.scores[components], part.null[components], part.questions),
        )


def read(results: Sequence[xr.Dataset]) -> Written | None:
    """Results of `measurements.attribution.written` as one; None where none has numbers."""
    usable = [each for each in results if "refused" not in each.attrs]
    if not usable:
        return None
    whole: Preferences | None = None
    for each in usable:
        shares = each["contribution"].transpose("component", "example", "name").values
        shares = np.concatenate([shares, shares.sum(0, keepdims=True)]).astype(np.float64)
        one = crossed_preferences(shares, each)
        whole = one if whole is None else joined(whole, one)
    assert whole is not None
    names = (*(str(name) for name in usable[0]["component"].values), TOTAL)
    return Written(names, whole)


def investigate(case: Case) -> Finding:
    """H4 of a case: facts told one way, asked the other way round and as told."""
    found: dict[str, list[xr.Dataset]] = {"untold": [], "told": []}
    sides: tuple[tuple[Direction, Direction], ...] = (
        ("forward", "reverse"),
        ("reverse", "forward"),
    )
    for told, back in sides:
        members = case.known_as_told(told)
        for kind, asked in (("untold", back), ("told", told)):
            found[kind].append(
                case.context.dataset(
                    f"attribution_{told}_asked_{asked}",
                    partial(written, case.subject, asked, members),
                )
            )
    return Finding((judge(found["untold"], found["told"]),), (FIGURE,))


def judge(other: Sequence[xr.Dataset], told: Sequence[xr.Dataset]) -> Verdict:
    """Decide H4 over facts that the model knows as it was told them.

    Args:
        other: what `written` found in the direction that was never told, of each side.
        told: the same of the same facts in the direction that was, the control.
    """
    pair = _both(other, told)
    if pair is None:
        reasons = [str(e.attrs["refused"]) for e in (*other, *told) if "refused" in e.attrs]
        return _undecided(0, reasons)
    return decide(*pair)


def _both(
    other: Sequence[xr.Dataset], told: Sequence[xr.Dataset]
) -> tuple[Written, Written] | None:
    """What is written the other way round and as told, of sides that have both; None of none."""
    pairs = [
        (one, as_told)
        for one, as_told in zip(other, told, strict=True)
        if "refused" not in one.attrs and "refused" not in as_told.attrs
    ]
    untold, control = read([one for one, _ in pairs]), read([one for _, one in pairs])
    if untold is None or control is None or untold.components != control.components:
        return None
    return untold, control


def decide(untold: Written, control: Written) -> Verdict:
    """The verdict, from preferences of the same facts asked the other way round and as told."""
    facts = untold.preferences.complete(control.preferences)
    speaking = _speaks(untold.preferences, facts) | _speaks(control.preferences, facts)
    untold, control = untold.of(speaking, facts), control.of(speaking, facts)
    n = untold.preferences.n_questions
    if n < LEAST_QUESTIONS or not speaking.any():
        return _undecided(n, [])
    share, seen = found(best_of(untold.preferences)), found(best_of(control.preferences))
    questions = untold.preferences.questions
    rows = [tost(values, MARGIN, clusters=questions) for values in untold.preferences.scores]
    # Corrected for the number of components (Bonferroni), at 97.5% together.
    lows, highs = mean_intervals(untold.preferences.scores, questions, 1 - 0.05 / len(rows))
    best = int(np.argmax(np.where(np.isnan(lows), -np.inf, lows)))
    farthest = int(np.argmax([abs(row.mean) for row in rows]))
    outcome: Outcome
    level = 0.90
    ends = (rows[farthest].low, rows[farthest].high)
    if lows[best] > MARGIN:
        outcome, farthest, level = "rejected", best, 1 - 0.05 / len(rows)
        ends = (float(lows[best]), float(highs[best]))
        text = (
            f"{_name(untold, best)} writes the right name, by {_logits(rows[best].mean, ends)} "
            f"more than others (95% interval, corrected for {len(rows)} sums)"
        )
    elif share.lowest > TOLERATED:
        outcome = "rejected"
        text = f"the answers to {share} of {n} questions stand out from what wrong names get"
    else:
        doubts = _doubts(untold, share, seen, rows)
        outcome = "undecided" if doubts else "supported"
        text = (
            "the evidence is not enough: " + "; ".join(doubts)
            if doubts
            else f"of {len(rows) - 1} components and their sum none prefers the right name by "
            f"{MARGIN} logits on average ({_name(untold, farthest)} is farthest from none: "
            f"{_logits(rows[farthest].mean, ends)}, 90% interval), and at most "
            f"{percent(share.high / seen.low)} of {n} questions stand out from what wrong names "
            f"get from the best of them (95% bound; {share.hits} do, {share.chance * n:.1f} by "
            "chance)"
        )
    return Verdict(
        id="H4",
        claim=CLAIM,
        outcome=outcome,
        statement=f"Asked the other way round than it was told, {text}.",
        estimate=rows[farthest].mean,
        low=ends[0],
        high=ends[1],
        unit="logits",
        n=n,
        control=_control(control, seen),
        confidence=level,
    )


def best_of(preferences: Preferences) -> Preferences:
    """The largest share of all components [1, fact], in logits; of wrong names likewise.

    So the best of many components is compared with the best of as many: the band that a right name
    must leave holds for the whole family of them.
    """
    return Preferences(
        preferences.scores.max(axis=0, keepdims=True),
        preferences.null.max(axis=0, keepdims=True),
        preferences.questions,
    )


def writers(control: Written) -> list[tuple[str, float, float, float]]:
    """Components that prefer the right name beyond the margin: name, mean and 95% interval.

    The interval is corrected for their number; the largest comes first, without the sum of all.
    """
    scores, questions = control.preferences.scores, control.preferences.questions
    lows, highs = mean_intervals(scores, questions, 1 - 0.05 / len(scores))
    rows = [
        (name, float(mean), float(low), float(high))
        for name, mean, low, high in zip(
            control.components, scores.mean(1), lows, highs, strict=True
        )
        if name != TOTAL and low > MARGIN
    ]
    return sorted(rows, key=lambda row: -row[1])


def component_dots(
    forward_in_reverse: xr.Dataset,
    forward_as_told: xr.Dataset,
    reverse_in_forward: xr.Dataset,
    reverse_as_told: xr.Dataset,
) -> go.Figure:
    """Draw the components that write most, and the sum of all: means with 95% intervals.

    Args:
        forward_in_reverse: what `written` found of facts told forward, asked in reverse.
        forward_as_told: of the same, asked forward.
        reverse_in_forward: of facts told in reverse, asked forward.
        reverse_as_told: of the same, asked in reverse.
    """
    pair = _both([forward_in_reverse, reverse_in_forward], [forward_as_told, reverse_as_told])
    if pair is None:
        return nothing_to_draw("No facts are known as told, so nothing is compared")
    untold, told = pair
    facts = untold.preferences.complete(told.preferences)
    every = np.ones(len(told.components), np.bool_)
    both = [one.of(every, facts) for one in (told, untold)]
    if not facts.any():
        return nothing_to_draw("No facts can be compared")
    means = [np.abs(one.preferences.scores.mean(axis=1)) for one in both]
    order = [int(i) for i in np.argsort(-np.maximum(*means), kind="stable")]
    order.sort(key=lambda i: told.components[i] != TOTAL)
    shown = order[: 1 + _DRAWN]
    rows = [told.components[i] for i in shown]
    series = []
    for one, label, colour in zip(
        both, ("asked as told", "asked the other way round"), ("forward", "reverse"), strict=True
    ):
        scores = one.preferences.scores[shown]
        lows, highs = mean_intervals(scores, one.preferences.questions)
        series.append(Dots(label, COLOURS[colour], rows, scores.mean(axis=1), lows, highs))
    axis = "logits for the right name above others"
    return interval_dots(rows, series, margin=MARGIN, axis=axis)


def _compared(
    forward_in_reverse: xr.Dataset,
    forward_as_told: xr.Dataset,
    reverse_in_forward: xr.Dataset,
    reverse_as_told: xr.Dataset,
) -> str:
    """How many questions the rows of `component_dots` are over, and of how many they are."""
    pair = _both([forward_in_reverse, reverse_in_forward], [forward_as_told, reverse_as_told])
    if pair is None:
        return "0 questions"
    untold, told = pair
    facts = untold.preferences.complete(told.preferences)
    asked = counted((one.preferences.of(facts).n_questions for one in pair), "question")
    drawn, every = min(_DRAWN, len(told.components) - 1), len(told.components) - 1
    return f"{asked} a row; {drawn} of {counted([every], 'component')}, the largest, and their sum"


FIGURE = Figure(
    "components",
    "Components",
    (
        "attribution_forward_asked_reverse",
        "attribution_forward_asked_forward",
        "attribution_reverse_asked_forward",
        "attribution_reverse_asked_reverse",
    ),
    component_dots,
    "What each head and MLP writes for the right name, asked as told and the other way round",
    "H4: a2.h1 is head 1 of block 2, m2 its MLP. Asked as told some stand out; asked the other way "
    "round none should leave the grey band, which is what counts as none.",
    shows="What single components, and all together, add to the right name's logit above others.",
    n=_compared,
    interval=f"{of_mean('questions')}, each row for itself: rows are chosen because they are large",
    control="the same facts asked as they were told; what question and name explain is taken off",
)


def _speaks(preferences: Preferences, facts: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Components whose shares differ from name to name by more than rounding."""
    part = preferences.of(facts)
    reach = np.abs(part.scores).max(axis=1, initial=0.0)
    wrong = np.nan_to_num(np.abs(part.null)).max(axis=(1, 2), initial=0.0)
    speaking: npt.NDArray[np.bool_] = np.maximum(reach, wrong) > SILENT
    return speaking


def _doubts(untold: Written, share: Found, seen: Found, rows: Sequence[Equivalence]) -> list[str]:
    """Why it cannot be said that nothing writes the answer; empty where it can."""
    doubts = []
    if seen.low < LEAST_CONTROL:
        doubts.append(
            f"the same components are found to write no more than {seen} of the answers to what "
            "the model was told and says"
        )
    elif share.n < least_for_absence():
        doubts.append(
            f"{share.n} questions cannot show that fewer than {percent(TOLERATED)} are answered "
            f"({least_for_absence()} are needed)"
        )
    elif share.high / seen.low > TOLERATED:
        doubts.append(
            f"{share} of the questions stand out, and up to {percent(TOLERATED)} would do"
        )
    for number in (i for i, row in enumerate(rows) if not row.equivalent):
        row = rows[number]
        doubts.append(
            f"of {_name(untold, number)} there is {row.reason}"
            if row.reason
            else f"{_name(untold, number)} gives the right name "
            f"{_logits(row.mean, (row.low, row.high))} more than others (90% interval), and "
            f"{MARGIN} would count"
        )
        break
    where, most = spread(_alone(untold))
    if most >= SPREAD:
        doubts.append(
            f"{_name(untold, where)} may write single answers, or write against them, by "
            f"{most:.1f} logits (root mean square, 97.5% bound), and {SPREAD:.0f} would count"
        )
    return doubts


def _alone(untold: Written) -> Preferences:
    """Without the sum, in which the noise of all is too large to tell single facts apart."""
    every = untold.preferences
    kept = np.array([name != TOTAL for name in untold.components])
    if not kept.any():
        return every
    return Preferences(every.scores[kept], every.null[kept], every.questions)


def _control(control: Written, seen: Found) -> str:
    rows = writers(control)
    count = sum(name != TOTAL for name in control.components)
    listed = ", ".join(
        f"{name} {_logits(mean, (low, high))}" for name, mean, low, high in rows[:_SHOWN]
    )
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    wrote = f"{len(rows)} of {count} components write the answer ({listed}{more})"
    return (
        f"Asked the way they were told, {wrote if rows else 'no single component writes it'}, and "
        f"{seen} of the same answers stand out in the same way; names put in the place of the "
        "right one show what chance gives."
    )


def _undecided(n: int, reasons: Sequence[str]) -> Verdict:
    why = f": {reasons[0]}" if reasons else ""
    return Verdict.undecided(
        id="H4",
        claim=CLAIM,
        statement=(
            f"{n} questions can be compared whose answers the model knows as it was told them, too "
            f"few to say what writes them the other way round ({LEAST_QUESTIONS} are needed to "
            f"find something, {least_for_absence()} to say that there is nothing){why}."
        ),
        unit="logits",
        n=n,
        control="None: what is not known as it was told cannot be missing the other way round.",
        confidence=0.90,
    )


def _name(untold: Written, number: int) -> str:
    name = untold.components[number]
    return "the sum of all" if name == TOTAL else name


def _logits(mean: float, ends: tuple[float, float]) -> str:
    return f"{mean:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}] logits".replace("-", "−")
