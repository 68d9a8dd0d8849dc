"""One of two states that are compared, and the choices that both share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import streamlit as st

from app import state
from app.compute.engine import ModelSpec
from app.panels.patching import SITE_NAMES
from app.runs import Run
from app.selection import SITES, View
from app.text import markup
from experiments.explorer import Examples
from interp.figures.drawing import theme

COLOURS = {"a": theme.OKABE_ITO[0], "b": theme.OKABE_ITO[1]}


@dataclass(frozen=True)
class Side:
    """A state, with what it is about. Nothing is loaded before it is asked for.

    Attributes:
        name: "a" or "b".
        title: what it is called on the page.
        view: what is chosen in it.
        run: the run, if it is one.
        model: the model; None where it cannot be loaded, which is then said on the page.
        examples: the study's examples with their table; None without.
    """

    name: str
    title: str
    view: View
    run: Run | None
    model: Callable[[], ModelSpec | None]
    examples: Callable[[], tuple[Examples, pd.DataFrame] | None]

    @property
    def letter(self) -> str:
        return self.name.upper()

    @property
    def colour(self) -> str:
        return COLOURS[self.name]


def choice(
    field: str, names: Mapping[str, str], current: str, *, label: str, usual: str | None = None
) -> str:
    """A row of choices that stands in the link as `field` of what is compared.

    Args:
        names: what each choice is called.
        current: the one that is chosen.
        usual: the one that is left out of the link.
    """

    def changed() -> None:
        value = st.session_state[f"compare-{field}"]
        told = None if value == usual else value
        state.change(two=replace(state.view().two, **{field: told}), cell=None)

    st.session_state[f"compare-{field}"] = current
    st.segmented_control(
        label,
        list(names),
        format_func=lambda name: markup.plain(names[name]),
        key=f"compare-{field}",
        on_change=changed,
        label_visibility="collapsed",
        required=True,
    )
    return current


def one_of(wanted: str | None, allowed: Sequence[str]) -> str:
    """What is wanted if it is there, else the first."""
    return wanted if wanted is not None and wanted in allowed else allowed[0]


def site(allowed: Sequence[str] = SITES) -> str:
    """The site that is patched; in the link as on other pages."""
    current = one_of(state.view().site, allowed)

    def changed() -> None:
        state.change(site=st.session_state["compare-site"], cell=None)

    st.session_state["compare-site"] = current
    st.segmented_control(
        "Site",
        list(allowed),
        format_func=SITE_NAMES.__getitem__,
        key="compare-site",
        on_change=changed,
        label_visibility="collapsed",
        required=True,
    )
    return current
