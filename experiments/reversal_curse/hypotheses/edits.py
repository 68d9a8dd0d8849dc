"""H8: the machinery for the reverse exists, only what it would read is missing.

One rank-one edit of one MLP writes the reverse answer at the name that is asked about
(`measurements.edits`). That a vector can be found which forces a token shows nothing, so the
verdict is about values that were made at other names, and never saw the one that is edited. They
are no longer than twice what the MLP writes anyway, must come out where they are asked for and not
in another question about the same name, and are judged in wordings that they were not made in.
Values made at the name itself are told beside. Forward edits, and whether their reverse follows,
are told beside, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure, counted, of_share
from experiments.numbers import percent
from experiments.reporter import Progress
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.measurements.editing import AT_NAME, ELSEWHERE
from experiments.reversal_curse.measurements.edits import follows, known, restored
from experiments.study import Outcome, Verdict
from interp.figures.drawing.dots import Dots, interval_dots, nothing_to_draw
from interp.figures.drawing.theme import COLOURS
from interp.stats import wilson

CLAIM = "The machinery for the reverse exists: the answer, written at the name, comes out."
HALF = 0.5
"""What the share of restored answers must exceed."""
MOST_CONTROL = 0.25
"""What controls that ought to bring nothing must stay below."""
LEAST_KEPT = 0.8
"""What the share of other answers that stay must exceed."""
LEAST_QUESTIONS = 10
_OUGHT_TO_FAIL = {
    "unedited": "without an edit",
    "mismatched": "with the value at another name's key",
    "random": "with a random value of the same length",
    "other_question": "when the same name is asked the other question",
}
_OUGHT_TO_STAY = {
    "forward": "the fact's own forward answer",
    "kept_forward": "other facts' forward answers",
    "kept_reverse": "other facts' reverse answers",
}
_ROWS = {
    "made": "in the wordings it was made in",
    "unseen": "in other wordings",
    **_OUGHT_TO_FAIL,
    **{name: f"{label}, kept" for name, label in _OUGHT_TO_STAY.items()},
}


@dataclass(frozen=True)
class Share:
    """Of questions, with its 95% Wilson interval."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, found: xr.Dataset, name: str, family: str) -> Share | None:
        """Of one family of values; None where there are none."""
        if name not in found.data_vars or "family" not in found.coords:
            return None
        column = found["family"].values.tolist().index(family)
        return cls.over(found.variables[name].values[:, column], found["question"].values)

    @classmethod
    def over(cls, values: np.ndarray, questions: np.ndarray) -> Share | None:
        """Of values between 0 and 1, those that are NaN left out; the mean of each question."""
        seen = np.isfinite(values)
        if not seen.any():
            return None
        number, inverse = np.unique(questions[seen], return_inverse=True)
        total = np.bincount(inverse, values[seen]) / np.bincount(inverse)
        return cls(float(total.mean()), *wilson(float(total.sum()), len(number)), len(number))

    def __str__(self) -> str:
        return f"{percent(self.mean)} [{percent(self.low)}, {percent(self.high)}]"


def investigate(case: Case) -> Finding:
    """H8 of a case; its twin is asked whether the reverse follows a forward edit."""
    seed = case.context.seed_for("edits")
    facts = case.measured.facts
    forward = facts["forward_correct"].to_numpy(dtype=bool)
    reverse = facts["reverse_correct"].to_numpy(dtype=bool)
    told = case.known_as_told("forward")
    written = case.context.dataset(
        "edits_reverse",
        partial(
            restored,
            case.subject,
            told[~reverse[told]],
            np.nonzero(forward)[0],
            np.nonzero(reverse)[0],
            seed,
        ),
    )
    here = case.context.dataset("edits_forward", partial(follows, case.subject, told, seed))
    twin = case.cured()
    there = (
        None
        if twin is None
        else case.context.dataset("edits_forward_cured", partial(_of_twin, twin, seed))
    )
    figures = (RESTORED, FOLLOWED if there is not None else FOLLOWED_ALONE)
    return Finding((judge(written, here, there),), figures)


def _of_twin(twin: Subject, seed: int, progress: Progress) -> xr.Dataset:
    right = known(twin, "forward")
    split = np.array([fact.split for fact in twin.facts])
    told = np.nonzero(right & (split == "forward"))[0]
    return follows(twin, told, seed, progress)


