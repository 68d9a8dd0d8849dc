"""One fact from both ends: prompts, next tokens, layers, ranks, and patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st
import xarray as xr

from app import markup, pairs, resources, runs, snippets, state
from app.engine import ModelSpec
from app.facts import WAYS
from app.pairs import Pair
from app.selection import SITES
from app.views import fact_table, lens_view, parts, patch_view
from cache.errors import ObverseError
from interp.figures import rank_lines, theme

# Sweeps of models up to this size take seconds on a laptop, and are not asked for.
_SMALL = 50_000_000


@dataclass(frozen=True)
class Study:
    """Where facts and numbers come from.

    Attributes:
        spec: the model, or None where it cannot be loaded.
        facts: the table of facts.
        run: the run that stores results, if one is open.
    """

    spec: ModelSpec | None
    facts: pd.DataFrame
    run: runs.Run | None

    def row(self, fact: int) -> int:
        """Where a fact stands in the table."""
        return int(np.nonzero((self.facts["fact"] == fact).to_numpy())[0][0])


def show(study: Study, fact: int) -> None:
    """Everything about one fact. Where the model is missing, what the run stores is shown."""
    row = study.facts.iloc[study.row(fact)]
    parts.html(fact_table.heading(row))
    lenses: dict[str, xr.Dataset] = {}
    columns = st.columns(2, gap="large")
    for way, column in zip(WAYS, columns, strict=True):
        with column:
            lens = _question(study, row, way)
            if lens is not None:
                lenses[way] = lens
    if study.spec is not None and lenses:
        _layers(study.spec, row, lenses)
    _ranks(study, row, lenses)
    _patching(study, fact)


def _question(study: Study, row: pd.Series, way: str) -> xr.Dataset | None:
    """The prompt of one direction, what the model says, and the likeliest next tokens."""
    prompt, answer = str(row[f"{way}_prompt"]), str(row[f"{way}_answer"])
    colour = theme.COLOURS[way]
    title = "Asked forward" if way == "forward" else "Asked in reverse"
    parts.html(markup.way(title, colour))
    if study.spec is None:
        parts.html(markup.strip([markup.Token(word) for word in prompt.split()]))
        parts.html(_said(row, way))
        return None
    subject = str(row["subject" if way == "forward" else "object"])
    with st.spinner("Loading the model …", show_time=True):
        tokens = resources.engine().tokens(study.spec, prompt, {"subject": subject})
    cell = state.view().cell
    chosen = cell.position if cell is not None and cell.way == way else None
    parts.html(markup.strip(tokens, chosen) + markup.legend(token.span for token in tokens))
    parts.html(_said(row, way))
    lens = lens_view.computed(study.spec, prompt, answer)
    names, probabilities = lens_view.last_tokens(lens)
    parts.html(
        markup.next_tokens(
            names,
            probabilities,
            colour=colour,
            answer=lens_view.first_token(lens),
            heading="likeliest next tokens",
        )
    )
    return lens


def _said(row: pd.Series, way: str) -> str:
    """What the model answers, and where the right answer stands."""
    right, answer = bool(row[f"{way}_correct"]), str(row[f"{way}_answer"]).strip()
    rank = int(row[f"{way}_rank"])
    if right:
        mark = '<b style="color:#00704f">✓ right</b>'
        text = f"says “{markup.esc(answer)}”"
    else:
        mark = '<b style="color:#a34700">✗ wrong</b>'
        said = str(row.get(f"{way}_said", "") or "").strip()
        text = f"says “{markup.esc(said)}”, " if said else ""
        text += f"the answer “{markup.esc(answer)}” starts at rank {rank:,}"
    return f'<div class="ob-said">{mark} &nbsp; {text}</div>'


def _layers(spec: ModelSpec, row: pd.Series, lenses: dict[str, xr.Dataset]) -> None:
    parts.html(
        markup.heading(
            "What each layer would say",
            "The logit lens: the residual stream after each block, read as the next token.",
        )
    )
    for way, column in zip(lenses, st.columns(2, gap="large"), strict=False):
        with column:
            prompt, answer = str(row[f"{way}_prompt"]), str(row[f"{way}_answer"])
            lens_view.show(spec, lenses[way], way, prompt, answer)


def _ranks(study: Study, row: pd.Series, lenses: dict[str, xr.Dataset]) -> None:
    """The answer's rank from layer to layer: in this fact, and in all of its split."""
    cell = state.view().cell
    layer = None if cell is None else cell.layer
    stored = {} if study.run is None else {w: study.run.dataset(f"lens_{w}") for w in WAYS}
    group = {way: _of_split(lens, row) for way, lens in stored.items() if lens is not None}
    if not lenses and not group:
        return
    parts.html(
        markup.heading(
            "Where the answer comes up", "Rank of the answer’s first token after the whole prompt."
        )
    )
    chance = None
    if study.spec is not None and lenses:
        chance = resources.engine().about(study.spec).d_vocab
    columns = st.columns(2, gap="large")
    if lenses and study.spec is not None:
        asked = {w: (str(row[f"{w}_prompt"]), str(row[f"{w}_answer"])) for w in lenses}
        with columns[0]:
            parts.figure(
                rank_lines(lenses, title="This fact", chance=chance, selected=layer),
                "ranks",
                data=lambda: _rank_table(lenses),
                code=snippets.ranks(study.spec, asked),
                alt="Rank of the answer by layer, this fact in both directions",
            )
    if group and study.run is not None:
        run, split = study.run.record.path, str(row["split"])
        n = next(iter(group.values())).sizes["example"]
        title = f"All {n} facts of its kind: median and 95% interval"
        with columns[1 if lenses else 0]:
            parts.figure(
                rank_lines(group, title=title, chance=chance, selected=layer),
                "ranks-all",
                data=lambda: _rank_table(group),
                code=snippets.run_ranks(run, split),
                alt="Rank of the answer by layer, all facts of the same split",
            )


