"""The result in sentences that a person would quote."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.berglund.celebrities import metrics as of_pairs
from experiments.berglund.config import Config
from experiments.berglund.invented import metrics as of_people
from experiments.berglund.measured import Measured
from experiments.numbers import percent

__all__ = ["headline"]

_TUNED = {
    "none": "as it is",
    "full": "trained on the facts of experiment 1",
    "lora": "trained on the facts of experiment 1 with low-rank adapters",
}


def headline(model: str, config: Config, measured: Measured) -> list[str]:
    """One sentence for each part that was run.

    Args:
        model: its name, empty where none was asked.
    """
    sentences = []
    if measured.people is not None:
        who = f"{model}, {_TUNED[config.tune]},"
        trained = config.tune != "none"
        sentences.append(_people(who, of_people(measured.people), trained=trained))
    if measured.pairs is not None:
        sentences.append(_pairs(model, of_pairs(measured.pairs)))
    if measured.published is not None:
        sentences.append(_published(measured.published))
    return sentences


def _people(who: str, found: pd.DataFrame, *, trained: bool) -> str:
    rows = {(row["group"], row["asked"]): row for _, row in found.iterrows()}

    def shown(group: str, asked: str) -> str:
        row = rows[group, asked]
        return f"{percent(row['correct'])} [{percent(row['correct_low'])}, " + (
            f"{percent(row['correct_high'])}]"
        )

    told = "" if trained else " It has read these facts only if it was trained on them before."
    return (
        f"{who} completes {shown('name first', 'name')} of the descriptions that are told name "
        f"first and, asked the other way round, {shown('name first', 'description')} of the names; "
        f"of facts told description first {shown('description first', 'description')} of the "
        f"names and {shown('description first', 'name')} of the descriptions.{told}"
    )


def _pairs(model: str, found: pd.DataFrame) -> str:
    rows = found[found["among"] == "no word"].set_index("asked")
    if not len(rows) or not np.isfinite(rows["wins"].to_numpy(float)).all():
        return f"{model} was asked about too few celebrities to sum up."
    shown = {
        asked: f"{percent(row['wins'])} [{percent(row['wins_low'])}, {percent(row['wins_high'])}]"
        for asked, row in rows.iterrows()
    }
    return (
        f"Among celebrities who share no word with the parent's name, {model} prefers the right "
        f"parent to a wrong one in {shown['parent']} of the comparisons and the right child in "
        f"{shown['child']} (chance: 50%)."
    )


def _published(table: pd.DataFrame) -> str:
    gaps = table[(table["among"] == "all") & (table["asked"] == "difference")]
    least, most = 100 * gaps["mean"].min(), 100 * gaps["mean"].max()
    clear = int((gaps["low"] > 0).sum())
    return (
        f"In the published results {clear} of {len(gaps)} models give the parent of a celebrity "
        "more probability than the celebrity as the parent's child, with an interval above zero; "
        f"the differences are {least:.3g} to {most:.3g} points."
    )