def judge(
    written: xr.Dataset, here: xr.Dataset | None = None, there: xr.Dataset | None = None
) -> Verdict:
    """Decide H8.

    Args:
        written: what `measurements.edits.restored` found.
        here, there: what `measurements.edits.follows` found in the model of the study and in its
            cured twin.
    """
    beside = _beside(here, there)
    unseen = Share.of(written, "unseen", ELSEWHERE)
    forced = Share.of(written, "unseen", AT_NAME)
    if unseen is None or forced is None or unseen.n < LEAST_QUESTIONS:
        n = 0 if unseen is None else unseen.n
        why = written.attrs.get("refused", f"{n} questions, and {LEAST_QUESTIONS} are needed")
        return _undecided(n, f"No edit can be judged: {why}.{beside}")
    shares = {name: Share.of(written, name, ELSEWHERE) for name in _ROWS}
    problems = [
        f"{label} the answer comes in {one} as well"
        for name, label in _OUGHT_TO_FAIL.items()
        if (one := shares[name]) is not None and not one.high < MOST_CONTROL
    ]
    problems += [
        f"of {label} {one} stay"
        for name, label in _OUGHT_TO_STAY.items()
        if (one := shares[name]) is not None and not one.low > LEAST_KEPT
    ]
    problems += [
        f"there is no control {label}"
        for name, label in (*_OUGHT_TO_FAIL.items(), *_OUGHT_TO_STAY.items())
        if shares[name] is None
    ]
    takes = None if here is None else Share.of(here, "unseen", AT_NAME)
    outcome: Outcome = "undecided"
    said = f"{unseen} of the answers are given whole"
    if unseen.low > HALF and not problems:
        outcome = "supported"
        text = (
            "Written at the name by one rank-one edit, as a value that was made at other names, "
            f"{said}, in wordings that the edit was not made in. So what follows the edited MLP "
            "turns such a value into the answer; that says nothing of how a model would come to "
            "store one"
        )
    elif unseen.low > HALF:
        text = f"Answers come out ({said}), but {'; '.join(problems)}"
    elif forced.high < HALF and unseen.high < HALF and takes is not None and takes.low > HALF:
        outcome = "rejected"
        text = (
            f"The same edits change forward answers ({takes}) and do not bring out the reverse: "
            f"{said}, and {forced} where the value was made at the name itself"
        )
    else:
        text = (
            f"Not clear: {said} with values made at other names, and {forced} with those made at "
            "the name itself, which can force a token whatever the model keeps"
        )
    return Verdict(
        id="H8",
        claim=CLAIM,
        outcome=outcome,
        statement=f"{text}.{beside}",
        estimate=unseen.mean,
        low=unseen.low,
        high=unseen.high,
        unit="share of answers",
        n=unseen.n,
        control=_control(written, shares),
        confidence=0.95,
    )


def _control(written: xr.Dataset, shares: dict[str, Share | None]) -> str:
    bad = [f"{label} {one}" for name, label in _OUGHT_TO_FAIL.items() if (one := shares[name])]
    good = [f"{label} {one}" for name, label in _OUGHT_TO_STAY.items() if (one := shares[name])]
    forced = Share.of(written, "unseen", AT_NAME)
    leaked = Share.of(written, "other_question", AT_NAME)
    other = "" if leaked is None else f", and {leaked} when the name is asked the other question"
    return (
        f"The answer comes {', '.join(bad)}. Kept: {', '.join(good)}. A value that is made at the "
        f"edited name brings {forced}{other}; by itself that would show nothing."
    )


def _followed(found: xr.Dataset | None) -> dict[str, Share] | None:
    """Of forward edits, how many took; and of those the answers in reverse, and without an edit."""
    if found is None or "followed" not in found:
        return None
    one = found.sel(family=AT_NAME)
    questions, took = found["question"].values, one["unseen"].values >= HALF
    if took.sum() < LEAST_QUESTIONS:
        return None
    parts = {"took": took.astype(float)} | {
        name: np.where(took, one[name].values, np.nan)
        for name in ("followed", "before", "remained", "remained_before")
    }
    return {name: share for name, v in parts.items() if (share := Share.over(v, questions))}


def _beside(here: xr.Dataset | None, there: xr.Dataset | None) -> str:
    parts = []
    for name, one in (("this model", here), ("its cured twin", there)):
        found = _followed(one)
        if found is not None:
            parts.append(
                f"in {name} {found['took']} of the edits take, and of these {found['followed']} "
                f"answer A when C is asked in reverse ({percent(found['before'].mean)} without the "
                f"edit), and {found['remained']} when B is "
                f"({percent(found['remained_before'].mean)} without)"
            )
    if not parts:
        return ""
    return f" Edited forward (A's answer B becomes C): {'; '.join(parts)}."


