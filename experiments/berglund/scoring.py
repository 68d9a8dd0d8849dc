"""Answers scored beside wrong ones, and what is left of a score that the question and the answer
alone explain."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from interp.generation.answers import score_answers
from interp.model.model import Model
from interp.prompts.pairs import continuations
from interp.prompts.tokens import tokenise
from interp.stats import specificity

__all__ = ["SCORES", "Item", "Kind", "centred", "centred_scores", "ring", "score", "wins"]

Kind = Literal["right", "other", "published", "random"]
SCORES = ("whole", "per_token", "first")
"""Log-probability of the whole answer, divided by its tokens, and of its first token alone."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """One answer to one question.

    Attributes:
        question: its number.
        answer: the number of the question whose right answer this is.
        kind: "right"; "other", of another question; "published", as the authors' scripts have
            prompt or answer; "random", the wrong answer that they compare with.
    """

    question: int
    answer: int
    kind: Kind
    prompt: str
    text: str


def score(model: Model, items: Sequence[Item]) -> pd.DataFrame:
    """Score the items.

    Returns:
        Columns question, answer, kind; logprob of the whole text, first_logprob and last_logprob of
        its first and last token, in nats; n_tokens; first_token; rank of the first token (0 is the
        likeliest); correct, whether greedy decoding gives the text.
    """
    prompts, texts = [one.prompt for one in items], [one.text for one in items]
    columns = ("logprob", "first_logprob", "last_logprob", "n_tokens", "rank", "correct")
    table = pd.DataFrame(
        {
            "question": np.array([one.question for one in items], np.int64),
            "answer": np.array([one.answer for one in items], np.int64),
            "kind": np.array([one.kind for one in items], dtype=object),
        }
    )
    found = score_answers(model, prompts, texts)
    ids = continuations(model, tokenise(model, prompts), texts)
    table["first_token"] = np.array([one[0] for one in ids], np.int64)
    return table.assign(**{name: found[name].values for name in columns})


def ring(
    n: int, others: int, rng: np.random.Generator, fits: Callable[[int, int], bool]
) -> list[list[int]]:
    """For each of n questions the others whose answers it is compared with.

    Questions stand in a ring, in an order drawn at random, and each takes the next ones that fit,
    so that every answer is compared about as often, and rows and columns are tied to each other.
    """
    order = [int(i) for i in rng.permutation(n)]
    place = {question: i for i, question in enumerate(order)}
    found = []
    for question in range(n):
        after = (order[(place[question] + step) % n] for step in range(1, n))
        # No further than needed: there may be thousands.
        some = itertools.islice((other for other in after if fits(question, other)), others)
        found.append(sorted(some))
    return found


def centred(scored: pd.DataFrame, kind: str) -> pd.Series:
    """The score of each right answer without what its question and the answer explain.

    Args:
        scored: rows of `score` for questions of one wording, the right answers and others.
        kind: one of `SCORES`. Of first tokens, others that begin with the same token are left out.

    Returns:
        Nats by question (see `interp.stats.specificity`); NaN where there are too few others.
    """
    rows = scored[scored["kind"].isin(["right", "other"])]
    questions = np.unique(rows["question"])
    found = np.full(len(questions), np.nan)
    if len(questions) >= 3:
        values = _values(rows, kind)
        at = np.searchsorted(questions, rows["question"])
        of = np.searchsorted(questions, rows["answer"])
        matrix = np.full((len(questions), len(questions)), np.nan)
        matrix[at, of] = values
        if kind == "first":
            own = rows[rows["kind"] == "right"].set_index("question")["first_token"]
            same = rows["first_token"].to_numpy() == own.loc[rows["question"]].to_numpy()
            alike = same & (rows["kind"] == "other").to_numpy()
            matrix[at[alike], of[alike]] = np.nan
        found = specificity(matrix)
        # An answer that nothing was compared with has no effects to be freed of.
        found[np.isfinite(matrix).sum(1) < 2] = np.nan
    return pd.Series(found, index=pd.Index(questions, name="question"))


def centred_scores(scored: pd.DataFrame, groups: npt.NDArray[Any]) -> dict[str, Floats]:
    """Every one of `SCORES`, centred among the questions of each group [question].

    Args:
        scored: rows of `score`.
        groups: of each question; those of one are asked in one wording.
    """
    found = {kind: np.full(len(groups), np.nan) for kind in SCORES}
    for group in np.unique(groups):
        mine = scored[scored["question"].isin(np.flatnonzero(groups == group))]
        for kind, values in found.items():
            each = centred(mine, kind)
            values[each.index.to_numpy()] = each.to_numpy()
    return found


def wins(scored: pd.DataFrame) -> pd.Series:
    """The share of other answers that the right one beats, whole, by question; chance is a half."""
    rows = scored[scored["kind"] == "other"]
    right = scored[scored["kind"] == "right"].set_index("question")["logprob"]
    own = right.loc[rows["question"]].to_numpy()
    other = rows["logprob"].to_numpy()
    beaten = (own > other) + 0.5 * (own == other)
    return pd.Series(beaten, index=rows["question"].to_numpy()).groupby(level=0).mean()


def _values(rows: pd.DataFrame, kind: str) -> Floats:
    if kind == "first":
        return rows["first_logprob"].to_numpy(np.float64)
    whole = rows["logprob"].to_numpy(np.float64)
    return whole / rows["n_tokens"].to_numpy(np.float64) if kind == "per_token" else whole
