"""Write the report of a run: report.html, report.md, and a folder with its figures."""

from __future__ import annotations

import pandas as pd

from experiments.context import Context
from experiments.reports.code import code
from experiments.reports.data import csv, drawn
from experiments.reports.html import html
from experiments.reports.images import svg
from experiments.reports.markdown import markdown
from experiments.reports.paper import Paper

__all__ = ["publish"]


def publish(paper: Paper, context: Context) -> None:
    """Draw every figure from what the run stored, and write the report in all its forms.

    The figures are stored as CSV (what is drawn), and as SVG if `context.images` asks for that and
    there is a browser to draw them.
    """
    figures = paper.figures()
    names = dict.fromkeys(name for figure in figures for name in figure.results)
    results = {name: context.stored(name) for name in names}
    kinds = {
        name: "table" if isinstance(result, pd.DataFrame) else "dataset"
        for name, result in results.items()
    }
    shown = {
        figure.name: figure.draw(*(results[name] for name in figure.results), **figure.options)
        for figure in figures
    }
    told = {
        figure.name: figure.telling(*(results[name] for name in figure.results))
        for figure in figures
    }
    codes = {figure.name: code(context.directory, figure, kinds) for figure in figures}
    for name, figure in shown.items():
        context.file(f"{name}.csv", csv(drawn(figure)))
    images: dict[str, bytes] = {}
    if context.images:
        images, reason = svg(shown)
        if reason:
            context.note(
                f"The figures are not written as SVG: {reason}. The camera above each figure of "
                "the report saves it."
            )
    for name, image in images.items():
        context.file(f"{name}.svg", image)
    context.document("report.md", markdown(paper, told, codes, images))
    context.document("report.html", html(paper, shown, told, codes))
