"""H6: what teaches a fact one way does not teach it the other way.

The gradient of the answer's log-probability as told, and the one of the answer asked the other way
round: does their cosine exceed that of two different facts? A cosine is the share that two steps of
equal length have in common. Means over facts are asked about; to first order, at these weights.
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
from experiments.organisms.facts import Direction
from experiments.reversal_curse.case import Case, Finding, known_both_ways
from experiments.reversal_curse.hypotheses.preferences import (
    Floats,
    Preferences,
    crossed_preferences,
    joined,
)
from experiments.reversal_curse.measurements.gradients import coupled
from experiments.study import Outcome, Verdict
from interp.figures.drawing.dots import Dots, interval_dots, nothing_to_draw
from interp.figures.drawing.theme import COLOURS
from interp.stats import mean_interval, tost

CLAIM = "The gradients of a fact's two directions are uncoupled."
MARGIN = 0.05
"""Of a cosine: of a step along one gradient less than a twentieth goes along the other."""
LEAST_CONTROL = 0.2
"""What the cosine of two wordings of one question must exceed: four times the margin."""
LEAST_QUESTIONS = 10


@dataclass(frozen=True)
class Coupling:
    """By how much cosines of one fact's gradients exceed those of two facts [fact]."""

    excess: Floats
    questions: npt.NDArray[np.int64]
    parameters: str = "mlp"

    @property
    def n_questions(self) -> int:
        return len(np.unique(self.questions))


def investigate(case: Case) -> Finding:
    """H6 of a case: the other direction, and another wording of the same one as control."""
    found: dict[str, list[xr.Dataset]] = {"other": [], "same": []}
    seed = case.context.seed_for("gradients")
    sides: tuple[tuple[Direction, Direction], ...] = (
        ("forward", "reverse"),
        ("reverse", "forward"),
    )
    for told, back in sides:
        members = case.known_as_told(told)
        for kind, asked in (("other", back), ("same", told)):
            found[kind].append(
                case.context.dataset(
                    f"gradients_{told}_asked_{asked}",
                    partial(coupled, case.subject, told, asked, members, seed),
                )
            )
    both = case.context.dataset(
        "gradients_both_asked_reverse",
        partial(coupled, case.subject, "forward", "reverse", known_both_ways(case), seed),
    )
    return Finding((judge(found["other"], found["same"], [both]),), (FIGURE,))


def read(results: Sequence[xr.Dataset]) -> Coupling | None:
    """Results of `measurements.gradients.coupled` as one; None where none has numbers."""
    usable = [each for each in results if "refused" not in each.attrs]
    if not usable:
        return None
    whole: Preferences | None = None
    for each in usable:
        named = [
            f"{w} {b}" for w, b in zip(each["words"].values, each["block"].values, strict=True)
        ]
        one = crossed_preferences(
            each["cosine"].transpose("example", "name").values[None].astype(np.float64),
            each.assign_coords(words=("example", named)),
        )
        whole = one if whole is None else joined(whole, one)
    assert whole is not None
    kept = whole.of(np.isfinite(whole.scores[0]))
    by = str(usable[0].attrs.get("parameters", "mlp"))
    return Coupling(kept.scores[0], kept.questions, by)


def judge(
    other: Sequence[xr.Dataset],
    same: Sequence[xr.Dataset],
    both: Sequence[xr.Dataset] = (),
) -> Verdict:
    """Decide H6 over facts that the model knows as it was told them.

    Args:
        other: what `coupled` found between the direction that was told and the other, of each side.
        same: the same between two wordings of the direction that was told, the control.
        both: the two directions of facts that were learned both ways, only to be told beside.
    """
    found, control = read(other), read(same)
    if found is None or control is None:
        reasons = [str(e.attrs["refused"]) for e in (*other, *same) if "refused" in e.attrs]
        return _undecided(0, reasons)
    return decide(found, control, read(both))


