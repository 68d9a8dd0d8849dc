"""The answer's rank from layer to layer in all examples of a kind, or in those chosen together."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st
import xarray as xr

from app import resources, state
from app.compute import lenses
from app.compute.background.request import Request
from app.panels.lens_kinds import KINDS, Chosen
from app.runs import Run
from app.screen import follow, live, parts
from app.screen.shown import Shown
from app.screen.told import Told
from app.text import lens_snippets
from experiments.figure import counted, of_median
from interp.figures import rank_lines

_READ = "ranks-read"


def stored(shown: Shown, example: int) -> dict[str, xr.Dataset]:
    """What the run has stored through the logit lens, by way; of these examples alone."""
    if shown.run is None:
        return {}
    found = _of_run(shown.run, shown)
    some = shown.asked_together(example, found.values())
    return {
        way: lens.isel(example=some.among(lens)) for way, lens in found.items() if some.among(lens)
    }


def show(
    shown: Shown,
    example: int,
    chosen: Chosen,
    of_run: Mapping[str, xr.Dataset],
    *,
    chance: int | None,
) -> None:
    """Through the lens that is chosen; the logit lens as the run has stored it.

    Args:
        of_run: what the run has stored, by way.
        chance: size of the vocabulary.
    """
    if of_run and chosen.kind == "logit":
        assert shown.run is not None
        names = {way: name for way, name in _names(shown).items() if way in of_run}
        some = shown.asked_together(example, _of_run(shown.run, shown).values())
        code = lens_snippets.run_ranks(shown.run.record.path, names, some)
        _draw(shown, example, chosen, of_run, code, chance)
    elif shown.spec is not None:
        asked = _asked(shown, example)
        found = _read(shown, chosen, asked)
        if found is not None:
            code = lens_snippets.ranks_of_many(shown.spec, asked, chosen.through)
            _draw(shown, example, chosen, found, code, chance)


def table(of_ways: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Ranks as rows (way, example, layer)."""
    frames = []
    for name, lens in of_ways.items():
        ranks = lens["answer_rank"]
        if "position" in ranks.dims:
            ranks = ranks.isel(position=-1)
        frame = ranks.to_dataframe().reset_index()
        frames.append(frame.assign(asked=name)[["asked", "example", "layer", "answer_rank"]])
    return pd.concat(frames, ignore_index=True)


def _of_run(run: Run, shown: Shown) -> dict[str, xr.Dataset]:
    """All that the run has stored through the logit lens, by way."""
    found = {way: run.dataset(name) for way, name in _names(shown).items()}
    return {way: lens for way, lens in found.items() if lens is not None}


def _names(shown: Shown) -> dict[str, str]:
    return {way.name: shown.examples.lens.format(way=way.name) for way in shown.examples.ways}


def _asked(shown: Shown, example: int) -> dict[str, tuple[tuple[str, str], ...]]:
    """Prompts and answers of these examples, by way."""
    some = shown.together(example)
    rows = shown.table[shown.table[some.column].isin(some.values)]
    return {
        way.name: tuple(
            (str(prompt), str(answer))
            for prompt, answer in zip(
                rows[f"{way.name}_prompt"], rows[f"{way.name}_answer"], strict=True
            )
        )
        for way in shown.examples.ways
    }


def _read(
    shown: Shown, chosen: Chosen, asked: Mapping[str, tuple[tuple[str, str], ...]]
) -> dict[str, xr.Dataset] | None:
    """Ranks through the lens, by way; None while they are read, and where nobody has asked for it
    of a large model."""
    assert shown.spec is not None
    n = max(map(len, asked.values()))
    if n < 2:
        return None
    requests: dict[str, Request[xr.Dataset]] = {
        way.title: lenses.ranks(
            shown.spec,
            chosen.key(),
            chosen.lens,
            f"{chosen.name}, {way.title.lower()}",
            asked[way.name],
        )
        for way in shown.examples.ways
    }
    engine, jobs = resources.engine(), resources.jobs()
    key = f"{_READ}-{chosen.kind}"
    large = engine.about(shown.spec).n_parameters > live.SMALL
    if large and not st.session_state.get(key) and not any(map(jobs.find, requests.values())):
        text = f"Read {n} {shown.examples.many} through the {chosen.name.lower()}"
        st.button(text, key=f"{key}-go", on_click=_wanted, args=(key,))
        return None
    found = live.results(requests, f"Reading {n} {shown.examples.many}", height=340)
    if found is None:
        return None
    return {way: one for way, one in zip(asked, found, strict=True) if one is not None}


def _wanted(key: str) -> None:
    st.session_state[key] = True


def _draw(
    shown: Shown,
    example: int,
    chosen: Chosen,
    of_all: Mapping[str, xr.Dataset],
    code: str,
    chance: int | None,
) -> None:
    many, lassoed = shown.examples.many, shown.together(example).lassoed
    sizes = {way: one.sizes["example"] for way, one in of_all.items()}
    n = max(sizes.values())
    over = counted([n], shown.examples.one, many)
    if len(set(sizes.values())) > 1:
        over = ", ".join(f"{size} {many} {way}" for way, size in sizes.items())
    which = f"The {n} chosen {many}" if lassoed else f"All {n} {many} of its kind"
    # One that is not there is offered above; what is stored is shown meanwhile.
    wanted = state.view().at("lens")
    instead = ""
    if wanted in KINDS and wanted != chosen.kind:
        instead = f" There is no {KINDS[wanted].lower()} of this model yet to read them through."
    parts.figure(
        rank_lines(of_all, title=f"{which}, {chosen.name.lower()}", chance=chance),
        "ranks-all",
        data=lambda: table(of_all),
        code=code,
        alt=f"Rank of the answer by layer, {n} {many}",
        told=Told(
            "Median rank of the answer’s first token, read after each block."
            f"{chosen.note}{instead}",
            over,
            f"{of_median('prompts')}, at each layer for itself",
            "the median rank of a random guess (dotted)" if chance else "none",
            about=shown.chosen_by,
        ),
    )
    follow.layers("ranks-all")