def _of_split(lens: xr.Dataset, row: pd.Series) -> xr.Dataset:
    return lens.isel(example=np.nonzero(lens["split"].values == str(row["split"]))[0])


def _rank_table(lenses: dict[str, xr.Dataset]) -> pd.DataFrame:
    frames = []
    for name, lens in lenses.items():
        ranks = lens["answer_rank"]
        if "position" in ranks.dims:
            ranks = ranks.isel(position=-1)
        frame = ranks.to_dataframe().reset_index()
        frames.append(frame.assign(asked=name)[["asked", "example", "layer", "answer_rank"]])
    return pd.concat(frames, ignore_index=True)


def _patching(study: Study, fact: int) -> None:
    """Both directions' maps of one site; the tabs choose the site."""
    parts.html(
        markup.heading(
            "Which activations carry the answer",
            "Each cell puts one activation of the clean run into the run about another name, and "
            "reads by how much the right answer’s logit gains on the other name’s.",
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
        keep = cell is not None and (cell.head is None) == (site != "z")
        state.change(site=site, cell=cell if keep else None)

    names = [patch_view.SITE_NAMES[site] for site in SITES]
    if "site" not in st.session_state:
        st.session_state["site"] = patch_view.SITE_NAMES[state.view().site]
    tabs = st.tabs(names, key="site", on_change=changed)
    for site, tab in zip(SITES, tabs, strict=True):
        if site == state.view().site:
            with tab:
                _maps(study, fact, site, split if mean else None, value)


def _maps(study: Study, fact: int, site: str, split: str | None, value: str) -> None:
    maps = []
    for way in WAYS:
        made = _mean(study, site, way, split, value) if split else _one(study, fact, site, way)
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


def _one(study: Study, fact: int, site: str, way: str) -> patch_view.Map | None:
    """The map of this fact: the run's where it has one, else computed now."""
    name = f"patching_{way}_{site}"
    result = study.run.dataset(name) if study.run is not None else None
    if study.run is not None and result is not None and fact in result["fact"].values:
        example = int(np.nonzero(result["fact"].values == fact)[0][0])
        pair = pairs.stored(result, example, study.facts, way)
        settings = patch_view.settings(st.session_state.get("patch-value", "change"), example, None)
        code = snippets.run_patching(study.run.record.path, name, None, settings)
        slots = _slots(study.spec, pair)
        return patch_view.Map(way, result, example, pair, slots, code)
    if study.spec is None:
        parts.html(markup.hint("The run has not patched this fact, and its model is not here."))
        return None
    seed = 0 if study.run is None else study.run.seed
    templates = None if study.run is None else study.run.templates
    row = study.row(fact)
    engine = resources.engine()
    try:
        pair = engine.pair(study.spec, study.facts, row, way, seed, templates)
    except ObverseError as error:
        parts.error(error)
        return None
    result = swept(study.spec, pair, site, f"{way}-{fact}")
    if result is None:
        return None
    settings = patch_view.settings(st.session_state.get("patch-value", "change"), 0, None)
    code = snippets.patching(study.spec, pair, site, settings)
    return patch_view.Map(way, result, 0, pair, _slots(study.spec, pair), code)


def swept(spec: ModelSpec, pair: Pair, site: str, key: str) -> xr.Dataset | None:
    """A sweep on one pair; on large models only when it is asked for."""
    engine = resources.engine()
    large = engine.about(spec).n_parameters > _SMALL
    if large and not st.session_state.get(f"sweep-{key}-{site}"):
        st.button(
            "Compute this map",
            key=f"sweep-button-{key}-{site}",
            on_click=lambda: st.session_state.update({f"sweep-{key}-{site}": True}),
        )
        return None
    with resources.progress("Patching cell by cell") as tell:
        return engine.sweep(spec, pair, site, tell)


def _slots(spec: ModelSpec | None, pair: Pair) -> dict[str, int]:
    return {} if spec is None else resources.engine().slots(spec, pair)


def _patched_of_split(run: runs.Run | None, split: str) -> int:
    result = None if run is None else run.dataset("patching_forward_resid_pre")
    return 0 if result is None else int((result["split"].values == split).sum())
