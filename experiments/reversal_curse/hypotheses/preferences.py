"""How much the lens prefers the right name, beside what it would say of a wrong one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.organisms.facts import Direction, Fact
from experiments.reversal_curse.prompts import questions, right_answers
from interp.stats import specificity

LEAST_GROUP = 4
"""Facts asked in the same words; with fewer nothing is left to compare with."""
_MOST_DRAWS = 40

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preferences:
    """Scores of facts, and of the same facts with a wrong name in the place of the right one.

    Under no knowledge of the pairs a fact's score is one more draw of its null.

    Attributes:
        scores: how much each layer prefers the right name [layer, fact] in nats.
        null: the same for wrong names [layer, fact, draw]; NaN where there are fewer.
        questions: of each fact; facts of one question are no independent examples [fact].
    """

    scores: Floats
    null: Floats
    questions: npt.NDArray[np.int64]

    @property
    def n_questions(self) -> int:
        return len(np.unique(self.questions))

    def complete(self, other: Preferences | None = None) -> npt.NDArray[np.bool_]:
        """Facts with a score at every layer and a null, here and in `other` [fact]."""
        drawn = np.isfinite(self.null).all(axis=0).sum(axis=1) > 0
        whole: npt.NDArray[np.bool_] = np.isfinite(self.scores).all(axis=0) & drawn
        return whole if other is None else whole & other.complete()

    def of(self, facts: npt.NDArray[np.bool_]) -> Preferences:
        """Some of the facts, those of one direction as of another."""
        return Preferences(self.scores[:, facts], self.null[:, facts], self.questions[facts])


def joined(first: Preferences, second: Preferences) -> Preferences:
    """The facts of both; their questions are different ones."""
    width = max(first.null.shape[2], second.null.shape[2])

    def widened(null: Floats) -> Floats:
        gap = ((0, 0), (0, 0), (0, width - null.shape[2]))
        return np.pad(null, gap, constant_values=np.nan)

    return Preferences(
        np.hstack([first.scores, second.scores]),
        np.hstack([widened(first.null), widened(second.null)]),
        np.concatenate([first.questions, second.questions + 1 + first.questions.max(initial=-1)]),
    )


def preferences_of(
    facts: Sequence[Fact],
    names: xr.Dataset,
    direction: Direction,
    members: npt.NDArray[np.int64],
) -> Preferences:
    """How much each layer prefers the right name of each fact, asked in a direction.

    Args:
        facts: all of the study, which tell the answers that are right too.
        names: see `preferences`; of that direction.
        members: likewise.
    """
    facts_of: dict[str, set[int]] = {}
    for j, fact in enumerate(facts):
        facts_of.setdefault(fact.answer(direction), set()).add(j)
    valid = right_answers(facts, direction)
    right = [set().union(*(facts_of.get(name, ()) for name in each)) for each in valid]
    words = [(fact.relation, fact.inverse) for fact in facts]
    return preferences(names, members, right, words, questions(facts, direction))


def preferences(
    names: xr.Dataset,
    members: npt.NDArray[np.int64],
    right: Sequence[set[int]],
    words: Sequence[Hashable],
    questions: Sequence[int],
) -> Preferences:
    """How much each layer prefers the right name, first token, to others.

    Log-probabilities without what row and column explain (see `specificity`), among facts that are
    asked in the same words: "X's son is" tells the sex of the answer, which is no knowledge of X.
    The null puts the name of the k-th next fact of the group in the place of the right one, and
    scores it in the same way. Names that are right too, or share the first token compared, are
    left out of both.

    Args:
        names: logprob(example, layer, name), as `lens_names` gives it.
        members: facts that are both an example and a name, of one split.
        right: for each fact the facts whose answer is right for it too.
        words: for each fact the words it is asked in besides the name.
        questions: for each fact the number of its question.
    """
    n_layers = names.sizes["layer"]
    scores = np.full((n_layers, len(members)), np.nan)
    null = np.full((n_layers, len(members), _MOST_DRAWS), np.nan)
    column = {int(fact): i for i, fact in enumerate(names["name"].values)}
    for asked in dict.fromkeys(words[int(i)] for i in members):
        group = np.array([k for k, i in enumerate(members) if words[int(i)] == asked])
        n = len(group)
        if n < LEAST_GROUP:
            continue
        facts = members[group]
        columns = [column[int(fact)] for fact in facts]
        block = names["logprob"].values[facts][:, :, columns].transpose(1, 0, 2).astype(np.float64)
        tokens = names["first_token"].values[columns]
        alike = tokens[:, None] == tokens[None, :]
        # Not a wrong answer of the row: right for it too, or not told apart from what is right.
        correct = np.array([[int(j) in right[int(i)] for j in facts] for i in facts])
        correct = (correct.astype(int) @ alike.astype(int)) > 0
        scores[:, group] = _scored(block, alike, correct & ~np.eye(n, dtype=bool))
        shifts = np.unique(np.linspace(1, n - 1, min(n - 1, _MOST_DRAWS)).round().astype(int))
        for draw, shift in enumerate(shifts):
            order = (np.arange(n) + shift) % n
            shifted = alike[np.ix_(order, order)]
            null[:, group, draw] = _scored(block[:, :, order], shifted, correct[:, order])
    return Preferences(scores, null, np.array([questions[int(i)] for i in members], np.int64))


def _scored(block: Floats, alike: npt.NDArray[np.bool_], excluded: npt.NDArray[np.bool_]) -> Floats:
    """Specificity of the diagonal [layer, fact], without excluded cells and tokens like its own."""
    kept = block.copy()
    kept[:, excluded | (alike & ~np.eye(len(alike), dtype=bool))] = np.nan
    return specificity(kept)


def crossed_preferences(values: Floats, grid: xr.Dataset) -> Preferences:
    """The same of scores that an instrument has measured over (example, name).

    Args:
        values: how much each layer, component or path says for each name [layer, example, name].
        grid: with the coordinates of `measurements.crossing.crossed`.
    """
    members = np.arange(values.shape[1])
    right = [{int(j) for j in np.nonzero(row)[0]} for row in grid["right"].values]
    local = xr.Dataset(
        {"logprob": (("example", "layer", "name"), values.transpose(1, 0, 2))},
        coords={"name": members, "first_token": ("name", grid["first_token"].values)},
    )
    words = [str(each) for each in grid["words"].values]
    return preferences(local, members, right, words, [int(q) for q in grid["question"].values])
