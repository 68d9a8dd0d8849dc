"""Where the answer of an example comes from: patching maps of all ways, site by site."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st
import xarray as xr

from app import resources, state
from app.compute import pairs
from app.compute.checks import Check
from app.compute.refining import Refined
from app.panels import both_ways, circuit, node, patching
from app.screen import live, parts
from app.screen.shown import Shown
from app.selection import SITES
from app.text import markup, snippets
from app.together import Together
from cache.errors import ObverseError
from experiments.explorer import Pair, Way
from interp.kinds import site_kind

TITLE = "Which activations carry the answer"


def show(shown: Shown, example: int) -> None:
    """The maps of one site, a column for each way; the tabs choose the site."""
    parts.html(
        markup.heading(
            TITLE,
            "Each cell puts one activation of the clean run into the run of another example, and "
            "reads by how much the right answer’s first token gains on the other one’s, in logits.",
        )
    )
    examples, some = shown.examples, shown.together(example)
    n = max(len(_among(shown, some, way)) for way in examples.ways)
    mean, value = patching.controls(f"This {examples.one}", _many(shown, some, n))

    def changed() -> None:
        label = st.session_state["site"]
        site = next((s for s in SITES if patching.SITE_NAMES[s] == label), "resid_pre")
        cell = state.view().cell
        # A head is no place in the other sites, and a token none among the heads.
        keep = cell is not None and (cell.head is not None) == site_kind(site).per_head
        state.change(site=site, cell=cell if keep else None)

    names = [patching.SITE_NAMES[site] for site in SITES]
    if "site" not in st.session_state:
        st.session_state["site"] = patching.SITE_NAMES[state.view().site]
    tabs = st.tabs(names, key="site", on_change=changed)
    for site, tab in zip(SITES, tabs, strict=True):
        if site == state.view().site:
            with tab:
                _maps(shown, example, site, some if mean else None, value)


def _maps(shown: Shown, example: int, site: str, some: Together | None, value: str) -> None:
    refining: dict[Way, live.Refining] = {}
    for way in shown.examples.ways:
        # What is wrong with a pair stands where its map would be.
        with contextlib.suppress(ObverseError):
            work = None if some else _refining(shown, example, site, way)
            if work is not None:
                refining[way] = work
    live.draw(
        list(refining.values()),
        lambda: _draw(shown, example, site, some, value, refining),
        doing="Patching",
        height=640,
    )


def _draw(
    shown: Shown,
    example: int,
    site: str,
    some: Together | None,
    value: str,
    refining: Mapping[Way, live.Refining],
) -> None:
    """All maps as they are now, on one colour scale."""
    ways = shown.examples.ways
    maps = []
    for way in ways:
        work = refining.get(way)
        made = (
            _mean(shown, example, site, way, some, value)
            if some
            else _one(shown, example, site, way, None if work is None else work.refined)
        )
        maps.append(made)
    there = [one for one in maps if one is not None]
    limit, width = patching.reach(there, value), parts.width(len(ways))
    drawn = parts.level([patching.drawn(one, value, limit, width) for one in there])
    figures = {one.way: fig for one, fig in zip(there, drawn, strict=True)}
    for one, way, column in zip(maps, ways, st.columns(len(ways), gap="large"), strict=True):
        with column:
            parts.html(markup.way(way.title, way.colour))
            if one is not None:
                if one.pair is not None:
                    parts.html(patching.prompts(one))
                patching.show(one, shown.spec, value, figures[one.way])
            if way in refining:
                live.progress(refining[way])
    _contrast(shown, example, site, some, refining)


def _contrast(
    shown: Shown,
    example: int,
    site: str,
    some: Together | None,
    refining: Mapping[Way, live.Refining],
) -> None:
    """The first two ways on one axis, where both have been patched."""
    if site_kind(site).per_head or len(shown.examples.ways) < 2:
        return
    # Maps that still change are drawn twice a second; their difference waits for the last of them.
    if any(one.work.stand.running for one in refining.values()):
        return
    found = [_side(shown, example, site, way, some, refining) for way in shown.examples.ways[:2]]
    first, second = found
    if first is None or second is None:
        return
    code = ""
    if some is not None and shown.run is not None:
        names = _name(shown, site, first.way), _name(shown, site, second.way)
        code = snippets.run_contrast(shown.run.record.path, names, some, shown.examples.key)
    elif shown.spec is not None and first.pair is not None and second.pair is not None:
        code = snippets.contrast(shown.spec, [first.pair, second.pair], site)
    key = shown.examples.key if some is not None else None
    both_ways.show(shown.spec, first, second, key=key, code=code, width=parts.width(1))


def _side(
    shown: Shown,
    example: int,
    site: str,
    way: Way,
    some: Together | None,
    refining: Mapping[Way, live.Refining],
) -> both_ways.Side | None:
    if some is not None:
        result = _map(shown, site, way)
        if result is None:
            return None
        chosen = result.isel(example=some.among(result))
        if not chosen.sizes["example"]:
            return None
        return both_ways.Side(way, chosen, None, _checked_first(shown, chosen, way))
    pair = None
    with contextlib.suppress(ObverseError):  # what is wrong stands where its map would be
        pair = pair_of(shown, example, way)
    stored = _stored(shown, example, site, way)
    if stored is not None:
        checks: tuple[Check, ...] = ()
        if shown.spec is not None and pair is not None:
            checks = patching.checked(shown.spec, pair, *stored)
        return both_ways.Side(way, stored[0].isel(example=[stored[1]]), pair, checks)
    refined = refining[way].refined if way in refining else None
    if refined is None:
        return None
    return both_ways.Side(way, refined.result, pair, refined.checks)


def _refining(shown: Shown, example: int, site: str, way: Way) -> live.Refining | None:
    """The work on a map that the run has not stored."""
    if shown.spec is None or _stored(shown, example, site, way) is not None:
        return None
    pair = pair_of(shown, example, way)
    if pair is None:
        return None
    return live.refine(shown.spec, pair, site, f"{way.name}-{example}", shown.run)


def _mean(
    shown: Shown, example: int, site: str, way: Way, some: Together, value: str
) -> patching.Map | None:
    result = _map(shown, site, way)
    if result is None or shown.run is None:
        parts.html(markup.hint("The run has not stored this map; finish it with obverse run."))
        return None
    chosen = result.isel(example=some.among(result))
    settings = patching.settings(value, None, None)
    code = snippets.run_patching(shown.run.record.path, _name(shown, site, way), some, settings)
    slots: dict[str, int] = {}
    if "position_label" in chosen.coords:
        labels = [str(label) for label in chosen["position_label"].values]
        slots = _slots(shown, example, way, labels)
    checks = _checked_first(shown, chosen, way)
    about = shown.chosen_by
    return patching.Map(way.name, chosen, None, None, slots, code, checks=checks, about=about)


def _slots(shown: Shown, example: int, way: Way, labels: Sequence[str]) -> dict[str, int]:
    """Which token of the chosen example stands at each label of a mean map: a cell that is chosen
    there is framed in its prompt, its lens, and its own map. A label that it does not have is told
    by a number beyond its tokens."""
    if shown.spec is None:  # maps are told by their columns, then
        return {label: column for column, label in enumerate(labels)}
    engine, prompt = resources.engine(), shown.table.iloc[shown.row(example)][f"{way.name}_prompt"]
    own: Mapping[str, int] = {}
    with contextlib.suppress(ObverseError):
        pair = pair_of(shown, example, way)
        own = {} if pair is None else engine.aligned(shown.spec, pair).slots
    beyond = len(engine.tokens(shown.spec, str(prompt), {}))
    return {label: own.get(label, beyond + column) for column, label in enumerate(labels)}


def _checked_first(shown: Shown, chosen: xr.Dataset, way: Way) -> tuple[Check, ...]:
    """What must be so of the patches of a stored map, tried on the first of its pairs."""
    if shown.spec is None or not chosen.sizes["example"]:
        return ()
    return patching.checked(shown.spec, pairs.stored(chosen, 0, shown.table, way), chosen, 0)


def _one(
    shown: Shown, example: int, site: str, way: Way, refined: Refined | None
) -> patching.Map | None:
    """The map of this example: the run's where it has one, else what is computed now."""
    try:
        pair = pair_of(shown, example, way)
    except ObverseError as error:
        parts.error(error)
        return None
    if pair is None:
        one = shown.examples.one
        parts.html(markup.hint(f"The run has not patched this {one}, and its model is not here."))
        return None
    value = state.view().at("patch-value")
    stored = _stored(shown, example, site, way)
    if shown.run is not None and stored is not None:
        result, at = stored
        settings = patching.settings(value, at, None)
        path, name = shown.run.record.path, _name(shown, site, way)
        code = snippets.run_patching(path, name, None, settings)
        return patching.of_pair(way.name, result, at, pair, shown.spec, code)
    if shown.spec is None or refined is None:
        return None
    code = snippets.patching(shown.spec, pair, site, patching.settings(value, 0, None))
    return patching.of_pair(way.name, refined.result, 0, pair, shown.spec, code, refined)


