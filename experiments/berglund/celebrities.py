"""Experiment 2: celebrities and their parents, asked from either end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.berglund.families import FEW_SHOT, families, in_prompt, share_word
from experiments.berglund.published import DIRECTIONS, PAIRS
from experiments.berglund.scoring import SCORES, Item, centred_scores, ring, wins
from experiments.errors import FactsError
from experiments.sheets import read_rows, sameness
from interp.stats import mean_interval, proportion_interval

__all__ = ["Pair", "asked_items", "by_pair", "metrics", "prompt", "read_pairs", "some"]


@dataclass(frozen=True)
class Pair:
    """A celebrity and a parent.

    Attributes:
        line: in the file.
        kind: "mother" or "father".
    """

    line: int
    child: str
    parent: str
    kind: str

    def answer(self, asked: str) -> str:
        return f" {self.parent if asked == 'parent' else self.child}"


def read_pairs(folder: Path) -> tuple[Pair, ...]:
    """The pairs in `parent_child_pairs.csv`, each once.

    Raises:
        FactsError: no such file, one that is damaged, other parents than mothers and fathers, or
            no pair but those that the prompt gives away.
    """
    path = folder / PAIRS
    found: dict[tuple[str, str, str], Pair] = {}
    for line, row in read_rows(path, {}, ("child", "parent", "parent_type")):
        child, parent, kind = row["child"], row["parent"], row["parent_type"]
        if not child or not parent or child == parent:
            raise FactsError(f"'{path}' names no two people in line {line}; fetch it again.")
        if kind not in ("mother", "father"):
            raise FactsError(
                f"'{path}' has the parent_type '{kind}' in line {line}; it is mother or father."
            )
        found.setdefault((child, parent, kind), Pair(line, child, parent, kind))
    if all(in_prompt(one.child, one.parent) for one in found.values()):
        raise FactsError(f"'{path}' holds no pair that the prompt does not tell; fetch it again.")
    return tuple(found.values())


def some(pairs: Sequence[Pair], n: int, rng: np.random.Generator) -> tuple[Pair, ...]:
    """`n` pairs drawn at random, in their order; those that the prompt gives away are left out.

    Half of them share no word, as far as there are so many: verdicts count these, and of all pairs
    they are a quarter.
    """
    asked = [one for one in pairs if not in_prompt(one.child, one.parent)]
    shared = np.array([share_word(one.child, one.parent) for one in asked], dtype=bool)
    hard, easy = (rng.permutation(np.flatnonzero(kind)) for kind in (~shared, shared))
    count = min(len(hard), max(n // 2, n - len(easy)))
    chosen = sorted([*hard[:count], *easy[: n - count]])
    return tuple(asked[int(i)] for i in chosen)


def prompt(pair: Pair, asked: str, *, published: bool = False) -> str:
    """The authors' examples and one question.

    Args:
        asked: "parent" or "child".
        published: as their script has it, without the "Q: " before the question for a child.
    """
    question = (
        f"Who is {pair.child}'s {pair.kind}?"
        if asked == "parent"
        else f"Name a child of {pair.parent}."
    )
    sign = "" if published and asked == "child" else "Q: "
    return f"{FEW_SHOT}\n{sign}{question}\nA:"


def asked_items(
    pairs: Sequence[Pair], every: Sequence[Pair], asked: str, others: int, rng: np.random.Generator
) -> list[Item]:
    """What is scored in one direction.

    Args:
        pairs: those that are asked about.
        every: all that are known, which tell what else is right.

    Wrong answers are right ones of other pairs, of a mother or a father as the question is, who
    are not right here too and share no word with the name in the question.
    """
    right: dict[str, set[str]] = {}
    for one in every:
        right.setdefault(_key(one, asked), set()).add(sameness(one.answer(asked)))

    def fits(i: int, j: int) -> bool:
        one, other = pairs[i], pairs[j]
        name = one.child if asked == "parent" else one.parent
        answer = other.answer(asked)
        alike = sameness(answer) in right[_key(one, asked)] or share_word(name, answer)
        return one.kind == other.kind and not alike

    chosen = ring(len(pairs), others, rng, fits)
    items = []
    for i, one in enumerate(pairs):
        text = prompt(one, asked)
        items.append(Item(i, i, "right", text, one.answer(asked)))
        items += [Item(i, j, "other", text, pairs[j].answer(asked)) for j in chosen[i]]
        if asked == "child":
            published = prompt(one, asked, published=True)
            items.append(Item(i, i, "published", published, one.answer(asked)))
    return items


def by_pair(pairs: Sequence[Pair], scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row for each pair and direction.

    Columns: pair, asked, child, parent, kind, family, shared (whether the names share a word);
    prompt, answer; correct; logprob, first_logprob, n_tokens, rank (0 is on top); published, the
    log-probability as the authors' script takes it: without "Q: " where a child is asked for, and
    without the answer's last token; no_sign, the same with the last token; whole, per_token, first,
    centred; wins.
    """
    family = families([(one.child, one.parent) for one in pairs])
    kinds = np.array([one.kind for one in pairs])
    frames = []
    for asked in DIRECTIONS:
        scored = scores[asked]
        own = scored[scored["kind"] == "right"].set_index("question").sort_index()
        theirs = own
        if asked == "child":
            theirs = scored[scored["kind"] == "published"].set_index("question").sort_index()
        frame = pd.DataFrame(
            {
                "pair": np.arange(len(pairs)),
                "asked": asked,
                "child": [one.child for one in pairs],
                "parent": [one.parent for one in pairs],
                "kind": kinds,
                "family": family,
                "shared": [share_word(one.child, one.parent) for one in pairs],
                "prompt": [prompt(one, asked).removeprefix(FEW_SHOT).strip() for one in pairs],
                "answer": [one.answer(asked) for one in pairs],
                "correct": own["correct"].to_numpy(),
                "logprob": own["logprob"].to_numpy(np.float64),
                "first_logprob": own["first_logprob"].to_numpy(np.float64),
                "n_tokens": own["n_tokens"].to_numpy(),
                "rank": own["rank"].to_numpy(),
                "no_sign": theirs["logprob"].to_numpy(np.float64),
                "published": (theirs["logprob"] - theirs["last_logprob"]).to_numpy(np.float64),
                "wins": wins(scored).reindex(own.index).to_numpy(np.float64),
            }
        )
        frames.append(frame.assign(**centred_scores(scored, kinds)))
    return pd.concat(frames, ignore_index=True)


