"""A patching map whose cells say what they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import xarray as xr

from app import resources, state
from app.clicks import column_of
from app.compute.checks import Check, patches, stored
from app.compute.engine import ModelSpec
from app.compute.pairs import Aligned, every_token
from app.compute.refining import Refined, largest, trust
from app.screen import follow, parts, switch
from app.screen.told import Told
from app.selection import Cell
from app.text import markup, sentences
from cache.errors import ObverseError
from experiments.explorer import Pair
from interp.figures import patching_map
from interp.figures.drawing.axes import shared_token
from interp.figures.drawing.numbers import reach as furthest

if TYPE_CHECKING:
    from interp.model.model import Model

SITE_NAMES = {
    "resid_pre": "Residual stream",
    "attn_out": "Attention output",
    "mlp_out": "MLP output",
    "z": "Heads",
}
VALUES = {"change": "Change", "normalised": "Share of the effect", "raw": "Raw metric"}
_SHOWS = {
    "change": "By how much each patch moves the answer’s logit against the foil’s.",
    "normalised": "What each patch brings back: 0 is the corrupted run, 1 the clean one.",
    "raw": "The answer’s logit minus the foil’s after each patch.",
}


@dataclass(frozen=True)
class Map:
    """What one map shows.

    Attributes:
        way: the prompt it belongs to.
        result: of `sweep`.
        example: one of its pairs, or None for the mean over all.
        pair: the pair of `example`, where there is one.
        slots: the clean prompt's token at each position label; empty where that is not known.
        code: Python that makes the figure, without its selection.
        refined: the estimate that the result has replaced in part or in whole, if there was one.
        aligned: the tokens of the pair's prompts, where they are known.
        checks: what was checked of the patches.
        about: of a mean, how other examples are taken together.
    """

    way: str
    result: xr.Dataset
    example: int | None
    pair: Pair | None
    slots: Mapping[str, int]
    code: str
    refined: Refined | None = None
    aligned: Aligned | None = None
    checks: tuple[Check, ...] = ()
    about: str = ""

    @property
    def site(self) -> str:
        return str(self.result.attrs["site"])


def of_pair(
    way: str,
    result: xr.Dataset,
    example: int,
    pair: Pair,
    spec: ModelSpec | None,
    code: str,
    refined: Refined | None = None,
) -> Map:
    """The map of one pair, with every token of its clean prompt where the model is there to tell
    them."""
    if spec is None:
        return Map(way, result, example, pair, {}, code, refined)
    aligned = resources.engine().aligned(spec, pair)
    shown, slots = every_token(result.isel(example=[example]), aligned)
    checks = refined.checks if refined else checked(spec, pair, result, example)
    return Map(way, shown, 0, pair, slots, code, refined, aligned, checks)


def checked(spec: ModelSpec, pair: Pair, result: xr.Dataset, example: int) -> tuple[Check, ...]:
    """What must be so of a stored map and of its patches, tried on one of its pairs."""
    site, layer = str(result.attrs["site"]), largest(result, example)
    one = result.isel(example=[example])
    numbers = tuple(one[name].values.tobytes() for name in ("patched", "clean", "corrupt"))

    def check(model: Model) -> tuple[Check, ...]:
        of_map = stored(model, pair, one)
        # Of another model nothing is known of these numbers.
        return (
            of_map
            if any(not c.sure for c in of_map)
            else (
                *patches(model, pair, site, layer),
                *of_map,
            )
        )

    key = ("checks", pair, site, layer, hash((numbers, one.attrs.get("fingerprint"))))
    return resources.engine().compute(spec, key, check)


def told(one: Map, shows: str) -> Told:
    """What is told under a map."""
    from interp.patching.results import effect_of

    n = one.result.sizes["example"] if one.example is None else 1
    if n == 1:
        return Told(shows, "1 pair", "none: one pair", "the corrupted run", one.checks)
    effect = effect_of(one.result)
    interval = "none" if np.isnan(effect.low) else f"of the whole effect, 95%: {effect}"
    return Told(shows, f"{n} pairs", interval, "the corrupted run", one.checks, one.about)


def drawn(one: Map, value: str, limit: float | None, width: int) -> go.Figure:
    """The figure of a map."""
    return patching_map(
        one.result,
        example=one.example,
        value=value,  # type: ignore[arg-type]
        limit=limit,
        width=width,
    ).update_layout(dragmode="zoom")


def prompts(one: Map) -> str:
    """The two prompts of a pair, as markup: token above token where that is known."""
    assert one.pair is not None
    if one.aligned is None:
        return (
            f'<div class="ob-small">“{markup.esc(one.pair.clean)}” into '
            f"“{markup.esc(one.pair.corrupt)}”</div>"
        )
    matched = sorted((*places, label) for label, places in one.aligned.places.items())
    return markup.aligned(one.aligned.clean, one.aligned.corrupt, matched)


def reach(maps: list[Map], value: str) -> float | None:
    """The end of a colour scale that all maps share; None for shares, whose scale is fixed.

    On scales of their own, or one that spans next to nothing, an empty map would be stretched until
    its noise looks like a signal.
    """
    if value == "normalised" or not maps:
        return None
    ends = []
    for one in maps:
        result = one.result if one.example is None else one.result.isel(example=[one.example])
        numbers = result["patched"] - (result["corrupt"] if value == "change" else 0.0)
        mean = numbers.mean("example", skipna=True).values
        ends.append(furthest(mean, str(result.attrs.get("unit", ""))))
    return max(ends)


def show(one: Map, spec: ModelSpec | None, value: str, fig: go.Figure) -> None:
    """The map, its chosen cell as a sentence, and what that patch does to the next token.

    Args:
        fig: it, as `drawn` draws it.
    """
    name = f"patching-{one.way}-{one.site}"

    def choose(place: tuple[int, int]) -> None:
        cell = _cell(one, *place)
        if cell is not None:
            state.change(cell=cell)

    parts.figure(
        fig,
        name,
        data=lambda: table(one),
        code=one.code,
        alt=f"Patching map of the {SITE_NAMES[one.site].lower()}, {one.way} prompt",
        told=told(one, _SHOWS[value]),
        below=lambda: below(one),
    )
    follow.cells(name, lambda: _selected(one), choose)
    if one.aligned is not None and "position_label" in one.result.coords:
        clean, corrupt = one.aligned.unmatched
        lone = sentences.unmatched(
            [one.aligned.clean[i] for i in clean], [one.aligned.corrupt[i] for i in corrupt]
        )
        if lone:
            parts.html(markup.hint(lone))
    if one.refined is not None and one.refined.first:
        parts.html(markup.hint("A first estimate, by gradients alone; a better one is being made."))
    trusted = None if one.refined is None else trust(one.refined)
    if trusted is not None and (text := sentences.trust(**dataclasses.asdict(trusted))):
        parts.html(markup.hint(text))
    if one.pair is not None and spec is not None:
        follow.words(f"{name}-after", lambda: _after(one, spec))


def below(one: Map) -> str:
    """What the chosen cell's patch does, as markup."""
    selected = _selected(one)
    said = None if selected is None else sentence(one, selected)
    if said is not None:
        return markup.sentence(said)
    if selected is not None:
        return markup.hint("No token of the other prompt stands for this one: nothing to patch.")
    return markup.hint("Click a cell to read what that patch does.")