def restored_dots(written: xr.Dataset) -> go.Figure:
    """Draw shares of answers with 95% intervals, for both families of values."""
    rows, series = [], []
    colours = (COLOURS["forward"], COLOURS["reverse"])
    for family, colour in zip((ELSEWHERE, AT_NAME), colours, strict=True):
        shares = {name: Share.of(written, name, family) for name in _ROWS}
        there = {name: one for name, one in shares.items() if one is not None}
        if not there:
            return nothing_to_draw(str(written.attrs.get("refused", "No edit can be judged")))
        rows = [_ROWS[name] for name in there]
        series.append(_dots(f"made {family}", colour, rows, list(there.values())))
    return interval_dots(rows, series, margin=0.0, axis="share of questions with the right answer")


def followed_dots(*models: xr.Dataset) -> go.Figure:
    """Draw, of forward edits that took, whether the reverse follows.

    Args:
        models: what `follows` found in the model of the study, and in its cured twin.
    """
    labels = (
        "forward edit takes",
        "new reverse",
        "new reverse, without the edit",
        "old reverse",
        "old reverse, without the edit",
    )
    series = [
        _dots(name, colour, labels, list(found.values()))
        for name, colour, one in zip(
            ("with the curse", "cured"),
            (COLOURS["forward"], COLOURS["reverse"]),
            models,
            strict=False,
        )
        if (found := _followed(one)) is not None
    ]
    if not series:
        return nothing_to_draw("Too few forward edits take to see what follows")
    return interval_dots(labels, series, margin=0.0, axis="share of questions")


def _shown_questions(written: xr.Dataset) -> str:
    """How many questions the rows of `restored_dots` are over."""
    shares = [Share.of(written, name, family) for family in (ELSEWHERE, AT_NAME) for name in _ROWS]
    return counted((one.n for one in shares if one is not None), "question") + " a row"


def _edits_that_took(*models: xr.Dataset) -> str:
    found = [_followed(one) for one in models]
    made = [one["took"].n for one in found if one is not None]
    took = [one["followed"].n for one in found if one is not None and "followed" in one]
    model = " a model" if len(made) > 1 else ""
    return f"{counted(made, 'edited fact')}{model}; {counted(took, 'edit')} took"


def _dots(name: str, colour: str, rows: Sequence[str], shares: Sequence[Share]) -> Dots:
    mean, low, high = zip(*((one.mean, one.low, one.high) for one in shares), strict=True)
    return Dots(name, colour, rows, mean, low, high)


RESTORED = Figure(
    "edits_reverse",
    "Writing the reverse",
    ("edits_reverse",),
    restored_dots,
    "How often the reverse answer comes out after it was written into one MLP, and controls",
    "H8: the answer should come out in other wordings than those of the edit, and not in the rows "
    "below; the last rows, what the model knew before, should stay near 1. A value that is made at "
    "the name itself can force a token: what counts are those made at other names.",
    shows="How often a reverse answer comes out that one rank-one edit wrote at the asked name.",
    n=_shown_questions,
    interval=of_share("questions"),
    control="the rows below the first two: no edit, another name's key, a random value, another "
    "question; and other answers, which should stay",
)
_FOLLOWED = (
    "H8: a fact is edited forward (A's answer B becomes C). Of the edits that took: how often A is "
    "then the answer when C is asked (new reverse), and when B is (old reverse). "
)
_REVERSE_FOLLOWS = "Whether the reverse of a fact follows an edit of its forward answer."
FOLLOWED = Figure(
    "edits_forward",
    "Editing forward",
    ("edits_forward", "edits_forward_cured"),
    followed_dots,
    "Whether the reverse follows a forward edit, in the model with the curse and in the cured one",
    _FOLLOWED + "If both directions were one entry where the curse is cured, the new reverse would "
    "follow there.",
    shows=_REVERSE_FOLLOWS,
    n=_edits_that_took,
    interval=of_share("questions"),
    control="the same questions without the edit; and the cured model",
)
FOLLOWED_ALONE = Figure(
    "edits_forward",
    "Editing forward",
    ("edits_forward",),
    followed_dots,
    "Whether the reverse follows a forward edit",
    _FOLLOWED + "There is no cured model to compare with.",
    shows=_REVERSE_FOLLOWS,
    n=_edits_that_took,
    interval=of_share("questions"),
    control="the same questions without the edit",
)


def _undecided(n: int, statement: str) -> Verdict:
    return Verdict.undecided(
        id="H8",
        claim=CLAIM,
        statement=statement,
        unit="share of answers",
        n=n,
    )
