"""H5: the weights lead from one name to the other, and not back.

Association of names through the weights alone (`measurements.association`), path by path, for the
two names of a fact beside wrong pairs of names. The unit of the weights is arbitrary, so that
scores are counted in standard deviations of wrong pairs. Asked about are means over facts; single
facts vary as much as wrong pairs do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from experiments.reversal_curse.measurements.association import WHOLE, associated
from experiments.study import Outcome, Verdict
from interp.figures.drawing.dots import Dots, interval_dots, nothing_to_draw
from interp.figures.drawing.theme import COLOURS
from interp.stats import mean_interval, mean_intervals, tost

CLAIM = "The weights lead from one name of a fact to the other as it was told, and not back."
MARGIN = 0.5
"""Standard deviations of wrong pairs: a mean that counts as none, or as something beyond it."""
LEAST_QUESTIONS = 20
"""Half of them choose the path, the other half judge it."""
_DRAWN = 10


@dataclass(frozen=True)
class Associated:
    """How much each path prefers the right name, in standard deviations of wrong pairs."""

    paths: tuple[str, ...]
    scores: Floats
    """[path, fact]."""
    questions: npt.NDArray[np.int64]

    @property
    def n_questions(self) -> int:
        return len(np.unique(self.questions))


def investigate(case: Case) -> Finding:
    """H5 of a case, with facts that were learned both ways, or never, beside it."""

    def found(name: str, direction: Direction, members: npt.NDArray[np.int64]) -> xr.Dataset:
        return case.context.dataset(
            f"association_{name}_{direction}",
            partial(associated, case.subject, direction, members),
        )

    forward, reverse = case.known_as_told("forward"), case.known_as_told("reverse")
    back = [found("told_forward", "reverse", forward), found("told_reverse", "forward", reverse)]
    there = [found("told_forward", "forward", forward), found("told_reverse", "reverse", reverse)]
    both = known_both_ways(case)
    named = case.measured.names["forward"]["name"].values
    never = np.array([i for i in named if case.splits[i] == "held_out"], np.int64)
    beside = {
        "learned both ways (forward)": [found("both", "forward", both)],
        "learned both ways (in reverse)": [found("both", "reverse", both)],
        "never learned": [found("held_out", "forward", never)],
    }
    return Finding((judge(back, there, beside),), (FIGURE,))


def read(results: Sequence[xr.Dataset]) -> Associated | None:
    """Results of `measurements.association.associated` as one; None where none has numbers."""
    usable = [each for each in results if "refused" not in each.attrs]
    if not usable:
        return None
    whole: Preferences | None = None
    for each in usable:
        one = crossed_preferences(
            each["association"].transpose("path", "example", "name").values.astype(np.float64), each
        )
        whole = one if whole is None else joined(whole, one)
    assert whole is not None
    return scaled(tuple(str(path) for path in usable[0]["path"].values), whole)


def scaled(paths: tuple[str, ...], preferences: Preferences) -> Associated:
    """In units of each path's wrong pairs, of facts that have a score on every path."""
    kept = preferences.of(preferences.complete())
    deviation = np.nanstd(kept.null, axis=(1, 2)) if kept.scores.size else np.ones(len(paths))
    # A path that says the same of all names says nothing of any.
    size = np.maximum(deviation, 1e-6 * max(float(deviation.max(initial=0.0)), 1e-30))
    return Associated(paths, kept.scores / size[:, None], kept.questions)


def judge(
    untold: Sequence[xr.Dataset],
    told: Sequence[xr.Dataset],
    others: Mapping[str, Sequence[xr.Dataset]] | None = None,
) -> Verdict:
    """Decide H5 over facts that the model knows as it was told them.

    Args:
        untold: what `associated` found from the answer back to the name that was asked about, of
            each side.
        told: the same of the same facts as they were told.
        others: facts of other kinds ("learned both ways"), only to be told beside.
    """
    pair = _both(untold, told)
    if pair is None:
        reasons = [str(e.attrs["refused"]) for e in (*untold, *told) if "refused" in e.attrs]
        return _undecided(0, reasons)
    return decide(*pair, _read_all(others or {}))


