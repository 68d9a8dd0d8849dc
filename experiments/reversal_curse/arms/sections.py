"""What a report says of organisms that were trained otherwise: figures and tables, no verdicts."""

from __future__ import annotations

import pandas as pd

from experiments.numbers import percent
from experiments.organisms.facts import DIRECTIONS
from experiments.reports.paper import Figures, Section, Table
from experiments.reversal_curse.arms.figures import ARM_FIGURES, SCALE_FIGURES, TIME_FIGURES
from experiments.reversal_curse.arms.scale import trends
from experiments.reversal_curse.arms.stage import outcome_counts
from interp.figures.drawing.numbers import plain
from interp.stats import mean_interval

__all__ = ["arms_section", "scale_section", "time_section"]

_FACTORS = {
    "width": "twice as wide",
    "pairs": "twice as many pairs",
    "passes": "everything told twice as often",
}


def arms_section(scores: pd.DataFrame, verdicts: pd.DataFrame) -> Section:
    """Of the tables that `arm_tables` gives."""
    return Section(
        "Trained otherwise",
        # Each has many columns, and the width of the page to itself.
        [
            *(Figures([figure]) for figure in ARM_FIGURES),
            scores_table(scores),
            outcomes_table(verdicts),
        ],
        "Small organisms of the same kind, trained anew under each arm and asked the same "
        "questions; see `obverse train --help` for what each arm changes.",
    )


def scores_table(scores: pd.DataFrame) -> Table:
    """Each arm's answers in both directions, over seeds."""
    rows = []
    for arm, group in scores.groupby("arm", sort=False):
        cells = [str(arm)]
        for direction in DIRECTIONS:
            mine = group[group["direction"] == direction]
            low, high = mean_interval(mine["score"].to_numpy(dtype=float))
            interval = f"[{plain(low)}, {plain(high)}]" if pd.notna(low) else ""
            cells += [
                percent(float(mine["accuracy"].mean())),
                percent(float(mine["held_first"].mean())),
                plain(float(mine["score"].mean())),
                interval,
            ]
        rows.append(cells)
    each = ("right", "first of held-out", "preference", "")
    columns = ["Arm", *(f"{way}: {name}" if name else "" for way in DIRECTIONS for name in each)]
    return Table(
        columns,
        rows,
        numbers=(1, 2, 3, 5, 6, 7),
        note="Pairs told forward only; means over seeds. Preference in nats, with the 95% interval "
        "over seeds where there are enough.",
    )


def outcomes_table(verdicts: pd.DataFrame) -> Table:
    """In how many seeds each hypothesis is supported / rejected / undecided, by arm."""
    counts = outcome_counts(verdicts)
    names = list(dict.fromkeys(counts["id"]))
    rows = []
    for arm, group in counts.groupby("arm", sort=False):
        of = group.set_index("id")[["supported", "rejected", "undecided"]]
        cells = [
            " / ".join(str(int(n)) for n in of.loc[name]) if name in of.index else "–"
            for name in names
        ]
        rows.append([str(arm), *cells])
    return Table(
        ["Arm", *names],
        rows,
        numbers=tuple(range(1, len(names) + 1)),
        note="Seeds in which each hypothesis is supported / rejected / undecided.",
    )


def scale_section(table: pd.DataFrame) -> Section:
    """Of the table that `scale_table` gives."""
    rows = []
    for direction in DIRECTIONS:
        for _, row in trends(table, direction).iterrows():
            slope, low, high = (plain(float(row[name])) for name in ("slope", "low", "high"))
            told = _FACTORS[str(row["factor"])]
            rows.append([f"asked {direction}", told, slope, f"[{low}, {high}]"])
    note = (
        "What the preference gains (nats) with each doubling, the other factors held; 95% "
        "intervals of a least-squares fit over trainings, whose effects are taken as additive."
    )
    effects = Table(["Direction", "With", "Preference", ""], rows, numbers=(2,), note=note)
    return Section("Scale", [Figures(SCALE_FIGURES), *([effects] if rows else [])])


def time_section() -> Section:
    """Of what `time_table` stores."""
    return Section("Along a training", [Figures([figure]) for figure in TIME_FIGURES])