def sentence(one: Map, selected: tuple[int, int]) -> str | None:
    """What the patch at (layer, column) does; None where the pair has no such token."""
    layer, column = selected
    axis = "head" if "head" in one.result["patched"].dims else "position"
    cell = one.result.sel(layer=layer).isel({axis: column})
    if one.example is not None:
        cell = cell.isel(example=[one.example])
    here = np.isfinite(cell["patched"].values)
    if not here.any():
        return None
    cell = cell.isel(example=np.nonzero(here)[0])
    head = int(cell["head"]) if axis == "head" else None
    label = None if axis == "head" else str(cell["position_label"].values)
    tokens: list[str | None] = [None, None]
    if axis == "position" and one.example is not None:
        tokens = [str(cell[f"{run}_token"].values[0]) for run in ("clean", "corrupt")]
    elif axis == "position":
        shared = shared_token((one.result,), column)
        tokens, label = [shared or label, None], label if shared else None
    share, reason = _mean_share(one, layer, column)
    said = sentences.patch(
        one.site,
        layer,
        clean_token=tokens[0],
        corrupt_token=tokens[1],
        label=label,
        head=head,
        patched=float(cell["patched"].mean()),
        clean=float(cell["clean"].mean()),
        corrupt=float(cell["corrupt"].mean()),
        metric=str(one.result.attrs.get("metric", "metric")).replace(
            "logit_diff", "logit difference"
        ),
        share=share,
        reason=reason,
        estimated="exact" in cell and not bool(cell["exact"]),
    )
    n = cell.sizes["example"]
    if one.example is not None:
        return said
    return f"Mean over {n} pairs. {said}" if n > 1 else f"Of 1 pair. {said}"


