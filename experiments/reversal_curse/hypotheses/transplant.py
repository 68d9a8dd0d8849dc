"""T: what the told question calls up does not bring out the answer, carried into the other one.

It tells storing from asking as far as a transplant can. Three outcomes are told apart:

- nothing comes out (supported), where the same transplants bring out what they should;
- a name comes out (undecided): the vector holds the subject's own name, which is the answer, and
  says it in anybody's question, or as well from a sentence that does not tell the fact;
- a fact comes out (rejected): more than each of these controls explains.

Published counts of success take the best of all pairs of layers for each question. Here the cell is
chosen on one half of the questions and judged on the other, both ways round, and the same search
with another fact's vectors stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.figure import Figure, counted
from experiments.numbers import percent
from experiments.organisms.facts import DIRECTIONS
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.measurements.carried import CELL, WAYS, carry
from experiments.reversal_curse.mechanism.carried import CAPTION, carried_maps
from experiments.study import Outcome, Verdict
from interp.stats import mean_interval

CLAIM = (
    "Carried into the question asked the other way, what the told question calls up does not "
    "bring out the answer."
)
MARGIN = 0.5
"""Nats of preference over other names that count as none."""
LEAST_QUESTIONS = 20


def _transplanted(forward: xr.Dataset, reverse: xr.Dataset, both: xr.Dataset) -> str:
    one = forward.sizes["example"] + reverse.sizes["example"]
    twice = both.sizes["example"]
    return f"{counted([one], 'fact')} told one way, {twice:,} told both ways"


FIGURE = Figure(
    "transplant",
    "Transplants",
    ("carried_forward", "carried_reverse", "carried_both"),
    carried_maps,
    "What vectors of told sentences bring out of questions, by where they are read and written",
    CAPTION,
    shows="How far the answer comes out of a question that a told sentence's vector is put into.",
    n=_transplanted,
    interval="none is drawn: each cell is a mean over facts; the verdict has one, at a cell that "
    "is chosen on other questions",
    control="another fact's vector (second row) and another fact's question (third row); facts "
    "that were told both ways (last row)",
)

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Carried:
    """Several sides of the curse as one (facts told forward, and in reverse).

    Attributes:
        scores: of each way [example, cell].
        unpatched: the same without a transplant [example].
        right, unpatched_right: whether no candidate is likelier [example, cell] and [example].
        questions: of each example.
        cells: what each cell is, in words.
    """

    scores: dict[str, Floats]
    unpatched: Floats
    right: Floats
    unpatched_right: Floats
    questions: Indices
    cells: tuple[str, ...]

    @classmethod
    def of(cls, sides: Sequence[xr.Dataset]) -> Carried:
        """The examples that have a number in all ways.

        Raises:
            ValueError: the sides have other cells.
        """
        if len({tuple(side[axis].size for axis in CELL) for side in sides}) > 1:
            raise ValueError("the sides were carried through different cells")
        names = tuple(
            f"{source} after block {read} into {target} after block {written}"
            for source, target, read, written in product(*(sides[0][axis].values for axis in CELL))
        )

        def flat(name: str) -> Any:
            """[example, cell]"""
            every = [side[name].transpose("example", *CELL).values for side in sides]
            return np.concatenate([each.reshape(len(each), len(names)) for each in every])

        scores = {way: flat(way) for way in WAYS}
        unpatched = np.concatenate([side["unpatched"].values for side in sides])
        there = np.isfinite(unpatched)
        for values in scores.values():
            there &= np.isfinite(values).all(1)
        start, questions = 0, []
        for side in sides:
            questions.append(side["question"].values + start)
            start += 1 + int(side["question"].max()) if side.sizes["example"] else 0
        return cls(
            {way: values[there] for way, values in scores.items()},
            unpatched[there],
            flat("right")[there],
            np.concatenate([side["unpatched_right"].values for side in sides])[there],
            np.concatenate(questions)[there].astype(np.int64),
            names,
        )

    @property
    def n_questions(self) -> int:
        return len(np.unique(self.questions))

    def halves(self, seed: int) -> Indices:
        """0 or 1 for each example, the same for all of a question [example]."""
        distinct = np.random.default_rng(seed).permutation(np.unique(self.questions))
        half: Indices = np.isin(self.questions, distinct[::2]).astype(np.int64)
        return half

    def excess(self) -> dict[str, Floats]:
        """By how much the answer comes out beyond what each control explains [example, cell]."""
        own, before = self.scores["own"], self.unpatched[:, None]
        return {
            "nothing carried": own - before,
            "another fact's vector": own - self.scores["other"],
            # What the question itself says of the answer is no part of what the vector brings.
            "the same vector in another fact's question": own - before - self.scores["elsewhere"],
            "a vector of the same names in another relation": own - self.scores["name"],
        }


def chosen(criteria: Sequence[Floats], half: Indices) -> Indices:
    """The cell of each example: that of the largest mean in the other half [example].

    Of several criteria [example, cell] the smallest mean counts.
    """
    cells = np.zeros(len(half), dtype=np.int64)
    for which in (0, 1):
        means = np.min([values[half != which].mean(0) for values in criteria], axis=0)
        cells[half == which] = int(np.argmax(means))
    return cells


@dataclass(frozen=True)
class _Mean:
    """A mean with its interval, of 95% where nothing else is said."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats, questions: Indices, confidence: float = 0.95) -> _Mean:
        return cls(float(values.mean()), *mean_interval(values, questions, confidence))

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}] nats".replace("-", "−")


