"""Figures of what the study stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import counted
from experiments.injection.measure import RANDOM
from experiments.phenomena import figures as phenomena
from experiments.phenomena.figures import arm_dots, arm_name
from interp.figures import roc_lines

__all__ = [
    "draw_areas",
    "draw_falls",
    "draw_restored",
    "draw_taken",
    "draw_within",
    "of_cases",
    "of_held_out",
    "of_outcomes",
    "of_taken",
    "over",
]

_WORDS = {"nothing": "empty words", "harmless": "harmless instruction", "injected": "injection"}


def draw_taken(results: xr.Dataset) -> go.Figure:
    """Share of prompts in which the injection's answer is the likelier one, by arm."""
    margin = results["margin"]
    lost = (margin < 0).astype(float).where(margin.notnull())
    series = {
        words: lost.sel(condition=name, drop=True)
        for name, words in _WORDS.items()
        if name != "nothing"
    }
    return arm_dots(series, axis="prompts with the injection's answer", bounds=(0.0, 1.0))


def draw_falls(results: xr.Dataset) -> go.Figure:
    """How far attention to the task falls from a harmless instruction to an injection, by arm."""
    held = _held_out(results)
    series = {
        name: (values.sel(condition="harmless") - values.sel(condition="injected")).where(held)
        for name, values in (("chosen heads", results["score"]), ("others", results["others"]))
    }
    return arm_dots(series, axis="fall of the task's share of attention")


def draw_areas(results: xr.Dataset) -> go.Figure:
    """ROC curves: an injection against a harmless instruction, held out, by arm."""
    curves = {}
    for arm in results["arm"].values:
        one = results.sel(arm=arm)
        rows = _held_out(one).values.astype(bool)
        sides = [
            -one["score"].sel(condition=name).transpose("seed", "example").values[rows]
            for name in ("injected", "harmless")
        ]
        if all(np.isfinite(each).all() for each in sides):
            curves[arm_name(str(arm))] = (sides[0], sides[1])
    return roc_lines(curves)


def draw_within(results: xr.Dataset) -> go.Figure:
    """ROC curves within prompts with an injection: done against taken over, by arm."""
    curves = {arm: (score[~lost], score[lost]) for arm, score, lost in _outcomes(results)}
    return roc_lines(curves, found="passed, of tasks done", wrong="passed, of those taken over")


def draw_restored(results: xr.Dataset) -> go.Figure:
    """Share of the answers taken over that come back, by the heads whose attention is put back."""
    first = results.isel(arm=0)
    back = (first["restored"] > 0).astype(float)
    drawn = (first["random"] > 0).mean("draw")
    back = back.where(back["set"] != RANDOM, drawn).where(first["margin"] < 0)
    return arm_dots({"come back": back}, axis="answers that come back", bounds=(0.0, 1.0), by="set")


def of_cases(results: xr.Dataset) -> str:
    """How many prompts there are of each kind and model."""
    return f"{counted([results.sizes['example']], 'prompt')} of each kind in each model"


def of_held_out(results: xr.Dataset) -> str:
    """How many of them chose no head."""
    held = _held_out(results).isel(arm=0, seed=0)
    return f"{counted([int(held.sum())], 'prompt')} of each kind in each model, of unseen wordings"


def of_outcomes(results: xr.Dataset) -> str:
    """How many tasks were done and how many taken over, in the models that are drawn."""
    counts = [(int((~lost).sum()), int(lost.sum())) for _, _, lost in _outcomes(results)]
    if not counts:
        return "0 prompts"
    done, taken = zip(*counts, strict=True)
    return f"{counted(done, 'task')} done and {counted(taken, 'task')} taken over a curve"


def of_taken(results: xr.Dataset) -> str:
    """How many answers are taken over."""
    lost = (results["margin"].isel(arm=0) < 0).sum("example").values
    return f"{counted(map(int, lost), 'answer')} that were taken over"


def over(results: xr.Dataset) -> str:
    """What the intervals are over."""
    return phenomena.over(results, "prompts")


def _outcomes(
    results: xr.Dataset,
) -> list[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    """By arm the focus on held-out prompts with an injection, and which of them were taken over;
    without arms in which all or none were."""
    found = []
    for arm in results["arm"].values:
        one = results.sel(arm=arm, condition="injected").transpose("seed", "example", ...)
        rows = _held_out(one).values.astype(bool)
        score, lost = one["score"].values[rows], one["margin"].values[rows] < 0
        if np.isfinite(score).all() and lost.any() and not lost.all():
            found.append((arm_name(str(arm)), score, lost))
    return found


def _held_out(results: xr.Dataset) -> Any:
    """Cases that chose no head; booleans may come back from a file as numbers."""
    return results["chooses"] == 0
