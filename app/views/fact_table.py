"""The table of facts: one row is chosen, and drives everything below it."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import facts as fact_tables
from app import state
from app.selection import clicked_one, picked
from app.text import markup
from app.views import parts

_COLUMNS = {
    "subject": "Subject",
    "object": "Object",
    "split": "Trained",
    "forward_correct": "Forward",
    "forward_rank": "Rank →",
    "forward_margin": "Margin →",
    "reverse_correct": "Reverse",
    "reverse_rank": "Rank ←",
    "reverse_margin": "Margin ←",
}
_HELP = {
    "split": "The direction in which the model learned the fact.",
    "forward_correct": "Whether it gives the right answer when asked about the subject.",
    "reverse_correct": "Whether it gives the right answer when asked about the object.",
    "forward_rank": "Rank of the answer’s first token, asked forward; 1 is on top.",
    "reverse_rank": "Rank of the answer’s first token, asked in reverse; 1 is on top.",
    "forward_margin": "Log-probability of the right name minus the mean over others, in nats.",
    "reverse_margin": "Log-probability of the right name minus the mean over others, in nats.",
}
_WIDTHS = {"subject": 108, "object": 128, "split": 68, "correct": 62, "rank": 54, "margin": 66}
_HEIGHT = 356


def show(facts: pd.DataFrame) -> int | None:
    """Draw the table; return the chosen fact, or None where there is none."""
    chosen = _chosen(facts)
    bar = st.columns([1, 1], vertical_alignment="bottom", gap="small")
    search = bar[0].text_input(
        "Search names",
        key="search",
        type="search",
        placeholder="Search names",
        live=True,
        label_visibility="collapsed",
    )
    splits = list(dict.fromkeys(str(split) for split in facts["split"]))
    with bar[1]:
        wanted = st.pills(
            "Trained",
            splits,
            selection_mode="multi",
            format_func=lambda split: split.replace("_", " "),
            key="splits",
            label_visibility="collapsed",
        )
    rows = fact_tables.shown(facts, search or "", list(wanted or []))
    if rows.empty:
        parts.html(
            '<div class="ob-empty"><b>No fact matches.</b><br>Change the search, or choose other '
            "splits.</div>"
        )
        return chosen
    _table(rows, chosen)
    parts.html(
        f'<div class="ob-small">{len(rows):,} of {len(facts):,} facts; '
        "click the box at the left of a row to look at it below.</div>"
    )
    return chosen


def on_point(key: str) -> None:
    """A point of the scatter was clicked."""
    fact = clicked_one(parts.event(key))
    if fact is not None:
        choose(fact)


def choose(fact: int) -> None:
    """Look at this fact; cells chosen in the prompts of another mean nothing in it."""
    if fact != state.view().fact:
        state.change(fact=fact, cell=None)


def _chosen(facts: pd.DataFrame) -> int | None:
    chosen = state.view().fact
    if chosen is None or not (facts["fact"] == chosen).any():
        chosen = fact_tables.first_choice(facts)
        state.change(fact=chosen, cell=state.view().cell if chosen == state.view().fact else None)
    return chosen


def _table(rows: pd.DataFrame, chosen: int | None) -> None:
    numbers = [int(fact) for fact in rows["fact"]]

    def selected() -> None:
        fact = picked(parts.event("facts"), numbers)
        if fact is not None:
            choose(fact)

    names = [name for name in _COLUMNS if name in rows]
    place = [numbers.index(chosen)] if chosen in numbers else []
    # The selection is ours: what the widget remembers are row numbers of another search.
    st.session_state["facts"] = {"selection": {"rows": place, "columns": [], "cells": []}}
    st.dataframe(
        _shown(rows[names]),
        height=min(_HEIGHT, 38 + 35 * len(rows)),
        hide_index=True,
        column_config=_config(names),
        key="facts",
        on_select=selected,
        selection_mode="single-row",
        alt="Facts with ranks and margins in both directions",
    )


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Values as people read them: ranks from 1, as in `interp.figures.drawing.numbers.rank`."""
    ranks = [str(name) for name in rows if str(name).endswith("rank")]
    return rows.assign(**{name: rows[name] + 1 for name in ranks}).replace(
        {"split": {"held_out": "held out"}}
    )


def _config(names: list[str]) -> dict[str, object]:
    config: dict[str, object] = {}
    for name in names:
        label, tip = _COLUMNS[name], _HELP.get(name)
        width = _WIDTHS[name.rpartition("_")[2]]
        if name.endswith("correct"):
            config[name] = st.column_config.CheckboxColumn(label, help=tip, width=width)
        elif name.endswith("rank"):
            config[name] = st.column_config.NumberColumn(
                label, help=tip, format="localized", width=width
            )
        elif name.endswith("margin"):
            config[name] = st.column_config.NumberColumn(
                label, help=tip, format="%.1f", width=width
            )
        else:
            config[name] = st.column_config.TextColumn(label, help=tip, width=width)
    return config


def heading(rows: pd.Series) -> str:
    """The chosen fact as a heading."""
    trained = str(rows["split"]).replace("_", " ")
    small = {
        "held out": "never trained",
        "unknown": "how it was learned is unknown",
    }.get(trained, f"trained {trained}" + (" only" if trained != "both" else " ways"))
    return markup.heading(f"{rows['subject']}  ·  {rows['object']}", small)