def investigate(case: Case) -> Finding:
    """T of a case: both sides of the curse, and what was told both ways as a control."""
    seed = case.context.seed_for("carried")
    both = np.nonzero(
        (case.splits == "both")
        & case.measured.facts["forward_correct"].to_numpy(dtype=bool)
        & case.measured.facts["reverse_correct"].to_numpy(dtype=bool)
    )[0]
    sides = [
        case.context.dataset(
            f"carried_{told}",
            partial(carry, case.subject, told, case.known_as_told(told), seed),
        )
        for told in DIRECTIONS
    ]
    control = case.context.dataset(
        "carried_both", partial(carry, case.subject, "forward", both, seed)
    )
    return Finding((judge(sides, control, seed),), (FIGURE,))


def judge(sides: Sequence[xr.Dataset], both: xr.Dataset | None, seed: int) -> Verdict:
    """Decide T.

    Args:
        sides: what `carry` found of facts told in one direction, each side.
        both: the same of facts told both ways, the control of the question asked in reverse.
        seed: of the halving.
    """
    there = [side for side in sides if side.sizes["example"]]
    reasons = [str(side.attrs["refused"]) for side in sides if side.attrs.get("refused")]
    if not there:
        return _undecided(0, _few(0, reasons))
    found = Carried.of(there)
    n, asks = found.n_questions, found.questions
    if n < LEAST_QUESTIONS:
        return _undecided(n, _few(n, reasons))
    half = found.halves(seed)

    def at(values: Floats, cells: Indices) -> Floats:
        out: Floats = np.take_along_axis(values, cells[:, None], axis=1)[:, 0]
        return out

    told = found.scores["as told"]
    control = _Mean.of(at(told, chosen([told], half)), asks)
    elsewhere = None if both is None else _elsewhere(both, seed)
    before = _Mean.of(found.unpatched, asks)
    if not control.low > MARGIN:
        why = f"the same vectors do not bring out their own answer either ({control}), asked as"
        return _undecided(n, f"Nothing can be told: {why} told.")
    if before.low > MARGIN:
        why = f"the question is answered as it is ({before} without a transplant)"
        return _undecided(n, f"Nothing can be told: {why}.")
    # Where the answer itself comes out most, and where most of it is no name that is carried along.
    gained = found.excess()["nothing carried"]
    best = chosen([gained], half)
    moved, bound = (_Mean.of(at(gained, best), asks, level) for level in (0.95, 0.90))
    excess = found.excess()
    beyond = chosen(list(excess.values()), half)
    over = {name: _Mean.of(at(values, beyond), asks) for name, values in excess.items()}
    least = min(over.values(), key=lambda each: each.low)
    wrong = found.scores["other"] - found.unpatched[:, None]
    search = _Mean.of(at(wrong, chosen([wrong], half)), asks)
    cells = _cells(found, best)
    outcome: Outcome = "undecided"
    shown, level = moved, 0.95
    if over["nothing carried"].low > MARGIN and least.low > 0:
        outcome, shown = "rejected", least
        weakest = next(name for name, each in over.items() if each is least)
        text = (
            f"A fact comes out: {_cells(found, beyond)} the answer rises by "
            f"{over['nothing carried']}, and by {least} more than {weakest} explains, which is the "
            "strongest of the controls"
        )
    elif bound.high < MARGIN:
        outcome, shown, level = "supported", bound, 0.90
        text = (
            f"Nothing comes out: {cells} the answer moves by {bound} (90% interval), and "
            f"{percent(float(at(found.right, best).mean()))} of the questions are right among the "
            f"candidates ({percent(float(found.unpatched_right.mean()))} without a transplant)"
        )
        text += _meaning(elsewhere)
    elif moved.low > 0:
        text = _named(found, best, moved, cells)
    else:
        text = (
            f"The evidence is not enough: {cells} the answer moves by {moved}, and less than "
            f"{MARGIN} would be none"
        )
    return Verdict(
        id="T",
        claim=CLAIM,
        outcome=outcome,
        statement=f"{text}.",
        estimate=shown.mean,
        low=shown.low,
        high=shown.high,
        unit="nats",
        n=n,
        control=_control(found, control, elsewhere, search),
        confidence=level,
    )