def _name(shown: Shown, site: str, way: Way) -> str:
    return shown.examples.patching.format(way=way.name, site=site)


def _map(shown: Shown, site: str, way: Way) -> xr.Dataset | None:
    """A run's map of a site."""
    return None if shown.run is None else shown.run.dataset(_name(shown, site, way))


def _stored(shown: Shown, example: int, site: str, way: Way) -> tuple[xr.Dataset, int] | None:
    """A run's map of a site, and which of its examples is this one."""
    result = _map(shown, site, way)
    if result is None:
        return None
    here = np.nonzero(result[shown.examples.key].values == example)[0]
    return (result, int(here[0])) if len(here) else None


def pair_of(shown: Shown, example: int, way: Way) -> Pair | None:
    """The pair that the run has patched for this example, or one made as the study makes its own.

    None where that takes a model and there is none.
    """
    stored = _stored(shown, example, "resid_pre", way)
    if stored is not None:
        return pairs.stored(*stored, shown.table, way)
    if shown.spec is None:
        return None
    row = shown.row(example)
    return resources.engine().pair(
        shown.spec, shown.examples, shown.table, row, way, shown.settings
    )


def stored_heads(shown: Shown, example: int, way: Way) -> tuple[xr.Dataset, int] | None:
    """The run's map of heads, and which of its examples this is."""
    return _stored(shown, example, "z", way)