def _both(
    untold: Sequence[xr.Dataset], told: Sequence[xr.Dataset]
) -> tuple[Associated, Associated] | None:
    """What leads back and what as told, of sides that have both; None where none has."""
    pairs = [
        (one, as_told)
        for one, as_told in zip(untold, told, strict=True)
        if "refused" not in one.attrs and "refused" not in as_told.attrs
    ]
    back, there = read([one for one, _ in pairs]), read([one for _, one in pairs])
    return None if back is None or there is None else (back, there)


def _read_all(results: Mapping[str, Sequence[xr.Dataset]]) -> dict[str, Associated]:
    found = {name: read(each) for name, each in results.items()}
    return {name: one for name, one in found.items() if one is not None}


def decide(
    back: Associated, there: Associated, beside: Mapping[str, Associated] | None = None
) -> Verdict:
    """The verdict, from scores of the same facts the other way round and as told."""
    n = min(back.n_questions, there.n_questions)
    if n < LEAST_QUESTIONS:
        return _undecided(n, [])
    order = np.unique(there.questions)
    first = np.isin(there.questions, order[::2])
    path = int(np.argmax(there.scores[:, first].mean(1)))
    judged, asks = there.scores[path, ~first], there.questions[~first]
    low, high = mean_interval(judged, asks)
    led = f"{_sds(float(judged.mean()), (low, high))} by {_path(there.paths[path])}"
    rows = [tost(values, MARGIN, clusters=back.questions) for values in back.scores]
    lows, highs = mean_intervals(back.scores, back.questions, 1 - 0.05 / len(rows))
    best = int(np.argmax(np.where(np.isnan(lows), -np.inf, lows)))
    farthest = int(np.argmax([abs(row.mean) for row in rows]))
    level, ends = 0.90, (rows[farthest].low, rows[farthest].high)
    outcome: Outcome
    if lows[best] > MARGIN:
        outcome, farthest, level = "rejected", best, 1 - 0.05 / len(rows)
        ends = (float(lows[best]), float(highs[best]))
        text = (
            f"the weights lead back as well, {_sds(rows[best].mean, ends)} by "
            f"{_path(back.paths[best])} (95% interval, corrected for {len(rows)} paths)"
        )
    elif not low > MARGIN:
        outcome = "undecided"
        text = (
            f"the weights do not lead clearly to what the model was told either ({led}), so that "
            "nothing can be missing the other way round"
        )
    elif all(row.equivalent for row in rows):
        outcome = "supported"
        text = (
            f"on none of {len(rows)} paths do the weights lead back by {MARGIN} standard "
            f"deviations of wrong pairs on average ({_path(back.paths[farthest])} is farthest from "
            f"none: {_sds(rows[farthest].mean, ends)}, 90% interval)"
        )
    else:
        outcome = "undecided"
        wide = next(i for i, row in enumerate(rows) if not row.equivalent)
        row = rows[wide]
        text = (
            f"of {_path(back.paths[wide])} there is {row.reason}"
            if row.reason
            else f"{_path(back.paths[wide])} leads back by {_sds(row.mean, (row.low, row.high))} "
            f"(90% interval), and {MARGIN} would count"
        )
    return Verdict(
        id="H5",
        claim=CLAIM,
        outcome=outcome,
        statement=f"From the answer to the name that was asked about, {text}.",
        estimate=rows[farthest].mean,
        low=ends[0],
        high=ends[1],
        unit="standard deviations of wrong pairs",
        n=n,
        control=_control(led, there.paths[path], path, beside or {}),
        confidence=level,
    )