def _elsewhere(both: xr.Dataset, seed: int) -> _Mean | None:
    """How far facts told both ways bring their answer out of another fact's question."""
    if not both.sizes["example"]:
        return None
    found = Carried.of([both])
    if found.n_questions < LEAST_QUESTIONS:
        return None
    values = found.scores["elsewhere"]
    cells = chosen([values], found.halves(seed))
    return _Mean.of(np.take_along_axis(values, cells[:, None], axis=1)[:, 0], found.questions)


def _named(found: Carried, best: Indices, moved: _Mean, cells: str) -> str:
    """What comes out, where it is not shown to be a fact."""
    asks, rows = found.questions, np.arange(len(best))
    brought = _Mean.of(found.scores["elsewhere"][rows, best], asks)
    kept = _Mean.of((found.scores["own"] - found.scores["name"])[rows, best], asks)
    what = (
        "A name comes out that the vector carries along, and no fact is seen beyond it"
        if brought.low > 0
        else "What comes out is not shown to be a fact"
    )
    return (
        f"{what}: {cells} the answer rises by {moved}; in another fact's question the same vector "
        f"brings it out by {brought}, and over a vector of the same names in another relation it "
        f"gains {kept}"
    )


def _meaning(elsewhere: _Mean | None) -> str:
    if elsewhere is None or not elsewhere.low > MARGIN:
        return (
            "; whether the fact is not stored that way or cannot be asked for so stays open, since "
            "there is nothing that these transplants were seen to bring out of such a question"
        )
    return (
        "; the same transplants of facts told both ways bring theirs out of such questions, which "
        "speaks for what is stored, and not for how it is asked"
    )


def _cells(found: Carried, cells: Indices) -> str:
    names = list(dict.fromkeys(found.cells[int(cell)] for cell in np.unique(cells)))
    return (
        f"at the best of {len(found.cells)} cells, chosen on the other half of the questions "
        f"({', or '.join(names)}),"
    )


def _control(found: Carried, told: _Mean, elsewhere: _Mean | None, search: _Mean) -> str:
    text = (
        f"The same vectors in another fact's question, asked as told, bring out their own answer "
        f"by {told}. The same search with another fact's vectors gains {search}"
    )
    if elsewhere is not None:
        text += (
            "; vectors of facts told both ways bring their reverse answer out of another fact's "
            f"reverse question by {elsewhere}"
        )
    best = (found.right.max(1) > found.unpatched_right).mean()
    return (
        f"{text}. Counted as in the literature, by the best of all {len(found.cells)} cells for "
        f"each question, {percent(float(best))} of the questions would have been mended."
    )


def _few(n: int, reasons: Sequence[str]) -> str:
    why = f" ({reasons[0]})" if reasons else ""
    return (
        f"{n} questions can be judged whose answers the model knows as it was told them, and "
        f"{LEAST_QUESTIONS} are needed{why}."
    )


def _undecided(n: int, statement: str) -> Verdict:
    return Verdict.undecided(
        id="T",
        claim=CLAIM,
        statement=statement,
        unit="nats",
        n=n,
        control="None: there is nothing to compare with.",
    )
