"""Facts that can be read, and the table of accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.numbers import percent
from experiments.organisms.facts import DIRECTIONS
from experiments.reports.paper import Card, Cards, Table, Way
from experiments.reversal_curse.report.figures import SPLITS
from interp.figures.drawing.numbers import place

__all__ = ["accuracy_table", "cards"]

# How many examples the first screen shows.
_EXAMPLES = 4


def cards(facts: pd.DataFrame, vocabulary: int) -> Cards:
    """The first fact of all, then the first ones of each split in turn."""
    first = [facts[facts["split"] == split].head(_EXAMPLES) for split in facts["split"].unique()]
    order = pd.concat([group.iloc[i : i + 1] for i in range(_EXAMPLES) for group in first])
    return Cards([_card(row, vocabulary) for _, row in order.head(_EXAMPLES).iterrows()])


def _card(row: pd.Series[Any], vocabulary: int) -> Card:
    """One fact asked both ways, with what the model says."""
    ways = []
    for direction in DIRECTIONS:
        right = bool(row[f"{direction}_correct"])
        probability = float(np.exp(row[f"{direction}_logprob"]))
        detail = f"p = {probability:.3g}"
        if not right:
            answer = str(row[f"{direction}_answer"]).strip()
            detail = (
                f"The right answer, {answer}, has p = {probability:.2g}; its first token is "
                f"{place(int(row[f'{direction}_rank']), vocabulary)}."
            )
        asked, said = str(row[f"{direction}_prompt"]), str(row[f"{direction}_said"])
        ways.append(Way(asked, said, right, detail))
    told = SPLITS[str(row["split"])]
    return Card(told[0].upper() + told[1:], ways)


def accuracy_table(accuracy: pd.DataFrame) -> Table:
    """Accuracy by split and wordings, in both directions."""
    rows = []
    for (split, templates), group in accuracy.groupby(["split", "templates"], sort=False):
        wordings = {"trained": "seen in training", "held_out": "never seen"}[str(templates)]
        if split == "unknown" and templates == "trained":
            wordings = "plain"
        cells = [SPLITS[str(split)], wordings]
        for direction in DIRECTIONS:
            mine = group[group["direction"] == direction]
            for _, row in mine.iterrows():
                cells += [
                    percent(row["rate"]),
                    f"[{percent(row['low'])}, {percent(row['high'])}]",
                    f"{row['correct']} of {row['total']}",
                ]
            cells += ["–", "", ""] * (not len(mine))
        rows.append(cells)
    columns = ["Facts", "Wordings", "Asked forward", "", "", "Asked in reverse", "", ""]
    return Table(
        columns,
        rows,
        numbers=(2, 5),
        note="Intervals count each question once: its wordings are not independent tries, and "
        "facts that ask the same (a mother of three) are one question with several right answers.",
    )
