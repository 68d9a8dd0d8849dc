"""Pieces that several views use: figures with their exports, and text from elsewhere."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app import state
from app.compute.engine import Token
from app.screen import follow, look
from app.screen.told import Told
from app.text import markup
from cache.errors import ObverseError
from experiments.reports.data import csv
from interp.figures.drawing import theme
from interp.figures.drawing.dark import darkened

_GAP = 34  # px between two columns


def width(columns: int) -> int:
    """px of a figure in one of so many columns, on the screen that it is looked at on."""
    return (look.width() - _GAP * (columns - 1)) // columns


def level(figures: Sequence[go.Figure]) -> Sequence[go.Figure]:
    """Figures that stand beside one another, made as high as the highest of them: what is told
    below them begins on one line."""
    heights = [fig.layout.height for fig in figures]
    for fig, height in zip(figures, heights, strict=True):
        below = (fig.layout.margin.b or 0) + max(heights) - height
        fig.update_layout(height=max(heights), margin_b=below)
    return figures


def html(text: str) -> None:
    """Show markup made by `app.text.markup`, where all foreign text is escaped."""
    st.html(text)


def strip(tokens: Sequence[Token], way: str) -> None:
    """A prompt token by token; the chosen one is framed."""
    legend = markup.legend(token.span for token in tokens)

    def tell() -> str:
        cell = state.view().cell
        chosen = cell.position if cell is not None and cell.way == way else None
        return markup.strip(tokens, chosen) + legend

    follow.words(f"strip-{way}", tell)


def error(problem: object) -> None:
    """An error, as one sentence; names in it are shown, not read as Markdown."""
    st.error(markup.plain(problem))


def warning(text: object) -> None:
    st.warning(markup.plain(text))


@contextlib.contextmanager
def in_a_sentence() -> Iterator[None]:
    """What goes wrong inside is told in a sentence; to be used in every fragment, too, whose errors
    Streamlit would show as they are."""
    try:
        yield
    except ObverseError as problem:
        error(problem)
    except Exception as problem:  # whatever it is, the user gets a sentence and the log the rest
        logging.getLogger("obverse").exception("The page could not be drawn")
        error(
            f"This went wrong unexpectedly ({type(problem).__name__}); the terminal says more. "
            "Choose something else or reload the page."
        )


def figure(
    fig: go.Figure,
    name: str,
    *,
    data: Callable[[], pd.DataFrame],
    code: str,
    alt: str,
    told: Told | None = None,
    on_click: Callable[[], None] | None = None,
    below: Callable[[], str] | None = None,
) -> None:
    """A figure with what is told of it, and its menu: SVG, PNG, CSV and its code.

    Args:
        name: key of the chart, and the name of downloaded files.
        data: the numbers, made when they are asked for.
        code: Python that makes the same figure.
        alt: a description for those who cannot see it.
        told: what it is over, how sure it is, and what was checked; where a check fails, nothing
            can be exported.
        on_click: called when a point was clicked; the event is in st.session_state[name], and
            the page is drawn anew. Cells are chosen without that (`follow.cells`).
        below: markup under the figure, told anew whenever another cell is chosen.
    """
    told = told or Told()
    config = theme.export_config(name)
    if told.wrong:
        config["modeBarButtonsToRemove"] += ["toImage"]
    wide = fig.layout.width is not None
    look.let_heading_ahead()
    with st.container(key=f"figure-{name}"):
        st.plotly_chart(
            darkened(fig) if look.dark() else fig,
            width="content" if wide else "stretch",
            theme=None,
            key=name,
            config=config,
            alt=alt,
            on_select="ignore" if on_click is None else on_click,
            selection_mode=("points", "lasso") if on_click is not None else "points",
        )
    with st.container(horizontal=True, vertical_alignment="top", gap="small", wrap=False):
        html(told.markup())
        export(name, data, code, told=told, image=True)
    if told.about:
        html(f'<div class="ob-told">{markup.esc(told.about)}</div>')
    follow.words(f"{name}-below", below or str)


def export(
    name: str,
    data: Callable[[], pd.DataFrame],
    code: str,
    *,
    told: Told | None = None,
    image: bool = False,
) -> None:
    """The numbers behind something as CSV, and the Python that makes it.

    Args:
        told: what was checked; where that failed, the reason stands in place of everything.
        image: whether there is a figure of this name, to be saved as SVG or PNG.
    """
    wrong = told.reasons if told is not None else []
    with st.popover("Export", type="tertiary", icon=":material/download:"):
        if wrong:
            error(" ".join(wrong))
            return
        if image:
            # `follow.js` answers these: a picture is made in the browser, as it is looked at.
            buttons = "".join(
                f'<button class="ob-button" data-image="{markup.esc(name)}" data-format="{kind}">'
                f"Download {kind.upper()}</button>"
                for kind in ("svg", "png")
            )
            html(f'<div class="ob-buttons">{buttons}</div>')
        st.download_button(
            "Download CSV",
            data=lambda: csv(data()),
            file_name=f"{name}.csv",
            mime="text/csv",
            key=f"{name}-csv",
            on_click="ignore",
            icon=":material/table:",
        )
        st.code(code, language="python")


def event(key: str) -> Any:
    """The selection event of a chart or table, for `app.selection`."""
    return st.session_state.get(key)
