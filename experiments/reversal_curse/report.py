"""The report of a run: one HTML page, from what was found to how it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure
from experiments.numbers import percent
from experiments.organisms.facts import DIRECTIONS, Direction
from experiments.report import render_page
from experiments.reversal_curse.measure import Measurements, Subject
from experiments.reversal_curse.prompts import questions
from experiments.run_directory.provenance import Provenance
from experiments.study import Verdict
from interp.figures import accuracy_bars, direction_scatter, patching_map, rank_lines
from interp.figures.drawing.numbers import place

_SPLITS = {
    "forward": "learned forward only",
    "reverse": "learned in reverse only",
    "both": "learned both ways",
    "held_out": "never learned",
    "unknown": "given facts",
}
# Which split stands for the curse, where there are several.
_MAIN = ("forward", "unknown", "reverse", "both", "held_out")
_SITES = {
    "resid_pre": "Residual stream, by token",
    "mlp_out": "MLP output, by token",
    "attn_out": "Attention output, by token",
    "z": "Heads",
}
# How many examples the first screen shows, and the half page that one of two figures takes.
_EXAMPLES = 4
_HALF = 540
# Logits. A change of one is a factor of e in the odds; less is not worth a strong colour.
_LEAST_SCALE = 1.0


def render(
    subject: Subject,
    measured: Measurements,
    verdicts: Sequence[Verdict],
    sentences: Sequence[str],
    provenance: Provenance,
    shown: Mapping[Figure, go.Figure],
) -> str:
    """The page as text; `shown` are the figures that the verdicts rest on."""
    main = main_split(measured.facts["split"])
    figures: dict[str, go.Figure] = {
        "accuracy": accuracy_bars(measured.accuracy),
        "scatter": direction_scatter(measured.facts),
        "ranks": rank_lines(_lens_by_name(subject, measured, main), chance=subject.model.d_vocab),
    }
    maps = _maps(measured, main, figures)
    figures |= {figure.name: drawn for figure, drawn in shown.items()}
    return render_page(
        "experiments.reversal_curse",
        "report.html.j2",
        figures,
        {
            "title": "The reversal curse",
            "percent": percent,
            "model": subject.model,
            "headline": sentences,
            "examples": [_example(row, subject.model.d_vocab) for row in _examples(measured.facts)],
            "verdicts": verdicts,
            "shown": list(shown),
            "accuracy": _accuracy_rows(measured.accuracy),
            "maps": maps,
            "main": _SPLITS[main],
            "splits": _SPLITS,
            "templates": {
                direction: subject.templates[direction].trained[0] for direction in DIRECTIONS
            },
            "n_facts": len(subject.facts),
            "n_patched": measured.maps["forward", "resid_pre"].sizes["example"],
            "provenance": provenance,
        },
    )


def main_split(splits: Iterable[str]) -> str:
    """The split that the figures of lens and patching are about."""
    return min(set(splits), key=_MAIN.index)


def _lens_by_name(subject: Subject, measured: Measurements, main: str) -> dict[str, xr.Dataset]:
    """Lines of the rank figure: both directions of the main split, and the reverse of "both"."""
    lines: dict[str, xr.Dataset] = {}
    for direction in DIRECTIONS:
        lens = measured.lens[direction]
        rows = np.nonzero(lens["split"].values == main)[0]
        lines[direction] = lens.isel(example=one_of_each(subject, lens, direction, rows))
    lens = measured.lens["reverse"]
    both = np.nonzero(lens["split"].values == "both")[0]
    if len(both) and main != "both":
        kept = one_of_each(subject, lens, "reverse", both)
        lines["reverse, learned both ways"] = lens.isel(example=kept)
    return lines


def one_of_each(
    subject: Subject, lens: xr.Dataset, direction: Direction, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Of the facts that ask the same the one whose answer the last layer ranks best.

    Any of a question's right answers will do, and a median counts questions.
    """
    asks = np.array(questions(subject.facts, direction))[rows]
    last = lens["answer_rank"].isel(layer=-1).values[rows]
    best = rows[np.lexsort((last, asks))]
    first = np.unique(np.sort(asks), return_index=True)[1]
    kept: npt.NDArray[np.int64] = np.sort(best[first])
    return kept


def _maps(measured: Measurements, main: str, figures: dict[str, go.Figure]) -> list[dict[str, Any]]:
    """Add each site's maps to `figures` and say in which order they stand on the page."""
    out = []
    for site, title in _SITES.items():
        shown: dict[str, xr.Dataset] = {}
        for direction, split in (("forward", main), ("reverse", main), ("reverse", "both")):
            result = measured.maps[_direction(direction), site]
            rows = np.nonzero(result["split"].values == split)[0]
            if len(rows):
                shown[f"{direction}-{split}-{site}"] = result.isel(example=rows)
        # One scale for all, or an empty map would be stretched until its noise looks like a signal.
        limit = max(_LEAST_SCALE, *(_reach(result) for result in shown.values()))
        for name, result in shown.items():
            figures[name] = patching_map(result, value="change", limit=limit, width=_HALF)
        captions = {name: _caption(name.split("-")[0], name.split("-")[1]) for name in shown}
        out.append({"title": title, "figures": captions})
    return out


def _reach(result: xr.Dataset) -> float:
    change = (result["patched"] - result["corrupt"]).mean("example", skipna=True)
    return float(np.nanmax(np.abs(change.values), initial=0.0))


def _caption(direction: str, split: str) -> str:
    way = "Asked forward" if direction == "forward" else "Asked in reverse"
    return f"{way}, facts {_SPLITS[split]}" if split != "unknown" else way


def _direction(name: str) -> Direction:
    return "forward" if name == "forward" else "reverse"


def _examples(facts: pd.DataFrame) -> list[pd.Series[Any]]:
    """The first fact of all, then the first ones of each split in turn."""
    first = [facts[facts["split"] == split].head(_EXAMPLES) for split in facts["split"].unique()]
    order = pd.concat([group.iloc[i : i + 1] for i in range(_EXAMPLES) for group in first])
    return [row for _, row in order.head(_EXAMPLES).iterrows()]


def _example(row: pd.Series[Any], vocabulary: int) -> dict[str, Any]:
    """One fact asked both ways, with what the model says."""
    return {
        "split": _SPLITS[str(row["split"])],
        "ways": [
            {
                "prompt": row[f"{direction}_prompt"],
                "answer": row[f"{direction}_answer"],
                "said": row[f"{direction}_said"],
                "correct": bool(row[f"{direction}_correct"]),
                "probability": float(np.exp(row[f"{direction}_logprob"])),
                "place": place(int(row[f"{direction}_rank"]), vocabulary),
            }
            for direction in DIRECTIONS
        ],
    }


def _accuracy_rows(accuracy: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for (split, templates), group in accuracy.groupby(["split", "templates"], sort=False):
        found: dict[str, Any] = {
            str(row["direction"]): row.to_dict() for _, row in group.iterrows()
        }
        rows.append({"split": _SPLITS[str(split)], "templates": templates, **found})
    return rows
