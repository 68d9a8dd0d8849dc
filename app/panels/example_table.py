"""The table of a study's examples: one row is chosen, and drives everything below it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from app import state
from app.clicks import lassoed, picked, picked_column, sorted_by
from app.screen import parts
from app.screen.standing import standing
from app.selection import LONGEST_SEARCH, Listed
from app.text import markup
from app.text.snippets import Listed as Rows
from app.together import MOST
from experiments.explorer import Column, Examples

_HEIGHT = 356
_MISSING = "missing-example"
_CLICKED = "clicked-figure"
"""The figure whose last event was a click on one point."""


def show(
    examples: Examples, table: pd.DataFrame, code: Callable[[Rows], str], *, height: int = _HEIGHT
) -> int | None:
    """Draw the table; return the chosen example, or None where there is none.

    Args:
        code: makes Python for the rows that are listed.
        height: px of the table, at most.
    """
    current = chosen(examples, table)
    _say_what_is_missing(examples)
    listed = state.view().listed

    def changed() -> None:
        kinds = tuple(map(str, st.session_state["groups"] or ()))
        state.change(
            listed=Listed(str(st.session_state["search"] or ""), kinds, state.view().listed.sort)
        )

    # Set once: what is being typed would be lost where it were set again and again.
    if "search" not in st.session_state:
        st.session_state["search"] = listed.search
    groups = list(dict.fromkeys(str(group) for group in table[examples.group]))
    st.session_state["groups"] = [kind for kind in listed.kinds if kind in groups]
    bar = st.columns([2, 3], vertical_alignment="bottom", gap="small")
    search = bar[0].text_input(
        "Search",
        key="search",
        max_chars=LONGEST_SEARCH,
        on_change=changed,
        type="search",
        placeholder=f"Search {examples.many}",
        live=True,
        label_visibility="collapsed",
    )
    with bar[1]:
        wanted = st.pills(
            "Kind",
            groups,
            selection_mode="multi",
            format_func=lambda group: markup.plain(words(group)),
            key="groups",
            on_change=changed,
            label_visibility="collapsed",
        )
    rows = found(examples, _together(examples, table), search or "", list(wanted or []))
    if rows.empty:
        parts.html(
            f'<div class="ob-empty"><b>No {markup.esc(examples.one)} matches.</b><br>Change the '
            "search, or choose other kinds.</div>"
        )
        return current
    rows = in_order(examples, rows, listed.sort)
    _table(examples, rows, current, height)
    many = markup.esc(examples.many)
    with st.container(horizontal=True, vertical_alignment="top", gap="small", wrap=False):
        parts.html(
            f'<div class="ob-small">{len(rows):,} of {len(table):,} {many}; click the box at the '
            "left of a row to look at it below, a heading to sort. Exported ranks count from "
            "0.</div>"
        )
        numbers = None if rows.index.equals(table.index) else list(map(int, rows[examples.key]))
        parts.export("examples", lambda: rows, code((examples.key, numbers)))
    return current


def _together(examples: Examples, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the examples that were chosen together; all where none were."""
    numbers = state.view().together
    rows = table[table[examples.key].isin(numbers)]
    if len(rows) < 2:
        return table
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        parts.html(
            markup.hint(
                f"{len(rows)} {examples.many} were chosen in the figure, by what they show: means "
                "and intervals below are of these, and say nothing of others."
            )
        )
        st.button("Show all", key="together", on_click=_apart)
    return rows


def _apart() -> None:
    state.change(together=())


def select(examples: Examples, table: pd.DataFrame) -> int | None:
    """A list to choose one from by a part of its name, for pages without the table."""
    current = chosen(examples, table)
    if current is None:
        return None
    _say_what_is_missing(examples)
    rows = dict(zip((int(n) for n in table[examples.key]), range(len(table)), strict=True))

    def name(number: int) -> str:
        row = table.iloc[rows[number]]
        return f"{examples.heading(row)[0]}  ({words(str(row[examples.group]))})"

    key, changed = standing("example", current, choose)
    st.selectbox(
        examples.one.capitalize(), list(rows), format_func=name, key=key, on_change=changed
    )
    return current


def on_point(key: str) -> None:
    """A point of a figure of all examples was clicked, several lie in a lasso, or a double-click
    took the lasso away."""
    examples = lassoed(parts.event(key))
    clicked_before = st.session_state.get(_CLICKED) == key
    st.session_state[_CLICKED] = key if len(examples) == 1 else None
    if len(examples) == 1:
        choose(examples[0])
    elif examples or not clicked_before:  # a second click on a point only takes back the first
        state.change(together=tuple(sorted(set(examples)))[:MOST])


