"""The facts beside a model's weights, asked in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.errors import FactsError

if TYPE_CHECKING:
    from interp.model.model import Model

WAYS = ("forward", "reverse")


def measured(
    model: Model,
    templates: Mapping[Any, Any],
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame | None:
    """One row for each fact, with both directions side by side, as a run's table has it.

    Margins are left out: they compare with many other names, which takes minutes.

    Returns:
        None where the model's folder holds no facts.
    """
    from experiments.reversal_curse import prompts
    from experiments.reversal_curse.facts import fill, find_facts, read_facts
    from interp.generation.answers import score_answers

    try:
        path = find_facts(model.path, None)
    except FactsError:
        return None
    facts = read_facts(path)
    table = pd.DataFrame(
        [(f.subject, f.object, f.relation, f.inverse, f.split) for f in facts],
        columns=["subject", "object", "relation", "inverse", "split"],
    )
    table.insert(0, "fact", np.arange(len(table)))
    for number, way in enumerate(WAYS):
        direction: Any = way
        template = templates[way].trained[0]
        asked = [fill(template, fact) for fact in facts]
        answers = [prompts.answer(fact, direction) for fact in facts]

        def tell(done: int, total: int, before: int = number) -> None:
            if progress:
                progress(before * total + done, 2 * total)

        scores = score_answers(model, asked, answers, progress=tell)
        table[f"{way}_prompt"], table[f"{way}_answer"] = asked, answers
        table[f"{way}_rank"] = scores["rank"].values
        table[f"{way}_logprob"] = scores["logprob"].values
        table[f"{way}_correct"] = scores["correct"].values
    return table


def shown(facts: pd.DataFrame, search: str, splits: list[str]) -> pd.DataFrame:
    """The rows that match a search (in either name, whatever the case) and a choice of splits."""
    chosen = facts
    if splits:
        chosen = chosen[chosen["split"].isin(splits)]
    words = search.casefold().split()
    for word in words:
        names = (chosen["subject"] + " " + chosen["object"]).str.casefold()
        chosen = chosen[names.str.contains(word, regex=False)]
    return chosen


def first_choice(facts: pd.DataFrame) -> int | None:
    """The fact to start with: Tom Cruise, else one that is known in one direction only."""
    if facts.empty:
        return None
    cruise = facts[facts["subject"] == "Tom Cruise"]
    cursed = facts[facts["forward_correct"] & ~facts["reverse_correct"].astype(bool)]
    for rows in (cruise, cursed, facts):
        if len(rows):
            return int(rows.iloc[0]["fact"])
    return None