def _mean_share(one: Map, layer: int, column: int) -> tuple[float | None, str]:
    """The mean of the pairs' shares in one cell, None on the map of a single pair; or why not.

    The pairs that have the cell may be few of all: what they show is told where their own effect
    is clear.
    """
    if one.example is not None:
        return None, ""
    from interp.patching import normalised
    from interp.patching.results import effect_of

    axis = "head" if "head" in one.result["patched"].dims else "position"
    here = one.result["patched"].sel(layer=layer).isel({axis: column}).notnull().values
    effect = effect_of(one.result.isel(example=np.flatnonzero(here)))
    if not effect.clear:
        return math.nan, effect.reason
    shares = normalised(one.result).sel(layer=layer).isel({axis: column})
    return float(shares.mean("example", skipna=True)), str(shares.attrs.get("reason", ""))


def _after(one: Map, spec: ModelSpec) -> str:
    """What the chosen patch does to the next token, where there is such a cell."""
    selected = _selected(one)
    if selected is None or sentence(one, selected) is None:
        return ""
    try:
        return before_and_after(one, spec, selected)
    except ObverseError as error:
        return markup.hint(str(error))


def before_and_after(one: Map, spec: ModelSpec, selected: tuple[int, int]) -> str:
    """The next tokens of the corrupted run, and after the patch.

    Raises:
        Replaced: another cell was clicked before this patch was run.
    """
    layer, column = selected
    heads = "head" in one.result["patched"].dims
    assert one.pair is not None
    patched = resources.engine().patch(
        spec,
        one.pair,
        one.site,
        layer,
        label=None if heads else str(one.result["position_label"].values[column]),
        head=int(one.result["head"].values[column]) if heads else None,
        replaced=follow.replaced,
    )
    pieces = []
    for run, heading, colour in (
        ("corrupt", f"before: {one.pair.corrupt}", "var(--ob-muted)"),
        ("patched", "after the patch", "var(--ob-green)"),
    ):
        top = patched.sel(run=run)
        pieces.append(
            markup.next_tokens(
                [str(t) for t in top["top_token"].values],
                [float(p) for p in top["top_prob"].values],
                colour=colour,
                heading=heading,
            )
        )
    return f'<div class="ob-two"><div>{pieces[0]}</div><div>{pieces[1]}</div></div>'


def table(one: Map) -> pd.DataFrame:
    """The numbers behind a map: one row for each pair and cell."""
    result = one.result if one.example is None else one.result.isel(example=[one.example])
    frame = result.to_dataframe().reset_index()
    return frame[frame["patched"].notna()]


def controls(one: str = "", mean: str | None = None) -> tuple[bool, str]:
    """Whether the mean is wanted, and what to colour; see `which`."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
        of = which(one, mean)
        return of, switch.choose("patch-value", VALUES, "Colour")


def which(one: str, mean: str | None, *, name: str = "patch-of") -> bool:
    """Whether the mean over examples is wanted.

    Args:
        one, mean: names of the two choices; no choice where there is no mean.
        name: of the switch.
    """
    if mean is None:
        return False
    return switch.choose(name, {"one": one, "mean": mean}, "Of") == "mean"


def _selected(one: Map) -> tuple[int, int] | None:
    """The (layer, column) of the chosen cell in this map."""
    cell = state.view().cell
    if cell is None or cell.way != one.way or cell.layer not in one.result["layer"].values:
        return None
    if "head" in one.result["patched"].dims:
        heads = list(one.result["head"].values)
        return (cell.layer, heads.index(cell.head)) if cell.head in heads else None
    if cell.position is None:
        return None
    labels = [str(label) for label in one.result["position_label"].values]
    column = column_of(labels, one.slots, cell.position)
    return None if column is None else (cell.layer, column)


def _cell(one: Map, layer: int, column: int) -> Cell | None:
    """The cell at a place that the browser tells; None where there is none."""
    axis = "head" if "head" in one.result["patched"].dims else "position"
    if layer not in one.result["layer"].values or not 0 <= column < one.result.sizes[axis]:
        return None
    if "head" in one.result["patched"].dims:
        return Cell(one.way, layer, head=int(one.result["head"].values[column]))
    label = str(one.result["position_label"].values[column])
    return Cell(one.way, layer, position=one.slots.get(label, column))


def settings(value: str, example: int | None, limit: float | None) -> dict[str, Any]:
    """Keyword arguments of `patching_map`, for the code beside a figure."""
    # Rounded so little that no cell comes to lie beyond the colours.
    rounded = None if limit is None else float(f"{limit:.7g}")
    return {"example": example, "value": value, "limit": rounded}