def choose(example: int) -> None:
    """Look at this one; cells chosen in the prompts of another mean nothing in it."""
    if example != state.view().example:
        state.change(example=example, cell=None)


def found(
    examples: Examples, table: pd.DataFrame, search: str, groups: Sequence[str]
) -> pd.DataFrame:
    """The rows that match a search (in any of the columns, whatever the case) and some groups."""
    chosen = table
    if groups:
        chosen = chosen[chosen[examples.group].isin(groups)]
    for word in search.casefold().split():
        text = chosen[list(examples.search)].astype(str).agg(" ".join, axis=1).str.casefold()
        chosen = chosen[text.str.contains(word, regex=False)]
    return chosen


def in_order(examples: Examples, rows: pd.DataFrame, sort: str) -> pd.DataFrame:
    """The rows sorted by a column of the table, what is missing last; as they are by none.

    Args:
        sort: as in `Listed.sort`.
    """
    name = sort.removeprefix("-")
    if name not in {column.name for column in examples.columns} & set(rows.columns):
        return rows

    def told(values: pd.Series) -> pd.Series:
        if pd.api.types.is_numeric_dtype(values):
            return values
        return values.astype(str).str.casefold()

    up = not sort.startswith("-")
    return rows.sort_values(name, ascending=up, kind="stable", na_position="last", key=told)


def words(group: str) -> str:
    """The name of a group, for people."""
    return group.replace("_", " ")


def chosen(examples: Examples, table: pd.DataFrame) -> int | None:
    """The example that is looked at; the first choice of the study where none was chosen."""
    view = state.view()
    if view.example is not None and (table[examples.key] == view.example).any():
        return view.example
    first = examples.first(table)
    st.session_state[_MISSING] = None if view.example is None else (view.example, first)
    state.change(example=first, cell=view.cell if first == view.example else None)
    return first


def _say_what_is_missing(examples: Examples) -> None:
    """That a link names an example which is not here, until another one is chosen."""
    missing, instead = st.session_state.get(_MISSING) or (None, None)
    if missing is not None and state.view().example == instead:
        parts.error(f"There is no {examples.one} {missing} here; what is shown is another one.")


def _table(examples: Examples, rows: pd.DataFrame, chosen: int | None, height: int) -> None:
    numbers = tuple(int(number) for number in rows[examples.key])
    sort = state.view().listed.sort

    def read(event: Mapping[str, Any]) -> Hashable:
        column, example = picked_column(event), picked(event, numbers)
        if column is not None:
            return (None, numbers, sorted_by(sort, column))
        return None if example is None else (example, numbers, sort)

    def moved(at: tuple[int | None, tuple[int, ...], str]) -> None:
        example, _, by = at
        if example is None:
            state.change(listed=replace(state.view().listed, sort=by))
        else:
            choose(example)

    columns = [column for column in examples.columns if column.name in rows]
    place = [numbers.index(chosen)] if chosen in numbers else []
    # What a browser tells are row numbers of the rows that it shows: of others they are told to a
    # table that is there no more.
    key, selected = standing(
        "examples",
        (chosen, numbers, sort),
        moved,
        told={"selection": {"rows": place, "columns": [], "cells": []}},
        read=read,
    )
    with st.container(key="examples-table"):
        st.dataframe(
            _shown(rows, columns, examples.group),
            height=min(height, 38 + 35 * len(rows)),
            hide_index=True,
            column_config={column.name: _config(column, sort) for column in columns},
            key=key,
            on_select=selected,
            # A heading that is clicked sorts the table here, and not in the browser: an order that
            # only the browser knew would be lost with the table, whenever another example is chosen
            # elsewhere; and so a link holds it.
            selection_mode=["single-row", "single-column"],
            alt=f"The study's {examples.many}, with what the model makes of each",
        )


def _shown(rows: pd.DataFrame, columns: Sequence[Column], group: str) -> pd.DataFrame:
    """Values as people read them: ranks from 1, as in `interp.figures.drawing.numbers.rank`."""
    shown = rows[[column.name for column in columns]]
    ranks = [column.name for column in columns if column.kind == "rank"]
    shown = shown.assign(**{name: shown[name] + 1 for name in ranks})
    return shown.assign(**{group: shown[group].map(words)}) if group in shown else shown


def _config(column: Column, sort: str) -> object:
    sign = {column.name: "▲ ", f"-{column.name}": "▼ "}.get(sort, "")
    named = {"label": f"{sign}{column.label}", "help": column.help, "width": column.width}
    if column.kind == "flag":
        return st.column_config.CheckboxColumn(**named)
    if column.kind == "text":
        return st.column_config.TextColumn(**named)
    form = "localized" if column.kind == "rank" else "%.1f"
    return st.column_config.NumberColumn(**named, format=form)
