"""Where the answer of a fact comes from: patching maps of both directions, site by site."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import streamlit as st
import xarray as xr

from app import resources, runs, state
from app.compute import pairs
from app.compute.pairs import Pair
from app.compute.refining import Refined
from app.facts import WAYS
from app.selection import SITES
from app.text import markup, snippets
from app.views import circuit_view, live, parts, patch_view
from app.views.study import Study
from cache.errors import ObverseError
from interp.figures.drawing import theme
from interp.kinds import site_kind


def show(study: Study, fact: int) -> None:
    """Both directions' maps of one site; the tabs choose the site."""
    parts.html(
        markup.heading(
            "Which activations carry the answer",
            "Each cell puts one activation of the clean run into the run about another name, and "
            "reads by how much the right answer’s first token gains on the other one’s, in logits.",
        )
    )
    split = str(study.facts.iloc[study.row(fact)]["split"])
    n = _patched_of_split(study.run, split)
    mean, value = patch_view.controls(f"Mean of {n} facts" if n > 1 else None)

    def changed() -> None:
        label = st.session_state["site"]
        site = next((s for s in SITES if patch_view.SITE_NAMES[s] == label), "resid_pre")
        cell = state.view().cell
        # A head is no place in the other sites, and a token none among the heads.
        keep = cell is not None and (cell.head is not None) == site_kind(site).per_head
        state.change(site=site, cell=cell if keep else None)

    names = [patch_view.SITE_NAMES[site] for site in SITES]
    if "site" not in st.session_state:
        st.session_state["site"] = patch_view.SITE_NAMES[state.view().site]
    tabs = st.tabs(names, key="site", on_change=changed)
    for site, tab in zip(SITES, tabs, strict=True):
        if site == state.view().site:
            with tab:
                _maps(study, fact, site, split if mean else None, value)
    _circuits(study, fact, split if mean else None)


def _maps(study: Study, fact: int, site: str, split: str | None, value: str) -> None:
    refining: dict[str, live.Refining] = {}
    for way in WAYS:
        # What is wrong with a pair stands where its map would be.
        with contextlib.suppress(ObverseError):
            work = None if split else _refining(study, fact, site, way)
            if work is not None:
                refining[way] = work
    live.draw(list(refining.values()), lambda: _draw(study, fact, site, split, value, refining))


def _draw(
    study: Study,
    fact: int,
    site: str,
    split: str | None,
    value: str,
    refining: Mapping[str, live.Refining],
) -> None:
    """Both maps as they are now, on one colour scale."""
    maps = []
    for way in WAYS:
        work = refining.get(way)
        made = (
            _mean(study, site, way, split, value)
            if split
            else _one(study, fact, site, way, None if work is None else work.refined)
        )
        maps.append(made)
    limit = patch_view.reach([one for one in maps if one is not None], value)
    for one, way, column in zip(maps, WAYS, st.columns(2, gap="large"), strict=True):
        with column:
            parts.html(
                markup.way(
                    "Asked forward" if way == "forward" else "Asked in reverse", theme.COLOURS[way]
                )
            )
            if one is not None:
                if one.pair is not None:
                    parts.html(
                        f'<div class="ob-small">“{markup.esc(one.pair.clean)}” into '
                        f"“{markup.esc(one.pair.corrupt)}”</div>"
                    )
                patch_view.show(one, study.spec, value, limit)
            if way in refining:
                live.progress(refining[way])


def _refining(study: Study, fact: int, site: str, way: str) -> live.Refining | None:
    """The work on a map that the run has not stored."""
    if study.spec is None or _stored(study, fact, site, way) is not None:
        return None
    pair = _pair(study, fact, way)
    return None if pair is None else live.refine(study.spec, pair, site, f"{way}-{fact}")


def _mean(study: Study, site: str, way: str, split: str, value: str) -> patch_view.Map | None:
    name = f"patching_{way}_{site}"
    result = study.run.dataset(name) if study.run is not None else None
    if result is None or study.run is None:
        parts.html(markup.hint("The run has not stored this map; finish it with obverse run."))
        return None
    chosen = result.isel(example=np.nonzero(result["split"].values == split)[0])
    settings = patch_view.settings(value, None, None)
    code = snippets.run_patching(study.run.record.path, name, split, settings)
    slots: dict[str, int] = {}
    if "position_label" in chosen.coords:
        slots = {str(label): i for i, label in enumerate(chosen["position_label"].values)}
    return patch_view.Map(way, chosen, None, None, slots, code)


def _one(
    study: Study, fact: int, site: str, way: str, refined: Refined | None
) -> patch_view.Map | None:
    """The map of this fact: the run's where it has one, else what is computed now."""
    try:
        pair = _pair(study, fact, way)
    except ObverseError as error:
        parts.error(error)
        return None
    if pair is None:
        parts.html(markup.hint("The run has not patched this fact, and its model is not here."))
        return None
    value = st.session_state.get("patch-value", "change")
    stored = _stored(study, fact, site, way)
    if study.run is not None and stored is not None:
        result, example = stored
        settings = patch_view.settings(value, example, None)
        code = snippets.run_patching(
            study.run.record.path, f"patching_{way}_{site}", None, settings
        )
        return patch_view.of_pair(way, result, example, pair, study.spec, code)
    if study.spec is None or refined is None:
        return None
    code = snippets.patching(study.spec, pair, site, patch_view.settings(value, 0, None))
    return patch_view.of_pair(way, refined.result, 0, pair, study.spec, code, refined)


def _stored(study: Study, fact: int, site: str, way: str) -> tuple[xr.Dataset, int] | None:
    """A run's map of a site, and which of its examples is this fact."""
    result = None if study.run is None else study.run.dataset(f"patching_{way}_{site}")
    if result is None or fact not in result["fact"].values:
        return None
    return result, int(np.nonzero(result["fact"].values == fact)[0][0])


def _pair(study: Study, fact: int, way: str) -> Pair | None:
    """The pair that the run has patched for this fact, or one made as the study makes its own.

    None where that takes a model and there is none.
    """
    stored = _stored(study, fact, "resid_pre", way)
    if stored is not None:
        return pairs.stored(*stored, study.facts, way)
    if study.spec is None:
        return None
    seed = 0 if study.run is None else study.run.seed
    templates = None if study.run is None else study.run.templates
    row = study.row(fact)
    return resources.engine().pair(study.spec, study.facts, row, way, seed, templates)


def _circuits(study: Study, fact: int, split: str | None) -> None:
    """Circuits of this fact, or of all facts of a split that the run has patched."""
    if study.spec is None:
        return
    found: dict[str, tuple[Pair, ...]] = {}
    for way in WAYS:
        # What is wrong with a pair stands where its map would be.
        with contextlib.suppress(ObverseError):
            pair = _pair(study, fact, way) if split is None else None
            some = _of_split(study, split, way) if split else (pair,) if pair else ()
            if some:
                found[way] = some
    if found:
        circuit_view.show(study.spec, found, width=parts.HALF)


def _of_split(study: Study, split: str, way: str) -> tuple[Pair, ...]:
    stored = None if study.run is None else study.run.dataset(f"patching_{way}_resid_pre")
    if stored is None:
        return ()
    chosen = np.nonzero(stored["split"].values == split)[0]
    return tuple(pairs.stored(stored, int(i), study.facts, way) for i in chosen)


def _patched_of_split(run: runs.Run | None, split: str) -> int:
    result = None if run is None else run.dataset("patching_forward_resid_pre")
    return 0 if result is None else int((result["split"].values == split).sum())