def circuits(shown: Shown, example: int) -> None:
    """Circuits of this example, or of all of its kind that the run has patched."""
    if shown.spec is None:
        return
    together = shown.together(example)
    n = max(len(_among(shown, together, way)) for way in shown.examples.ways)
    # Of a single pair no share can be told, so that its circuit shows little.
    many = _many(shown, together, n)
    mean = patching.which(f"This {shown.examples.one}", many, name="circuit-of")
    some = together if mean else None
    if some is not None and shown.chosen_by:
        parts.html(f'<div class="ob-told">{markup.esc(shown.chosen_by)}</div>')
    found: dict[Way, tuple[Pair, ...]] = {}
    for way in shown.examples.ways:
        try:
            pair = pair_of(shown, example, way) if some is None else None
            asked = _pairs_together(shown, some, way) if some else (pair,) if pair else ()
        except ObverseError as error:
            parts.error(error)
            continue
        if asked:
            found[way] = asked
    if found:
        # A cell is one of the chosen example's prompt, whatever pairs the circuit is of.
        at = {}
        for way in found:
            with contextlib.suppress(ObverseError):
                at[way] = pair_of(shown, example, way)
        width = parts.width(len(shown.examples.ways))
        if circuit.show(shown.spec, found, width=width, at=at, run=shown.run):
            node.show(shown.spec, found)


def _many(shown: Shown, some: Together, n: int) -> str | None:
    kind = "chosen " if some.lassoed else ""
    return f"Mean of {n} {kind}{shown.examples.many}" if n > 1 else None


def _pairs_together(shown: Shown, some: Together, way: Way) -> tuple[Pair, ...]:
    stored = _map(shown, "resid_pre", way)
    if stored is None:
        return ()
    return tuple(pairs.stored(stored, at, shown.table, way) for at in some.among(stored))


def _among(shown: Shown, some: Together, way: Way) -> list[int]:
    """Which examples of the run's residual-stream map are among some."""
    stored = _map(shown, "resid_pre", way)
    return [] if stored is None else some.among(stored)
