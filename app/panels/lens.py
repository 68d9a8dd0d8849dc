"""The logit lens on a prompt, and what the chosen cell says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import xarray as xr

from app import resources, state
from app.compute import checks
from app.compute.engine import ModelSpec
from app.panels.lens_kinds import LOGIT, Chosen
from app.screen import follow, parts
from app.screen.told import ONE_PROMPT, Check, Told
from app.selection import Cell
from app.text import lens_snippets, markup, sentences
from interp.figures import lens_heatmap


def show(
    spec: ModelSpec,
    lens: xr.Dataset,
    way: str,
    prompt: str,
    answer: str | None,
    fig: go.Figure,
    *,
    chosen: Chosen = LOGIT,
) -> None:
    """A heatmap that sets the chosen cell.

    Args:
        lens: the prompt, read through the lens that is `chosen`.
        fig: it, as `drawn` draws it.
    """
    name = f"lens-{way}"

    def selected() -> tuple[int, int] | None:
        cell = state.view().cell
        if cell is None or cell.way != way or cell.position is None:
            return None
        return cell.layer, cell.position

    def choose(place: tuple[int, int]) -> None:
        if place[0] in lens["layer"].values and place[1] in lens["position"].values:
            state.change(cell=Cell(way, place[0], position=place[1]))

    def below() -> str:
        said = sentence(lens, selected())
        return markup.sentence(said) if said else markup.hint("Click a cell to read it.")

    parts.figure(
        fig,
        name,
        data=lambda: table(lens),
        code=lens_snippets.lens(spec, prompt, answer, chosen.through),
        alt=f"{chosen.name} on the {way} prompt: the likeliest next token at each layer and token",
        below=below,
        told=Told(
            "The likeliest next token, read after each block at each token; colour is its "
            f"probability.{chosen.note}",
            "1 prompt",
            ONE_PROMPT,
            "the last row: what the model itself says",
            (checked(spec, lens, prompt, chosen),),
        ),
    )
    follow.cells(name, selected, choose)


def drawn(lenses: Iterable[xr.Dataset], width: int) -> Sequence[go.Figure]:
    """The heatmaps of prompts that stand beside one another, each so many px wide."""
    return parts.level(
        [
            lens_heatmap(lens.isel(k=slice(0, 5)), width=width).update_layout(dragmode="zoom")
            for lens in lenses
        ]
    )


def checked(spec: ModelSpec, lens: xr.Dataset, prompt: str, chosen: Chosen) -> Check:
    """Whether the last layer reads as the model's own logits."""
    key = ("last layer", *chosen.key(), prompt)
    return resources.engine().compute(
        spec, key, lambda model: checks.last_layer(model, lens, prompt)
    )


def sentence(lens: xr.Dataset, selected: tuple[int, int] | None) -> str | None:
    """What the lens shows at (layer, position); None where it has no such cell."""
    if selected is None:
        return None
    layer, position = selected
    if layer not in lens["layer"].values or position not in lens["position"].values:
        return None
    one = lens.isel(example=0).sel(layer=layer, position=position)
    rank = int(one["answer_rank"]) if "answer_rank" in one else None
    return sentences.lens(
        layer,
        position,
        str(one["token"].values),
        str(one["top_token"].values[0]),
        float(one["top_prob"].values[0]),
        rank,
    )


def table(lens: xr.Dataset) -> pd.DataFrame:
    """The lens as rows (layer, position, k)."""
    one = lens.isel(example=0)
    frame = one[["top_token", "top_prob"]].to_dataframe().reset_index()
    keep = ["layer", "position", "token", "k", "top_token", "top_prob"]
    cells = one.drop_vars(["top_token", "top_prob"]).to_dataframe().reset_index()
    extra = [name for name in ("entropy", "answer_rank", "answer_logprob") if name in cells]
    cells = cells[["layer", "position", *extra]].drop_duplicates(["layer", "position"])
    return frame[keep].merge(cells, on=["layer", "position"])


def last_tokens(lens: xr.Dataset) -> tuple[list[str], list[float]]:
    """The likeliest tokens after the whole prompt, and their probabilities."""
    final = lens.isel(example=0, layer=-1, position=-1)
    return [str(t) for t in final["top_token"].values], [
        float(p) for p in np.asarray(final["top_prob"].values)
    ]


def first_token(lens: xr.Dataset) -> str | None:
    """The answer's first token as far as it is among the tokens shown."""
    if "answer_rank" not in lens:
        return None
    final = lens.isel(example=0, layer=-1, position=-1)
    if not 0 <= int(final["answer_rank"]) < lens.sizes["k"]:
        return None
    # By its name: of tokens that are as likely as each other, its rank is that of all of them.
    return str(final["answer_token"].values)


def computed(spec: ModelSpec, prompt: str, answer: str | None) -> xr.Dataset:
    """The lens, with a spinner while the model loads."""
    with st.spinner("Reading the layers …", show_time=True):
        return resources.engine().lens(spec, prompt, answer)
