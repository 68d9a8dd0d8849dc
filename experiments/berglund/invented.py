"""Experiment 1: facts of invented people, told in one direction or in both, asked in each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from experiments.berglund.people import GROUPS, Asked, Group, People
from experiments.berglund.scoring import SCORES, Item, centred_scores, ring, wins
from interp.stats import mean_interval, proportion_interval

__all__ = ["WAYS", "asked_items", "by_authors", "by_question", "metrics", "name_of"]

Way = tuple[Group, Asked]
WAYS: tuple[Way, ...] = tuple((g, a) for g in GROUPS for a in ("name", "description"))
_NAMES = {
    "name first": "name_first",
    "description first": "description_first",
    "both": "both",
}


def name_of(way: Way) -> str:
    """The name of the stored scores of one group, asked one way."""
    return f"people_{_NAMES[way[0]]}_asked_{way[1]}"


def told_so(way: Way) -> bool:
    """Whether the question goes the way that the facts were told."""
    return way[0] == "both" or way[0].startswith(way[1])


def asked_items(people: People, way: Way, others: int, rng: np.random.Generator) -> list[Item]:
    """What is scored of one group, asked one way: right answers, wrong ones, and the authors'.

    Wrong answers are those of other people of the group to the same wording, so that a description
    has the form that the prompt asks for.
    """
    asked = people.asked[way]
    names = people.names[way[0]]
    number = {name: i for i, name in enumerate(names)}
    at = {(number[one.person], one.wording): i for i, one in enumerate(asked)}
    chosen = ring(len(names), others, rng, lambda _one, _other: True)
    items = []
    for i, one in enumerate(asked):
        prompt = one.line.prompt
        items.append(Item(i, i, "right", prompt, one.answer))
        for other in chosen[number[one.person]]:
            j = at[other, one.wording]
            # Some descriptions are the same in one form; what is right is no wrong answer.
            if asked[j].answer != one.answer:
                items.append(Item(i, j, "other", prompt, asked[j].answer))
        if one.line.completion != one.answer:
            items.append(Item(i, i, "published", prompt, one.line.completion))
        if one.random is not None:
            items.append(Item(i, i, "random", prompt, one.random))
    return items


def by_question(people: People, scores: Mapping[Way, pd.DataFrame]) -> pd.DataFrame:
    """One row for each question (a person in a wording, asked one way).

    Columns: group, asked, told_so, person, wording, prompt, answer; correct (greedy decoding gives
    the answer) and correct_published (the authors' whole completion); logprob, first_logprob,
    n_tokens, rank of the first token (0 is on top), random_logprob (NaN where there is none);
    whole, per_token and first, centred (see `scoring.centred`); wins.
    """
    frames = []
    for way, scored in scores.items():
        asked = people.asked[way]
        own = scored[scored["kind"] == "right"].set_index("question").sort_index()
        published = scored[scored["kind"] == "published"].set_index("question")["correct"]
        random = scored[scored["kind"] == "random"].set_index("question")["logprob"]
        wording = np.array([one.wording for one in asked])
        columns: dict[str, object] = {
            "group": way[0],
            "asked": way[1],
            "told_so": told_so(way),
            "person": [one.person for one in asked],
            "wording": wording,
            "prompt": [one.line.prompt for one in asked],
            "answer": [one.answer for one in asked],
            "correct": own["correct"].to_numpy(),
            "correct_published": published.reindex(own.index)
            .where(lambda found: found.notna(), own["correct"])
            .astype(bool)
            .to_numpy(),
            "logprob": own["logprob"].to_numpy(np.float64),
            "first_logprob": own["first_logprob"].to_numpy(np.float64),
            "n_tokens": own["n_tokens"].to_numpy(),
            "rank": own["rank"].to_numpy(),
            "random_logprob": random.reindex(own.index).to_numpy(np.float64),
            "wins": wins(scored).reindex(own.index).to_numpy(np.float64),
        }
        frames.append(pd.DataFrame(columns).assign(**centred_scores(scored, wording)))
    return pd.concat(frames, ignore_index=True)


def metrics(asked: pd.DataFrame) -> pd.DataFrame:
    """The authors' metrics and ours, with 95% intervals over people: one row for each way.

    Wordings of one person are not independent, so people count.
    """
    rows = []
    for way in WAYS:
        mine = asked[(asked["group"] == way[0]) & (asked["asked"] == way[1])]
        if mine.empty:
            continue
        who = mine["person"].to_numpy()
        row: dict[str, object] = {"group": way[0], "asked": way[1], "told_so": told_so(way)}
        row |= {"people": len(np.unique(who)), "questions": len(mine)}
        for name in ("correct", "correct_published", "wins"):
            values = mine[name].to_numpy(np.float64)
            values, of = values[np.isfinite(values)], who[np.isfinite(values)]
            low, high = proportion_interval(values, of) if len(values) else (np.nan, np.nan)
            row |= {name: values.mean() if len(values) else np.nan}
            row |= {f"{name}_low": low, f"{name}_high": high}
        row["rank"] = float(mine["rank"].median())
        row["logprob"] = float(mine["logprob"].mean())
        row["first_logprob"] = float(mine["first_logprob"].mean())
        for kind in SCORES:
            scores = of_people(mine, kind)
            row[kind] = float(scores.mean()) if len(scores) else np.nan
            row[f"{kind}_low"], row[f"{kind}_high"] = mean_interval(scores)
        rows.append(row)
    return pd.DataFrame(rows)


def of_people(asked: pd.DataFrame, kind: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A centred score by person, the mean over wordings; those without one are left out."""
    found = asked.groupby("person", sort=False)[kind].mean().to_numpy(np.float64)
    return np.asarray(found[np.isfinite(found)])


def by_authors(asked: pd.DataFrame) -> pd.DataFrame:
    """The authors' tests of the right answer against a random one, where they give such answers.

    They take each prompt as independent, and sum log-probabilities over tokens, so that a short
    answer beats a long one; the last columns count people, by the difference per prompt.

    Columns group, asked, prompts, right and random (mean log-probabilities, nats), t_p (Welch's
    t-test), ks_p (Kolmogorov–Smirnov), difference with low and high (95%, over people).
    """
    rows = []
    for (group, given), mine in asked.groupby(["group", "asked"], sort=False):
        both = mine[np.isfinite(mine["random_logprob"])]
        if len(both) < 2:
            continue
        right = both["logprob"].to_numpy(np.float64)
        random = both["random_logprob"].to_numpy(np.float64)
        t_p = float(scipy_stats.ttest_ind(right, random, equal_var=False).pvalue)
        ks_p = float(scipy_stats.ks_2samp(right, random).pvalue)
        low, high = mean_interval(right - random, both["person"].to_numpy())
        means = (float(right.mean()), float(random.mean()))
        rows.append((group, given, len(both), *means, t_p, ks_p, means[0] - means[1], low, high))
    columns = ["group", "asked", "prompts", "right", "random", "t_p", "ks_p", "difference"]
    return pd.DataFrame(rows, columns=[*columns, "low", "high"])
