"""Two ways of asking on one axis of named places, and a vector carried from one to the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import xarray as xr

from app import resources, state
from app.compute.carrying import Carried
from app.compute.engine import ModelSpec
from app.compute.refining import was_run
from app.screen import follow, parts
from app.screen.told import Check, Told, together
from app.selection import Cell
from app.text import markup, sentences
from cache.errors import ObverseError
from experiments.explorer import Pair, Way
from interp.errors import SiteError
from interp.figures import contrast_map
from interp.figures.contrast import shared_examples, shared_places

ESTIMATED = (
    "The difference is drawn when every cell of both maps has been run: that of estimates would be "
    "of their errors, too."
)


@dataclass(frozen=True)
class Side:
    """One way of asking.

    Attributes:
        way: which.
        result: a patching map by position, of one example or of several.
        pair: the example's pair; None where the map is of several.
        checks: what was checked of the map.
    """

    way: Way
    result: xr.Dataset
    pair: Pair | None
    checks: tuple[Check, ...] = ()


def show(
    spec: ModelSpec | None, first: Side, second: Side, *, key: str | None, code: str, width: int
) -> None:
    """Where the first way moves its answer more than the second does; and, of one example, the
    vector at the chosen cell carried over.

    Args:
        key: the coordinate that numbers examples; None for maps of one.
        code: Python that makes the figure.
    """
    name = f"contrast-{first.result.attrs['site']}"
    n = first.result.sizes["example"], second.result.sizes["example"]
    try:
        places = shared_places(first.result, second.result)
        if key is not None:  # only these are compared, so only these are told and exported
            one, other = shared_examples(first.result, second.result, key)
            first = dataclasses.replace(first, result=one)
            second = dataclasses.replace(second, result=other)
    except SiteError as error:
        parts.html(markup.hint(str(error)))
        return
    parts.html(
        markup.heading(
            f"{first.way.title} minus {second.way.title.lower()}",
            "By how much more a patch moves the answer, place by place; prompts of unequal length "
            "are aligned by what their tokens are.",
        )
    )
    if was_run(first.result) and was_run(second.result):
        _figure(name, first, second, key, n, code=code, width=width)
    else:
        parts.html(markup.hint(ESTIMATED))
    if spec is not None and first.pair is not None and second.pair is not None:
        sides = {side.way.name: side for side in (first, second)}
        follow.words(f"{name}-carried", lambda: _carried(spec, sides, places))


def _figure(
    name: str,
    first: Side,
    second: Side,
    key: str | None,
    n: tuple[int, int],
    *,
    code: str,
    width: int,
) -> None:
    titles = [side.way.title.lower() for side in (first, second)]
    parts.figure(
        contrast_map(first.result, second.result, key=key, width=width).update_layout(
            dragmode="zoom"
        ),
        name,
        data=lambda: table(first, second),
        code=code,
        alt=f"By how much more patches move the answer when {titles[0]} than when {titles[1]}",
        told=_under(first, second, n),
        below=lambda: markup.hint(
            "Click a cell of one of the maps above: what stands there is carried into the other "
            "question."
            if first.pair is not None
            else ""
        ),
    )


def _under(first: Side, second: Side, before: tuple[int, int]) -> Told:
    """What is told of the difference: the checks of both maps.

    Args:
        before: how many pairs each map has, of which those that both have are compared.
    """
    n = first.result.sizes["example"]
    checks = together({side.way.title: side.checks for side in (first, second)})
    if n == 1:
        return Told("", "1 pair each way", "none: one pair", f"0: {second.way.name} alike", checks)
    return Told(
        "Cells whose interval holds 0 are grey.",
        f"{n} pairs each way{_left(first, second, before)}",
        "95%, of the mean difference, in each cell",
        f"0: {second.way.name} alike",
        checks,
    )


def _left(first: Side, second: Side, before: tuple[int, int]) -> str:
    """Of how many pairs these are left, where both ways have others, too."""
    if before == (first.result.sizes["example"], second.result.sizes["example"]):
        return ""
    return f" (of {before[0]} {first.way.name} and {before[1]} {second.way.name})"


def _carried(spec: ModelSpec, sides: Mapping[str, Side], places: list[str]) -> str:
    """What the vector at the chosen cell does in the other question."""
    cell = state.view().cell
    if cell is None or cell.position is None or cell.way not in sides:
        return ""
    here = sides[cell.way]
    there = next(side for name, side in sides.items() if name != cell.way)
    try:
        return _told(spec, here, there, cell, places)
    except ObverseError as error:
        return markup.hint(str(error))


def _told(spec: ModelSpec, here: Side, there: Side, cell: Cell, places: list[str]) -> str:
    engine = resources.engine()
    if here.pair is None or there.pair is None or cell.position is None:
        return ""
    source, target = engine.aligned(spec, here.pair), engine.aligned(spec, there.pair)
    if cell.position >= len(source.clean):  # a link may tell any, and so may the mean of others
        return ""
    label = next((label for label, at in source.slots.items() if at == cell.position), None)
    if label is None or label not in target.slots or label not in places:
        return markup.hint(
            f"{there.way.title}, no token stands for {sentences.token(source.clean[cell.position])}"
            ": nothing can be carried over."
        )
    read, written = source.places[label], target.slots[label]
    found = engine.carry(
        spec, here.pair, there.pair, cell.layer, read, written, replaced=follow.replaced
    )
    said = sentences.carried(
        cell.layer,
        source.clean[read[0]],
        target.clean[written],
        (here.way.title, there.way.title),
        there.pair.answer,
        (found.before, found.after, found.control),
    )
    return markup.sentence(said) + Told(checks=(found.check,)).markup() + _tokens(found, there.pair)


def _tokens(found: Carried, pair: Pair) -> str:
    pieces = [
        markup.next_tokens(
            [token for token, _ in found.tokens[name]],
            [p for _, p in found.tokens[name]],
            colour=colour,
            heading=heading,
        )
        for name, heading, colour in (
            ("before", f"as it is: {pair.clean}", "var(--ob-muted)"),
            ("after", "with what was carried over", "var(--ob-green)"),
        )
    ]
    return f'<div class="ob-two"><div>{pieces[0]}</div><div>{pieces[1]}</div></div>'


def table(first: Side, second: Side) -> pd.DataFrame:
    """Both maps' numbers, a row for each way, example and cell."""
    frames = []
    for side in (first, second):
        frame = side.result.to_dataframe().reset_index()
        frames.append(frame[frame["patched"].notna()].assign(asked=side.way.name))
    return pd.concat(frames, ignore_index=True)
