"""Two runs of one study: what each found, and the difference of what both have stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import streamlit as st
import xarray as xr
from streamlit.delta_generator import DeltaGenerator

from app import state
from app.compute import comparing
from app.compute.comparing import Matched
from app.panels import patching
from app.panels.comparing import difference, findings
from app.panels.comparing.side import COLOURS, Side, choice, one_of, site
from app.runs import Run
from app.screen import parts
from app.screen.told import Told
from app.selection import SITES
from app.text import markup, two_snippets
from cache.errors import ObverseError
from experiments.explorer import Examples
from interp.figures import rank_lines

_NAMES = {"findings": "Findings", "patching": "Patching maps", "ranks": "Rank by layer"}


_NAMED = 6  # kinds or results that are told by name


def show(a: Side, b: Side, bar: DeltaGenerator) -> None:
    """Draw what is chosen of them; no model is needed.

    Args:
        bar: where the choices stand.
    """
    runs = a.run, b.run
    assert runs[0] is not None
    assert runs[1] is not None
    both = runs[0], runs[1]
    shown = one_of(state.view().two.shown, list(_NAMES))
    with bar:
        choice("shown", _NAMES, shown, label="What is compared", usual="findings")
    told = _examples(a, b)
    if both[0].fingerprint is not None and both[0].fingerprint == both[1].fingerprint:
        parts.html(
            markup.hint(
                "Both runs studied the same weights: what differs comes from their settings."
            )
        )
    if shown == "findings":
        findings.show(both, told)
        alone = stored_alone(both[0].record.names(), both[1].record.names())
        if alone:
            parts.html(markup.hint(alone))
        return
    if told is None:
        parts.html(markup.hint("The runs have not both stored examples, so there is no more."))
        return
    examples = told[0]
    kinds, lonely = kinds_of(told[1][examples.group], told[2][examples.group])
    if lonely:
        parts.html(markup.hint(lonely))
    if not kinds:
        return
    two = state.view().two
    way = one_of(two.way, [way.name for way in examples.ways])
    kind = one_of(two.group, kinds)
    row = st.container(horizontal=True, gap="medium")
    with row:
        if len(examples.ways) > 1:
            names = {way.name: way.title for way in examples.ways}
            choice("way", names, way, label="Asked")
        if len(kinds) > 1:
            titles = {kind: kind.replace("_", " ") for kind in kinds}
            choice("group", titles, kind, label="Kind")
    try:
        if shown == "patching":
            with row:
                where = site(SITES)
            _maps(both, examples, way, kind, where)
        else:
            _ranks(both, examples, way, kind)
    except ObverseError as error:
        parts.html(markup.hint(str(error)))


def kinds_of(first: Iterable[object], second: Iterable[object]) -> tuple[list[str], str]:
    """The kinds that both runs have, and which only one has, as sentences; empty where none is."""
    one, other = (list(dict.fromkeys(map(str, kinds))) for kinds in (first, second))
    said = []
    for letter, without, mine, theirs in (("A", "B", one, other), ("B", "A", other, one)):
        alone = [kind.replace("_", " ") for kind in mine if kind not in theirs]
        if alone:
            named = ", ".join(f"“{kind}”" for kind in alone[:_NAMED])
            more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
            said.append(
                f"Only {letter} has {named}{more}: {without} was asked nothing of the kind, so "
                "that there is nothing to subtract."
            )
    return [kind for kind in one if kind in other], " ".join(said)


def stored_alone(first: Sequence[str], second: Sequence[str]) -> str:
    """Which results only one run has stored, as sentences; empty where none is."""
    said = []
    for letter, without, mine, theirs in (("A", "B", first, second), ("B", "A", second, first)):
        alone = [name for name in mine if name not in theirs]
        if alone:
            more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
            said.append(
                f"Only {letter} has stored {', '.join(alone[:_NAMED])}{more}: {without} has not "
                "come that far, or its settings leave it out, so that these are not compared."
            )
    return " ".join(said)


def _examples(a: Side, b: Side) -> tuple[Examples, pd.DataFrame, pd.DataFrame] | None:
    one, other = a.examples(), b.examples()
    return None if one is None or other is None else (one[0], one[1], other[1])


def _chosen(run: Run, name: str, group: str, kind: str) -> xr.Dataset | None:
    """A stored result of the examples of one kind; None where there is none."""
    result = run.dataset(name)
    if result is None or group not in result.coords:
        return None
    chosen = result.isel(example=np.flatnonzero(result[group].values == kind))
    return chosen if chosen.sizes["example"] else None


def _both(
    runs: tuple[Run, Run], name: str, group: str, kind: str
) -> tuple[xr.Dataset, xr.Dataset] | None:
    """What both runs have stored; where one has not, that is said."""
    found = [_chosen(run, name, group, kind) for run in runs]
    without = [letter for letter, one in zip("AB", found, strict=True) if one is None]
    if without:
        parts.html(
            f'<div class="ob-empty"><b>{" and ".join(without)} '
            f"{'have' if len(without) > 1 else 'has'} not stored this.</b><br>Choose another kind "
            "or site, or finish the run with <code>obverse run</code>.</div>"
        )
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _maps(runs: tuple[Run, Run], examples: Examples, way: str, kind: str, where: str) -> None:
    name = examples.patching.format(way=way, site=where)
    stored = _both(runs, name, examples.group, kind)
    if stored is None:
        return
    found = comparing.matched(*stored)
    key = comparing.KEY if found.paired else None
    paths, group = (runs[0].record.path, runs[1].record.path), (examples.group, kind)
    sides = {"a": found.first, "b": found.second}
    maps = {side: _mean(side, result) for side, result in sides.items()}
    limit = patching.reach(list(maps.values()), "change")
    given = patching.settings("change", None, limit)
    parts.html(markup.heading("By how much a patch moves the answer", compared(found, examples)))
    figures = parts.level(
        [patching.drawn(one, "change", limit, parts.width(2)) for one in maps.values()]
    )
    for (side, one), fig, column in zip(
        maps.items(), figures, st.columns(2, gap="large"), strict=True
    ):
        with column:
            n = one.result.sizes["example"]
            parts.html(markup.way(f"{side.upper()}: mean of {n} {examples.many}", COLOURS[side]))
            code = two_snippets.stored_map(paths, name, group, key, side, given)
            shown = dataclasses.replace(one, code=code)
            patching.show(shown, None, "change", fig)
    code = two_snippets.stored_contrast(paths, name, group, key)
    difference.of_runs(found, examples, code)


def _mean(side: str, result: xr.Dataset) -> patching.Map:
    slots = {}
    if "position_label" in result.coords:
        slots = {str(label): i for i, label in enumerate(result["position_label"].values)}
    return patching.Map(side, result, None, None, slots, "")


def compared(found: Matched, examples: Examples) -> str:
    """Which pairs are compared, as sentences."""
    n_a, n_b = found.n
    if found.paired:
        said = f"{found.shared} pairs have the same prompts and answers in both runs"
        if found.shared == n_a == n_b:
            return f"All {said}; they are compared one by one."
        said += f" (of {n_a} in A and {n_b} in B); only these are compared, one by one."
    else:
        shared = "one has" if found.shared == 1 else f"{found.shared or 'none'} have"
        said = (
            f"A has {n_a} pairs and B {n_b}, of which {shared} the same prompts and "
            "answers: too few to compare one by one, so means of all of them are, as those of "
            "independent samples."
        )
    for letter, odd in zip("AB", found.odd, strict=True):
        if odd is not None:
            said += f" Only {letter} has “{odd[0]}” with “{odd[1]}”."
    return said


def _ranks(runs: tuple[Run, Run], examples: Examples, way: str, kind: str) -> None:
    name = examples.lens.format(way=way)
    stored = _both(runs, name, examples.group, kind)
    if stored is None:
        return
    lenses = {"A": stored[0], "B": stored[1]}
    n = [one.sizes["example"] for one in stored]
    many = examples.many
    parts.html(
        markup.heading(
            "Where the answer comes up", "Rank of the answer’s first token after the whole prompt."
        )
    )
    sizes = {one.attrs.get("d_vocab") for one in stored}
    chance = sizes.pop() if len(sizes) == 1 else None
    parts.figure(
        rank_lines(lenses, chance=None if chance is None else int(chance)),
        "compare-ranks",
        data=lambda: pd.concat(
            [
                one["answer_rank"].to_dataframe().reset_index().assign(run=name)
                for name, one in lenses.items()
            ],
            ignore_index=True,
        ),
        code=two_snippets.ranks(
            (runs[0].record.path, runs[1].record.path), name, (examples.group, kind), chance
        ),
        alt="Rank of the answer by layer, in run A and in run B",
        told=Told(
            shows="Median rank of the answer’s first token by layer, each run on its own "
            f"{many}; where bands overlap, nothing is said about a difference.",
            n=f"{n[0]} {many} in A, {n[1]} in B",
            interval="95% of each median",
            control="dotted: a random guess" if chance is not None else "none",
        ),
    )
