"""A number for every head, layer by head: what patching it does, what it writes, where it looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st
import xarray as xr

from app import resources, state
from app.compute.engine import ModelSpec
from app.panels import patching
from app.panels.inside import attribution
from app.screen import follow, live, parts, switch
from app.screen.asked import Asked, against
from app.screen.told import ONE_PROMPT, Told
from app.selection import Cell
from app.text import markup, snippets
from cache.errors import ObverseError
from interp.figures import head_score_grid
from interp.figures.drawing.numbers import reach

_SCORES = {
    "patching": "Patching effect",
    "attribution": "Direct attribution",
    "to_span": "Attention to the subject",
    "induction": "Induction",
    "previous_token": "Previous token",
    "duplicate_token": "Duplicate token",
}
_LOOKS = {
    "to_span": "How much of each head’s attention at the last token goes to the subject.",
    "induction": "Attention to what came after an earlier occurrence of the present token.",
    "previous_token": "Attention to the token before.",
    "duplicate_token": "Attention to earlier occurrences of the present token.",
}


def show(spec: ModelSpec, asked: Sequence[Asked], span: str) -> None:
    """A grid for each question, on one colour scale; a click opens the head's attention.

    Args:
        span: what `Asked.spans` calls the words that attention is measured to.
    """
    parts.html(
        markup.heading(
            "What each head does",
            "Layer by head. A click on a head has its attention drawn under Attention.",
        )
    )
    words = dict(_SCORES, to_span=f"Attention to the {span}")
    if not any(span in one.spans for one in asked):
        words.pop("to_span")
    score = switch.choose("head-score", words, "Score")
    if score == "patching":
        _patched(spec, asked)
        return
    if score == "attribution":
        asked = against(spec, tuple(asked))
    found: dict[str, xr.Dataset] = {}
    columns = _columns(asked)
    for one in asked:
        with columns[one.name]:
            parts.html(markup.way(one.way.title, one.way.colour))
            try:
                grid = _attributed(spec, one) if score == "attribution" else _looks(spec, one, span)
                found[one.name] = grid
                if not bool(np.isfinite(grid[score]).any()):
                    raise ValueError
            except ObverseError as error:
                parts.html(markup.hint(str(error)))
            except ValueError:
                found.pop(one.name)
                parts.html(markup.hint("No token comes twice in this prompt: there is no score."))
    signed = score == "attribution"
    limit = max((reach(grid[score].values, "logits") for grid in found.values()), default=None)
    for one in asked:
        if one.name not in found:
            continue
        with columns[one.name]:
            grid = found[one.name]
            checks = (attribution.checked(spec, one, "head"),) if signed else ()
            shows = f"What each head adds directly to {one.metric}." if signed else _LOOKS[score]
            even = f"{score}_even" in grid
            words_of = one.spans.get(span) if score == "to_span" else None
            parts.figure(
                head_score_grid(
                    grid,
                    score,
                    signed=signed,
                    limit=limit if signed else None,
                    width=parts.width(len(asked)),
                ),
                f"heads-{one.name}",
                data=grid[[score]].to_dataframe().reset_index,
                code=snippets.head_grid(
                    spec,
                    one.prompt,
                    score,
                    answer=one.answer if signed else None,
                    foil=one.foil if signed else None,
                    words=words_of,
                ),
                alt=f"{words[score]} of every head, {one.way.title.lower()}",
                told=Told(
                    shows,
                    "1 prompt",
                    ONE_PROMPT,
                    one.control if signed else "even attention" if even else "none",
                    checks,
                ),
            )
            _clicks(f"heads-{one.name}", one, grid)


def _columns(asked: Sequence[Asked]) -> dict[str, st.delta_generator.DeltaGenerator]:
    return dict(zip([one.name for one in asked], st.columns(len(asked), gap="large"), strict=True))


def _clicks(name: str, one: Asked, grid: xr.Dataset) -> None:
    heads = [int(head) for head in grid["head"].values]

    def selected() -> tuple[int, int] | None:
        cell = state.view().cell
        if cell is None or cell.way != one.name or cell.head not in heads:
            return None
        return cell.layer, heads.index(cell.head)

    def choose(place: tuple[int, int]) -> None:
        layer, column = place
        if layer in grid["layer"].values and column < len(heads):
            look_at(one.name, layer, heads[column])

    follow.cells(name, selected, choose)


def look_at(way: str, layer: int, head: int) -> None:
    """Choose a head, here and where its attention is drawn."""
    state.change(cell=Cell(way, layer, head=head))
    state.switch("attention-layer", str(layer))
    state.switch("attention-head", str(head))
    state.switch("attention-of", "one")


def _looks(spec: ModelSpec, one: Asked, span: str) -> xr.Dataset:
    from interp.attention.head_detection import head_scores

    spans = {span: [one.spans[span]]} if one.spans.get(span) else None
    found = resources.engine().compute(
        spec,
        ("head scores", one.prompt, one.spans.get(span)),
        lambda model: head_scores(model, [one.prompt], spans=spans),
    )
    return found.isel(span=0) if "span" in found.dims else found


def _attributed(spec: ModelSpec, one: Asked) -> xr.Dataset:
    if one.answer is None:
        return xr.Dataset({"attribution": (("layer", "head"), [[np.nan]])})
    shares = resources.engine().attribution(spec, one.prompt, one.answer, one.foil, "head")
    chosen = shares["contribution"].isel(component=shares["head"].values >= 0)
    return (
        chosen.set_index(component=["layer", "head"])
        .unstack("component")
        .to_dataset(name="attribution")
    )


def _patched(spec: ModelSpec, asked: Sequence[Asked]) -> None:
    """The patching map of heads, the same as under "Heads" above: stored, or computed now."""
    refining: dict[str, live.Refining] = {}
    for one in asked:
        if one.pair is not None and one.stored is None:
            refining[one.name] = live.refine(spec, one.pair, "z", f"heads-{one.name}")

    def draw() -> None:
        maps: dict[str, patching.Map] = {}
        for one in asked:
            if one.pair is None:
                continue
            settings = patching.settings("change", 0, None)
            code = snippets.patching(spec, one.pair, "z", settings)
            if one.stored is not None:
                result, at = one.stored
                maps[one.name] = patching.of_pair(one.name, result, at, one.pair, spec, code)
            elif (refined := refining[one.name].refined) is not None:
                maps[one.name] = patching.of_pair(
                    one.name, refined.result, 0, one.pair, spec, code, refined
                )
        limit = patching.reach(list(maps.values()), "change")
        columns = _columns(asked)
        for one in asked:
            with columns[one.name]:
                parts.html(markup.way(one.way.title, one.way.colour))
                if one.pair is None:
                    parts.html(markup.hint("Patching takes a second prompt and a foil."))
                if one.name in maps:
                    _map(maps[one.name], one, limit, len(asked))
                if one.name in refining:
                    live.progress(refining[one.name])

    live.draw(list(refining.values()), draw, doing="Patching heads", height=360)


def _map(one: patching.Map, asked: Asked, limit: float | None, many: int) -> None:
    name = f"heads-{asked.name}"
    result = one.result.isel(example=[one.example or 0])
    grid = result.assign(change=result["patched"] - result["corrupt"])
    parts.figure(
        patching.drawn(one, "change", limit, parts.width(many)),
        name,
        data=lambda: patching.table(one),
        code=one.code,
        alt=f"What patching each head does, {asked.way.title.lower()}",
        told=patching.told(
            one, "By how much each head, patched at all tokens, moves the logit difference."
        ),
        below=lambda: patching.below(one),
    )
    _clicks(name, asked, grid)