# Columns of `metrics` that are means of probabilities, and those of centred scores.
_PROBABILITIES = {"probability": "logprob", "without_sign": "no_sign", "as_published": "published"}


def metrics(asked: pd.DataFrame) -> pd.DataFrame:
    """The authors' measure and ours, with 95% intervals over families.

    Columns: among (pairs that share "no word", or "a word"; a mean over both would hang on how many
    of each were drawn), asked, pairs, families; each with _low and _high: probability (mean over
    pairs, of the whole answer), without_sign (without "Q: " where a child is asked for),
    as_published (and without the last token); correct; wins; whole, per_token, first (nats); and
    rank, a median.
    """
    rows = []
    shared = asked["shared"].to_numpy(dtype=bool)
    for among, kept in (("no word", asked[~shared]), ("a word", asked[shared])):
        for direction in DIRECTIONS:
            mine = kept[kept["asked"] == direction]
            row: dict[str, object] = {"among": among, "asked": direction, "pairs": len(mine)}
            row["families"] = int(mine["family"].nunique())
            row["rank"] = float(mine["rank"].median()) if len(mine) else np.nan
            for name, column in _PROBABILITIES.items():
                row |= _with_interval(name, np.exp(mine[column].to_numpy()), mine, (0.0, 1.0))
            for name in ("correct", "wins"):
                row |= _with_interval(name, mine[name].to_numpy(np.float64), mine, share=True)
            for name in SCORES:
                row |= _with_interval(name, mine[name].to_numpy(), mine)
            rows.append(row)
    return pd.DataFrame(rows)


def _with_interval(
    name: str,
    values: npt.NDArray[np.float64],
    rows: pd.DataFrame,
    bounds: tuple[float, float] | None = None,
    *,
    share: bool = False,
) -> dict[str, float]:
    kept = np.isfinite(values)
    values, family = values[kept], rows["family"].to_numpy()[kept]
    low, high, mean = np.nan, np.nan, np.nan
    if len(values):
        mean = float(values.mean())
        low, high = (
            proportion_interval(values, family)
            if share
            else mean_interval(values, family, bounds=bounds)
        )
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _key(pair: Pair, asked: str) -> str:
    """What a question asks: of a child the mother or the father, of a parent any child."""
    return sameness(f"{pair.child}/{pair.kind}" if asked == "parent" else pair.parent)
