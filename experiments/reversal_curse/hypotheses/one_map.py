"""H9: where the curse is cured, one map serves both ways.

A map from what subjects store to their objects' names, and its transpose for the other way round
(`measurements.one_map`), on pairs that it was not fitted on, in the model with the curse and in the
one without. What is counted is how often the right name is preferred to another; chance is one
half.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from scipy import stats as scipy_stats

from experiments.figure import Figure, counted, of_mean
from experiments.organisms.facts import Direction
from experiments.reporter import Progress
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.one_map import mapped
from experiments.study import Outcome, Verdict
from interp.figures.drawing.dots import Dots, interval_dots, nothing_to_draw
from interp.figures.drawing.theme import COLOURS
from interp.generation.answers import score_answers
from interp.stats import mean_interval, mean_intervals

CLAIM = (
    "Where the curse is cured, one map serves both ways: fitted forward, its transpose retrieves "
    "the reverse; where it is not, at chance."
)
MARGIN = 0.15
"""Of the share of wrong names that the right one is preferred to: this near to one half is chance,
as in H3."""
LEAST_QUESTIONS = 20


@dataclass(frozen=True)
class Retrieved:
    """A mean share with its intervals of 95 and 90%."""

    mean: float
    low: float
    high: float
    low90: float
    high90: float
    n: int

    @classmethod
    def of(cls, found: xr.Dataset, way: Direction) -> Retrieved | None:
        """Means over questions; the error is never below what shuffled answers vary by."""
        if f"{way}_at" not in found:
            return None
        values, questions = found[f"{way}_at"].values, found["question"].values
        seen = np.isfinite(values)
        n = len(np.unique(questions[seen]))
        if n < LEAST_QUESTIONS:
            return None
        values, questions = values[seen], questions[seen]
        mean = float(values.mean())
        ends = []
        for confidence in (0.95, 0.90):
            low, high = mean_interval(values, questions, confidence)
            # Pairs of a fold share one map, so that they are not quite independent.
            wide = float(found[f"{way}_null"].std()) * scipy_stats.norm.ppf((1 + confidence) / 2)
            ends.append((max(0.0, min(low, mean - wide)), min(1.0, max(high, mean + wide))))
        return cls(mean, *ends[0], *ends[1], n)

    @property
    def at_chance(self) -> bool:
        return abs(self.low90 - 0.5) < MARGIN and abs(self.high90 - 0.5) < MARGIN

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def investigate(case: Case) -> Finding:
    """H9 of a case and its twin."""
    seed = case.context.seed_for("one map")
    known = case.measured.facts["forward_correct"].to_numpy(dtype=bool)
    members = case.known_as_told("forward")
    learned = np.union1d(members, np.nonzero(known & (case.splits == "both"))[0])
    cursed = case.context.dataset("one_map", partial(mapped, case.subject, members, learned, seed))
    twin = case.cured()
    cured = (
        None
        if twin is None
        else case.context.dataset("one_map_cured", partial(_of_twin, twin, seed))
    )
    verdict = judge(cursed, cured)
    return Finding((verdict,), (FIGURE if cured is not None else ALONE,))


def _of_twin(twin: Subject, seed: int, progress: Progress) -> xr.Dataset:
    known = known_forward(twin)
    split = np.array([fact.split for fact in twin.facts])
    members = np.nonzero(known & (split == "forward"))[0]
    learned = np.nonzero(known & np.isin(split, ("forward", "both")))[0]
    return mapped(twin, members, learned, seed, progress)


def known_forward(subject: Subject) -> npt.NDArray[np.bool_]:
    """Whether the model answers each fact forward, in the main template."""
    answers = [f" {fact.object}" for fact in subject.facts]
    found = score_answers(subject.model, subject.prompts("forward"), answers)
    right: npt.NDArray[np.bool_] = found["correct"].values
    return right


def judge(cursed: xr.Dataset, cured: xr.Dataset | None) -> Verdict:
    """Decide H9.

    Args:
        cursed: what `mapped` found in the model of the study.
        cured: of its twin that answers in reverse; None where there is none.
    """
    there, back = Retrieved.of(cursed, "forward"), Retrieved.of(cursed, "reverse")
    if there is None or back is None:
        why = str(cursed.attrs.get("refused", f"fewer than {LEAST_QUESTIONS} questions"))
        return _undecided(0, f"The map cannot be fitted and tested in this model: {why}.")
    beside = f"In this model the map retrieves {there} forward, and its transpose {back} in reverse"
    if cured is None:
        text = "There is no second model that was told the same facts and answers in reverse."
        return _undecided(back.n, f"{text} {beside}.")
    cured_there = Retrieved.of(cured, "forward")
    cured_back = Retrieved.of(cured, "reverse")
    if cured_there is None or cured_back is None:
        why = str(cured.attrs.get("refused", f"fewer than {LEAST_QUESTIONS} questions"))
        return _undecided(back.n, f"In the cured model the map cannot be tested: {why}. {beside}.")
    return decide(there, back, cured_there, cured_back)


def decide(
    there: Retrieved, back: Retrieved, cured_there: Retrieved, cured_back: Retrieved
) -> Verdict:
    """The verdict, from what is retrieved forward and in reverse, in both models."""
    control = (
        f"Forward, on the same pairs, the map prefers the right name to {there} of the others in "
        f"the model with the curse and to {cured_there} in the cured one (chance is 0.50)."
    )
    n = min(back.n, cured_back.n)
    numbers = f"{cured_back} in the cured model, {back} in the one with the curse"
    failing = [
        name
        for name, one in (("with the curse", there), ("that is cured", cured_there))
        if not one.low > 0.5 + MARGIN
    ]
    if failing:
        return _undecided(
            n,
            f"The map does not retrieve forward, in the model {failing[0]}, what it was fitted "
            f"for, so that its transpose tells nothing (transposed: {numbers}).",
            control,
        )
    gap = cured_back.mean - back.mean
    error = np.hypot(cured_back.mean - cured_back.low, back.high - back.mean)
    outcome: Outcome = "undecided"
    shown, level = cured_back, 0.95
    if back.low > 0.5 + MARGIN:
        outcome, shown = "rejected", back
        text = f"the transpose retrieves the reverse in the model with the curse, too: {numbers}"
    elif cured_back.at_chance:
        outcome, level = "rejected", 0.90
        text = (
            f"the transpose retrieves nothing in the cured model either ({numbers}): what it "
            "answers in reverse is not kept in the code of what it answers forward, as far as "
            "linear maps see"
        )
    elif cured_back.low > 0.5 and back.at_chance and gap - error > 0:
        outcome = "supported"
        text = f"the transpose retrieves the reverse where it is cured, and only there: {numbers}"
    else:
        text = f"the evidence is not enough: {numbers}; within {MARGIN} of 0.50 would be chance"
    low, high = (shown.low, shown.high) if level == 0.95 else (shown.low90, shown.high90)
    return Verdict(
        id="H9",
        claim=CLAIM,
        outcome=outcome,
        statement=f"On pairs that it was not fitted on, {text}.",
        estimate=shown.mean,
        low=low,
        high=high,
        unit="share of wrong names beaten",
        n=n,
        control=control,
        confidence=level,
    )


def one_map_dots(*models: xr.Dataset) -> go.Figure:
    """Draw how often the right name is preferred, by layer, above chance.

    Args:
        models: what `mapped` found in the model of the study, and in its cured twin.
    """
    named = list(zip(("with the curse", "cured"), models, strict=False))
    named = [(name, one) for name, one in named if "forward_at" in one]
    if not named:
        return nothing_to_draw("No map can be fitted and tested")
    rows = [f"{name}, after block {layer}" for name, one in named for layer in one["layer"].values]
    series = []
    ways: tuple[tuple[Direction, str], ...] = (
        ("forward", "M, forward"),
        ("reverse", "its transpose, in reverse"),
    )
    for way, label in ways:
        means, lows, highs = [], [], []
        for _, one in named:
            seen = np.isfinite(one[way].values).all(axis=1)
            values = one[way].values[seen].T - 0.5
            low, high = mean_intervals(values, one["question"].values[seen])
            means += list(values.mean(1))
            lows += list(low)
            highs += list(high)
        series.append(Dots(label, COLOURS[way], rows, means, lows, highs))
    axis = "share of wrong names that the right one is preferred to, above chance (0.5)"
    return interval_dots(rows, series, margin=MARGIN, axis=axis)


def _mapped_questions(*models: xr.Dataset) -> str:
    counts = [
        len(np.unique(one["question"].values[np.isfinite(one[way].values).all(axis=1)]))
        for one in models
        if "forward_at" in one
        for way in ("forward", "reverse")
    ]
    return counted(counts, "question") + " a row"


_SHOWS = "How often one linear map prefers the right name: forward, and transposed in reverse."
_INTERVAL = (
    f"{of_mean('questions')}; the verdict's is no narrower than shuffled answers vary, since pairs "
    "that were tested together share a map"
)
_CAPTION = (
    "H9: the map leads from what stands at subjects' last tokens to their objects' names, and is "
    "tested on pairs that it was not fitted on. The grey band is what counts as chance. "
)
FIGURE = Figure(
    "one_map",
    "One map",
    ("one_map", "one_map_cured"),
    one_map_dots,
    "How often a map prefers the right name, forward and transposed in reverse, in both models",
    _CAPTION + "If one map served both ways where the curse is cured, the reverse would leave the "
    "band in the cured model and in no other.",
    shows=_SHOWS,
    n=_mapped_questions,
    interval=_INTERVAL,
    control="0: chance, one half; forward, what the map was fitted for; and the cured model",
)
ALONE = Figure(
    "one_map",
    "One map",
    ("one_map",),
    one_map_dots,
    "How often a map prefers the right name, forward and transposed in reverse",
    _CAPTION + "There is no cured model to compare with.",
    shows=_SHOWS,
    n=_mapped_questions,
    interval=_INTERVAL,
    control="0: chance, one half; and forward, what the map was fitted for",
)


def _undecided(n: int, statement: str, control: str = "") -> Verdict:
    return Verdict.undecided(
        id="H9",
        claim=CLAIM,
        statement=statement,
        unit="share of wrong names beaten",
        n=n,
        control=control or "None: there is nothing to compare.",
    )
