"""The figures that a study draws of its stored results."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import xarray as xr

from app import state
from app.runs import Run
from app.screen import parts, switch
from app.screen.told import Told
from app.text import markup
from app.text.rows import rows
from cache.errors import ObverseError
from experiments.figure import Figure, counted
from experiments.reports.code import code

FIGURES = "Figures"
"""The heading above the list of all of them."""


def show(
    run: Run,
    figures: tuple[Figure, ...],
    selected: int | None = None,
    on_point: Callable[[str], None] | None = None,
) -> None:
    """A tab for each figure whose results are stored; only the open one is drawn.

    Args:
        selected: the number of the example that is looked at.
        on_point: told the key of a figure whose point, an example, was clicked.
    """
    ready = stored(run, figures)
    if not ready:
        return
    by_name = {figure.name: figure for figure in ready}
    wanted = state.view().overview
    chosen, place = switch.row_of_tabs(
        "overview",
        {name: markup.plain(figure.title) for name, figure in by_name.items()},
        wanted if wanted in by_name else next(iter(by_name)),
        lambda name: state.change(overview=name),
    )
    with place:
        _draw(run, by_name[chosen], selected, on_point)


def stored(run: Run, figures: tuple[Figure, ...]) -> list[Figure]:
    """Those whose results are stored; of one name the first."""
    ready = [figure for figure in figures if all(map(run.has, figure.results))]
    return list({figure.name: figure for figure in reversed(ready)}.values())[::-1]


def gallery(run: Run, figures: tuple[Figure, ...], said: str) -> None:
    """A list of all figures, and the chosen one beside it with what there is to see in it.

    Args:
        said: what is wrong with the run and stands on the page already.
    """
    ready = {figure.name: figure for figure in stored(run, figures)}
    if not ready:
        return
    wanted = state.view().figure
    chosen = wanted if wanted in ready else next(iter(ready))

    def changed() -> None:
        state.change(figure=st.session_state["gallery"])

    parts.html(markup.heading(FIGURES))
    left, right = st.columns([1, 4], gap="medium")
    st.session_state["gallery"] = chosen
    with left:
        st.radio(
            "Figure",
            list(ready),
            format_func=lambda name: markup.plain(ready[name].title),
            key="gallery",
            on_change=changed,
            label_visibility="collapsed",
        )
    with right:
        _draw(run, ready[chosen], None, None, said)


def _draw(
    run: Run,
    figure: Figure,
    selected: int | None,
    on_point: Callable[[str], None] | None,
    said: str = "",
) -> None:
    tables = run.record.names("table")
    kinds = {name: "table" if name in tables else "dataset" for name in figure.results}
    try:
        results = [run.table(n) if kind == "table" else run.dataset(n) for n, kind in kinds.items()]
    except ObverseError as error:  # of this figure; others can be drawn
        if str(error) == said:
            parts.html(markup.hint("Of this figure, too, that is what is wrong."))
        else:
            parts.error(error)
        return
    clicks = figure.selects and on_point is not None
    try:
        drawn, told = run.drawn(
            (figure, selected if figure.selects else None, clicks),
            lambda: _drawn(figure, results, selected, clicks),
        )
    except ObverseError as error:  # numbers that nobody could draw
        parts.warning(f"The figure '{figure.title}' could not be drawn: {error}")
        return
    except (Exception, SystemExit) as error:  # another package's code may fail in any way
        logging.getLogger("obverse").exception("A study's figure could not be drawn")
        parts.warning(
            f"The figure '{figure.title}' could not be drawn ({type(error).__name__}); the "
            "terminal says more."
        )
        return
    parts.figure(
        drawn,
        figure.name,
        data=lambda: pd.concat([_rows(result) for result in results], ignore_index=True),
        code=code(run.record.path, figure, kinds),
        alt=figure.alt,
        told=told,
        on_click=(lambda: on_point(figure.name)) if clicks and on_point is not None else None,
    )


def _drawn(
    figure: Figure,
    results: list[pd.DataFrame | xr.Dataset | None],
    selected: int | None,
    clicks: bool,
) -> tuple[go.Figure, Told]:
    """The figure with what is told of it.

    Args:
        clicks: whether its points can be chosen.
    """
    chosen = {"selected": selected} if figure.selects else {}
    drawn = figure.draw(*results, **figure.options, **chosen)
    told = _told(figure, results)
    if not isinstance(drawn, go.Figure):
        raise TypeError(f"{type(drawn).__name__} is no figure")
    if clicks:
        drawn.update_layout(dragmode="lasso")  # several at once, as a click chooses one
    return drawn, told


def _told(figure: Figure, results: list[pd.DataFrame | xr.Dataset | None]) -> Told:
    """What the study says of it, of these results; of what it cannot say, the size of these."""
    said = figure.telling(*results)
    sizes = {
        result.sizes["example"]
        for result in results
        if isinstance(result, xr.Dataset) and "example" in result.sizes
    }
    n = said.n or (counted(sizes, "example") if sizes else "")
    return Told(said.shows, n, said.interval, said.control, about=figure.caption)


def _rows(result: pd.DataFrame | xr.Dataset | None) -> pd.DataFrame:
    if isinstance(result, xr.Dataset):
        return rows(result)
    return pd.DataFrame() if result is None else result