def association_dots(
    forward_back: xr.Dataset,
    forward_as_told: xr.Dataset,
    reverse_back: xr.Dataset,
    reverse_as_told: xr.Dataset,
) -> go.Figure:
    """Draw every path, or those that lead farthest: means with 95% intervals.

    Args:
        forward_back: what `associated` found of facts told forward, from the object to the subject.
        forward_as_told: of the same, from the subject to the object.
        reverse_back: of facts told in reverse, from the subject to the object.
        reverse_as_told: of the same, from the object to the subject.
    """
    pair = _both([forward_back, reverse_back], [forward_as_told, reverse_as_told])
    if pair is None or not all(one.scores.size for one in pair):
        return nothing_to_draw("No facts can be compared by the weights")
    back, there = pair
    means = [np.abs(one.scores.mean(axis=1)) for one in (there, back)]
    order = [int(i) for i in np.argsort(-np.maximum(*means), kind="stable")]
    order.sort(key=lambda i: there.paths[i] != WHOLE)
    shown = order[: 1 + _DRAWN]
    rows = [there.paths[i].replace(">", " → ") for i in shown]
    series = []
    for one, label, colour in (
        (there, "as it was told", COLOURS["forward"]),
        (back, "back", COLOURS["reverse"]),
    ):
        lows, highs = mean_intervals(one.scores[shown], one.questions)
        series.append(Dots(label, colour, rows, one.scores[shown].mean(axis=1), lows, highs))
    axis = "association (standard deviations of wrong pairs)"
    return interval_dots(rows, series, margin=MARGIN, axis=axis)


def _led(
    forward_back: xr.Dataset,
    forward_as_told: xr.Dataset,
    reverse_back: xr.Dataset,
    reverse_as_told: xr.Dataset,
) -> str:
    """How many questions the rows of `association_dots` are over, and of how many they are."""
    pair = _both([forward_back, reverse_back], [forward_as_told, reverse_as_told])
    if pair is None:
        return "0 questions"
    every = len(pair[0].paths)
    shown = f"; {1 + _DRAWN} of {every} paths, the largest" if every > 1 + _DRAWN else ""
    return counted((one.n_questions for one in pair), "question") + f" a row{shown}"


FIGURE = Figure(
    "association",
    "Association",
    (
        "association_told_forward_reverse",
        "association_told_forward_forward",
        "association_told_reverse_forward",
        "association_told_reverse_reverse",
    ),
    association_dots,
    "How far the weights lead from one name of a fact to the other, as it was told and back",
    "H5: m0 is what block 0's MLP writes for the name, m0 → a1 the same through the values of "
    "block 1's heads. As it was told some paths stand out; back none should leave the grey band, "
    "which is what counts as none.",
    shows="How far the weights alone lead from one name of a fact to the other, path by path.",
    n=_led,
    interval=f"{of_mean('questions')}, each row for itself",
    control="wrong pairs of the same names, which are 0 and whose spread is the unit; and the "
    "same facts as they were told",
)


def _control(led: str, name: str, path: int, beside: Mapping[str, Associated]) -> str:
    told = []
    for kind, one in beside.items():
        if one.n_questions >= LEAST_QUESTIONS // 2 and name in one.paths:
            scores = one.scores[one.paths.index(name)]
            ends = mean_interval(scores, one.questions)
            told.append(f"{kind} {_sds(float(scores.mean()), ends)}")
    also = f" By the same path, facts {'; '.join(told)}." if told else ""
    return (
        f"As told, the same weights lead from one name to the other {led} (path chosen on half of "
        f"the questions, judged on the other).{also} Wrong pairs of the same names are the unit."
    )


def _undecided(n: int, reasons: Sequence[str]) -> Verdict:
    why = f": {reasons[0]}" if reasons else ""
    return Verdict.undecided(
        id="H5",
        claim=CLAIM,
        statement=(
            f"{n} questions can be compared whose answers the model knows as it was told them, and "
            f"{LEAST_QUESTIONS} are needed{why}."
        ),
        unit="standard deviations of wrong pairs",
        n=n,
        confidence=0.90,
    )


def _path(path: str) -> str:
    if ">" not in path:
        return path if " " in path else f"the path {path}"
    return f"the path {path.replace('>', ' → ')}"


def _sds(mean: float, ends: tuple[float, float]) -> str:
    return f"{mean:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}] SD".replace("-", "−")