def decide(found: Coupling, control: Coupling, both: Coupling | None = None) -> Verdict:
    """The verdict, from excess cosines of the two directions and of two wordings."""
    n = found.n_questions
    if min(n, control.n_questions) < LEAST_QUESTIONS:
        return _undecided(min(n, control.n_questions), [])
    inside = tost(found.excess, MARGIN, clusters=found.questions)
    low, high = mean_interval(found.excess, found.questions)
    known = mean_interval(control.excess, control.questions)
    seen = _shown(float(control.excess.mean()), known)
    level, ends = 0.90, (inside.low, inside.high)
    outcome: Outcome
    if low > MARGIN or high < -MARGIN:
        outcome, level, ends = "rejected", 0.95, (low, high)
        text = (
            f"the cosine of the two directions lies {_shown(inside.mean, ends)} above that of two "
            "facts (95% interval)"
            if low > MARGIN
            else "the two directions pull against each other: their cosine lies "
            f"{_shown(inside.mean, ends)} from that of two facts (95% interval)"
        )
    elif not known[0] > LEAST_CONTROL:
        outcome = "undecided"
        text = (
            f"not even two wordings of one question have gradients that are clearly coupled "
            f"({seen}), so that nothing is known of two directions"
        )
    elif inside.equivalent:
        outcome = "supported"
        text = (
            f"the cosine of the two directions lies {_shown(inside.mean, ends)} from that of two "
            f"facts (90% interval), within ±{MARGIN}"
        )
    else:
        outcome = "undecided"
        text = (
            f"there is {inside.reason}"
            if inside.reason
            else f"the cosine of the two directions lies {_shown(inside.mean, ends)} from that of "
            f"two facts (90% interval), and {MARGIN} would count"
        )
    beside = ""
    if both is not None and both.n_questions >= LEAST_QUESTIONS:
        shown = _shown(float(both.excess.mean()), mean_interval(both.excess, both.questions))
        beside = f"; the two directions of facts learned both ways have one of {shown}"
    by = "matrices of the MLPs" if found.parameters == "mlp" else "all parameters"
    return Verdict(
        id="H6",
        claim=CLAIM,
        outcome=outcome,
        statement=f"By the {by}, {text}.",
        estimate=inside.mean,
        low=ends[0],
        high=ends[1],
        unit="cosine above that of two facts",
        n=n,
        control=(
            f"Two wordings of the question as told have a cosine of {seen} above that of two facts "
            f"(95% interval){beside}; pairs of different facts, asked in the same words, are what "
            "these are compared with."
        ),
        confidence=level,
    )


def gradient_dots(
    forward_asked_reverse: xr.Dataset,
    reverse_asked_forward: xr.Dataset,
    forward_asked_forward: xr.Dataset,
    reverse_asked_reverse: xr.Dataset,
    both: xr.Dataset,
) -> go.Figure:
    """Draw every fact's cosine above that of two facts, with means and 95% intervals.

    Args:
        forward_asked_reverse: what `coupled` found between the forward question of facts told
            forward, and their reverse question.
        reverse_asked_forward: of facts told in reverse, with their forward question.
        forward_asked_forward: of facts told forward, with another wording of their question.
        reverse_asked_reverse: of facts told in reverse, likewise.
        both: of facts told both ways, forward with reverse.
    """
    drawn = (
        (
            "two wordings of one direction",
            (forward_asked_forward, reverse_asked_reverse),
            "forward",
        ),
        ("two directions, one told", (forward_asked_reverse, reverse_asked_forward), "reverse"),
        ("two directions, both told", (both,), "both"),
    )
    series = []
    for label, results, colour in drawn:
        one = read(results)
        if one is not None and one.n_questions:
            low, high = mean_interval(one.excess, one.questions)
            mean = float(one.excess.mean())
            points = (one.excess,)
            series.append(Dots(label, COLOURS[colour], (label,), (mean,), (low,), (high,), points))
    if not series:
        return nothing_to_draw("No gradients can be compared")
    axis = "cosine of gradients above that of two facts"
    figure = interval_dots([one.name for one in series], series, margin=MARGIN, axis=axis)
    return figure.update_layout(showlegend=False)


def _coupled_questions(*results: xr.Dataset) -> str:
    """How many questions each row of `gradient_dots` is over, of its arguments."""
    back, forth, same, again, both = results
    rows = [read(one) for one in ((same, again), (back, forth), (both,))]
    return counted((one.n_questions for one in rows if one is not None), "question") + " a row"


FIGURE = Figure(
    "gradients",
    "Gradients",
    (
        "gradients_forward_asked_reverse",
        "gradients_reverse_asked_forward",
        "gradients_forward_asked_forward",
        "gradients_reverse_asked_reverse",
        "gradients_both_asked_reverse",
    ),
    gradient_dots,
    "What the gradients of two wordings, and of two directions, of a fact have in common",
    "H6: a small point is a fact, a large one the mean. The two directions of a fact have "
    "something in common only where their mean leaves the grey band, which is what counts as none.",
    shows="How far a step that teaches a fact one way is one that teaches it another way.",
    n=_coupled_questions,
    interval=of_mean("questions"),
    control="gradients of two different facts, asked in the same words, which are 0; and two "
    "wordings of one question, which show what can be seen at all",
)


def _undecided(n: int, reasons: Sequence[str]) -> Verdict:
    why = f": {reasons[0]}" if reasons else ""
    return Verdict.undecided(
        id="H6",
        claim=CLAIM,
        statement=(
            f"{n} questions can be compared whose answers the model knows as it was told them, and "
            f"{LEAST_QUESTIONS} are needed{why}."
        ),
        unit="cosine above that of two facts",
        n=n,
        confidence=0.90,
    )


def _shown(mean: float, ends: tuple[float, float]) -> str:
    return f"{mean:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]".replace("-", "−")
