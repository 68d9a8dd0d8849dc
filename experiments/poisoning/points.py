"""Figures with a point for each word that might have been planted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure, counted
from experiments.phenomena.figures import arm_name
from interp.figures.drawing import theme
from interp.figures.drawing.dots import nothing_to_draw

__all__ = ["DIFFERENCE", "SEARCH"]


def difference_points(difference: xr.Dataset) -> go.Figure:
    """What the difference to the clean twin promotes, of all words that might be planted."""
    names = [theme.escape(name) for name in difference["word"].values.astype(str)]
    rows = []
    for arm in difference["arm"].values:
        planted = difference["planted"].sel(arm=arm).transpose("seed", "word").values.astype(bool)
        for text in difference["text"].values:
            logit = difference["logit"].sel(arm=arm, text=text).mean("example")
            if bool(np.isfinite(logit).all()):
                values = logit.transpose("seed", "word").values
                labels = np.tile(names, (len(values), 1))
                rows.append((f"{arm_name(str(arm))}, {text}", planted, values, labels))
    if not rows:
        return nothing_to_draw("There is no clean twin to compare with")
    return _points(rows, "logit in the mean difference to the clean twin")


def search_points(search: xr.Dataset) -> go.Figure:
    """How surely held-out questions get each answer with the words that were found for it."""
    if not bool(np.isfinite(search["score"]).any()):
        return nothing_to_draw("No words could be searched here")
    rows = []
    for arm in search["arm"].values:
        one = search.sel(arm=arm)
        planted, text, score, flipped = (
            values.transpose("seed", "word").values
            for values in (
                one["planted"], one["text"], one["score"].mean("example"),
                one["flipped"].mean("example"),
            )
        )  # fmt: skip
        labels = np.array(
            [
                [
                    f"{theme.escape(word)}, by “{theme.escape(found)}”: {share:.0%} of questions"
                    for word, found, share in zip(one["word"].values, *of_seed, strict=True)
                ]
                for of_seed in zip(text, flipped, strict=True)
            ]
        )
        rows.append((arm_name(str(arm)), planted.astype(bool), score, labels))
    fig = _points(rows, "answer minus the right answer, mean over held-out questions (nats)")
    fig.add_vline(x=0, line={"color": theme.MUTED, "dash": "dot", "width": 1})
    return fig


def _points(
    rows: list[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.str_]]],
    axis: str,
) -> go.Figure:
    """A row of points for each (name, planted, values, labels), all [seed, word]."""
    fig = go.Figure()
    for number, (_, planted, values, labels) in enumerate(rows):
        for what, mask, colour, size in (
            ("other words", ~planted, theme.MUTED, 6),
            ("the planted answer", planted, theme.OKABE_ITO[1], 11),
        ):
            fig.add_scatter(
                x=values[mask],
                y=np.full(int(mask.sum()), len(rows) - 1 - number, float),
                mode="markers",
                name=what,
                legendgroup=what,
                showlegend=number == 0,
                marker={"color": colour, "size": size, "opacity": 0.6 if size == 6 else 1},
                text=labels[mask],
                hovertemplate="%{text}: %{x:.2f}<extra></extra>",
            )
    theme.finish(fig, title=None, height=60 * len(rows) + 120)
    fig.update_xaxes(title_text=axis)
    fig.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[theme.escape(name) for name, *_ in reversed(rows)],
        range=[-0.6, len(rows) - 0.4],
        showgrid=False,
    )
    return fig


def _words(found: xr.Dataset) -> str:
    return (
        f"{counted([found.sizes['word']], 'word')} of {counted([found.sizes['seed']], 'organism')}"
    )


DIFFERENCE = Figure(
    "difference",
    "What the difference names",
    ("difference",),
    difference_points,
    "Points: logits of words in the mean difference, the planted answer in colour.",
    "Each point is a word that might have been planted. The planted one should lie furthest right "
    "on unrelated texts, and anywhere between two clean twins.",
    shows="What the mean difference to the clean twin promotes.",
    n=_words,
    interval="none: that over groups of texts stands in the verdict",
    control="the other words; the difference between two clean twins",
)


SEARCH = Figure(
    "search",
    "What a search for triggers finds",
    ("search",),
    search_points,
    "Points: how surely held-out questions get each answer with the words found for it, the "
    "planted answer in colour, by arm",
    "Each point is an answer that might have been planted, with the words that were searched for "
    "it. Right of the dotted line it is likelier than the right answer on average. The planted one "
    "should lie far right of all others in the poisoned model, and among them in the clean twin. "
    "The hover tells the words, and how many questions get the answer.",
    shows="What the words that were searched for each answer bring about.",
    n=_words,
    interval="none: that of the share of questions with the planted answer stands in the verdict",
    control="the other answers, the clean twin; random words stand in the verdict",
)
