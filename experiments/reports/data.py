"""The numbers behind a figure as CSV: what is drawn, neither more nor less."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

__all__ = ["csv", "drawn"]

# What figures set their own words in; names in them have entities for it.
_TAG = re.compile(r"</?(?:b|i)>")
_FORMULA = (*"=+-@\t\r\n", *"＝＋－＠")


def csv(table: pd.DataFrame) -> bytes:
    """CSV that spreadsheets read as UTF-8 and never as formulas.

    A cell that starts with =, +, - or @ (some take their wide forms, too) would be run as a
    formula; names and tokens come from models, so those get an apostrophe in front, and so do the
    names of columns. Numbers stay as they are.
    """

    def guard(value: Any) -> Any:
        dangerous = isinstance(value, str) and value[:1] in _FORMULA
        return f"'{value}" if dangerous else value

    return table.map(guard).rename(columns=guard).to_csv(index=False).encode("utf-8-sig")


def drawn(figure: go.Figure) -> pd.DataFrame:
    """One row for each mark of a figure, in the order of its traces.

    Columns: trace (its name in the legend, or its number), x, y; value of the cells of a heat map,
    with its x and y; low and high where the mark has an error bar; label where it has a text. Text
    is as it is read in the figure, which holds it with entities for what Plotly would take for
    markup.
    """
    tables = []
    for number, trace in enumerate(figure.data):
        cells = _cells(trace) if trace.type == "heatmap" else _marks(trace)
        cells.insert(0, "trace", trace.name or str(number + 1))
        tables.append(cells)
    tables = [table for table in tables if len(table)]
    if not tables:
        return pd.DataFrame({"trace": [], "x": [], "y": []})
    return pd.concat(tables, ignore_index=True).map(_read)


def _read(value: Any) -> Any:
    return unescape(_TAG.sub("", value.replace("<br>", "; "))) if isinstance(value, str) else value


def _cells(trace: Any) -> pd.DataFrame:
    values = np.asarray(trace.z)
    rows, columns = values.shape
    x = list(trace.x) if trace.x is not None else list(range(columns))
    y = list(trace.y) if trace.y is not None else list(range(rows))
    return pd.DataFrame(
        {
            "x": np.tile(np.array(x[:columns], object), rows),
            "y": np.repeat(np.array(y[:rows], object), columns),
            "value": values.ravel(),
        }
    )


def _marks(trace: Any) -> pd.DataFrame:
    x, y = getattr(trace, "x", None), getattr(trace, "y", None)
    n = max(0 if x is None else len(x), 0 if y is None else len(y))
    columns: dict[str, Any] = {
        name: np.array(values, object) if values is not None and len(values) == n else [None] * n
        for name, values in (("x", x), ("y", y))
    }
    for axis in ("x", "y"):
        bars: Any = getattr(trace, f"error_{axis}", None)
        above = getattr(bars, "array", None)
        if above is None or len(above) != n:
            continue
        below = bars.arrayminus if bars.arrayminus is not None else above
        middle = np.asarray(columns[axis], np.float64)
        columns["low"] = middle - np.asarray(below, np.float64)
        columns["high"] = middle + np.asarray(above, np.float64)
    text = getattr(trace, "text", None)
    if text is not None and not isinstance(text, str) and len(text) == n:
        columns["label"] = list(text)
    return pd.DataFrame(columns)
