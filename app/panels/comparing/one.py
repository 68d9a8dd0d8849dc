"""One question in two models, or two questions in one model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import pins, resources, state
from app.compute import comparing
from app.compute.engine import ModelSpec
from app.compute.refining import Refined, was_run
from app.panels import patching
from app.panels.both_ways import ESTIMATED
from app.panels.comparing import difference, lenses, reading
from app.panels.comparing.models import activations, swaps
from app.panels.comparing.reading import Reading
from app.panels.comparing.side import COLOURS, Side, choice, one_of, site
from app.runs import Run
from app.screen import live, parts
from app.selection import SITES, Ask
from app.text import markup, snippets, two_snippets
from cache.errors import ObverseError
from experiments.explorer import Pair

_NAMES = {
    "lens": "Lens",
    "patching": "Patching maps",
    "activations": "Activations",
    "swaps": "Module swaps",
}
_AS_PINNED = "as-pinned"


def show(a: Side, b: Side, bar: DeltaGenerator) -> None:
    """Draw what is chosen of them.

    Args:
        bar: where the choices stand.
    """
    specs = a.model(), b.model()
    if specs[0] is None or specs[1] is None:
        return  # what is wrong was said
    both = specs[0], specs[1]
    same = both[0] == both[1]
    ways = _ways(a, b)
    names = {
        name: title for name, title in _NAMES.items() if not same or name in ("lens", "patching")
    }
    shown = one_of(state.view().two.shown, list(names))
    asked = one_of(state.view().two.way, list(ways)) if ways else _AS_PINNED
    with bar:
        choice("shown", names, shown, label="What is compared", usual="lens")
        if ways:
            choice("way", ways, asked, label="Asked", usual=_AS_PINNED)
    found = _readings(a, b, both, None if asked == _AS_PINNED else asked)
    if not same:
        _form(a)
    if found is None:
        return
    first, second = found["a"], found["b"]
    if same and first == second:
        parts.html(
            markup.hint(
                "A and B ask the same model the same question; choose another state for one of "
                "them."
            )
        )
        return
    try:
        if shown == "lens":
            lenses.show(found, {"a": a.run, "b": b.run})
        elif shown == "patching":
            _patching(found, {"a": a.run, "b": b.run})
        elif shown == "activations":
            activations(first, second)
        else:
            swaps(first, second, (a.run, b.run))
    except ObverseError as error:
        parts.html(markup.hint(str(error)))


def _ways(a: Side, b: Side) -> dict[str, str]:
    """How examples can be asked; empty where none are, or in one way only."""
    told = next(
        (one for side in (a, b) if not pins.is_typed(side.view) and (one := side.examples())), None
    )
    if told is None or len(told[0].ways) < 2:
        return {}
    return {_AS_PINNED: "As it was looked at"} | {way.name: way.title for way in told[0].ways}


def _readings(
    a: Side, b: Side, specs: tuple[ModelSpec, ModelSpec], asked: str | None
) -> dict[str, Reading] | None:
    """What is asked of each; of two models the same. None where nothing is, which is said."""
    found: list[Reading | None] = [None, None]
    try:
        found[0] = reading.of(a, specs[0], asked)
        if specs[0] == specs[1]:
            found[1] = reading.of(b, specs[1], asked)
        else:
            question = found[0] or reading.of(b, specs[1], asked)
            if question is not None:
                which = "A" if found[0] is not None else "B"
                parts.html(
                    markup.hint(
                        f"Both models are asked the question of {which}: “{question.prompt}”"
                    )
                )
                found = [replace(question, spec=spec) for spec in specs]
    except ObverseError as error:
        parts.error(error)
        return None
    if found[0] is not None and found[1] is not None:
        return {"a": found[0], "b": found[1]}
    without = " and ".join(
        side.letter for side, one in zip((a, b), found, strict=True) if one is None
    )
    parts.html(
        f'<div class="ob-empty"><b>{without} asks nothing yet.</b><br>Open an example or type a '
        "prompt under <b>Any prompt</b>, press <b>Pin this</b> at the left, and choose that pin "
        "here.</div>"
    )
    return None


def _form(a: Side) -> None:
    """Another question for both models; it becomes part of A."""
    now = a.view.ask or Ask("", "", "", "")
    with st.expander("Ask both models something else"), st.form("compare-ask", border=False):
        typed = {}
        rows = (
            (("clean", "Prompt"), ("answer", "Answer")),
            (
                ("corrupt", "Second prompt, to patch"),
                ("foil", "What follows it"),
            ),
        )
        for row in rows:
            for (name, label), column in zip(row, st.columns([3, 1]), strict=True):
                typed[name] = column.text_input(
                    label, value=getattr(now, name), max_chars=2000, key=f"compare-ask-{name}"
                )
        if st.form_submit_button("Ask") and typed["clean"].strip():
            two = state.view().two
            asking = replace(a.view, ask=Ask(**typed), example=None, cell=None)
            state.change(two=replace(two, a=asking), cell=None)
            st.rerun()


def _patching(found: Mapping[str, Reading], runs: Mapping[str, Run | None]) -> None:
    pairs = {name: one.pair for name, one in found.items()}
    first, second = pairs["a"], pairs["b"]
    if first is None or second is None:
        parts.html(
            markup.hint(
                "To patch activations, each side needs an answer, a second prompt that differs in "
                "one thing, and what follows that."
            )
        )
        return
    where = site(SITES)
    parts.html(
        markup.heading(
            "By how much a patch moves the answer",
            "Each cell puts one activation of the clean run into the corrupted run, and reads by "
            "how much the answer’s first token gains on the foil’s, in logits. One colour scale.",
        )
    )
    refining = {
        name: live.refine(found[name].spec, pair, where, f"compare-{name}", runs[name])
        for name, pair in (("a", first), ("b", second))
    }
    live.draw(
        list(refining.values()),
        functools.partial(_maps, found, (first, second), where, refining),
        doing="Patching",
        height=480,
    )


def _maps(
    found: Mapping[str, Reading],
    pairs: tuple[Pair, Pair],
    where: str,
    refining: Mapping[str, live.Refining],
) -> None:
    maps = {}
    for (name, work), pair in zip(refining.items(), pairs, strict=True):
        if work.refined is not None:
            maps[name] = patching.of_pair(
                name, work.refined.result, 0, pair, found[name].spec, "", work.refined
            )
    limit = patching.reach(list(maps.values()), "change")
    drawn = parts.level(
        [patching.drawn(one, "change", limit, parts.width(2)) for one in maps.values()]
    )
    figures = dict(zip(maps, drawn, strict=True))
    for (name, pair), column in zip(
        zip("ab", pairs, strict=True), st.columns(2, gap="large"), strict=True
    ):
        with column:
            spec = found[name].spec
            parts.html(
                markup.way(lenses.titles(found)[name], COLOURS[name])
                + f'<div class="ob-small">“{markup.esc(pair.clean)}” into '
                f"“{markup.esc(pair.corrupt)}”</div>"
            )
            if name in maps:
                code = snippets.patching(spec, pair, where, patching.settings("change", 0, limit))
                one = replace(maps[name], code=code)
                patching.show(one, spec, "change", figures[name])
            live.progress(refining[name])
    # Maps that still change are drawn twice a second; their difference waits for the last of them.
    if any(work.work.stand.running for work in refining.values()):
        return
    done = [work.refined for work in refining.values()]
    if done[0] is not None and done[1] is not None:
        _difference(found, pairs, where, (done[0], done[1]))


def _difference(
    found: Mapping[str, Reading],
    pairs: tuple[Pair, Pair],
    where: str,
    done: tuple[Refined, Refined],
) -> None:
    specs = found["a"].spec, found["b"].spec
    reason = comparing.not_subtracted(resources.engine(), specs, pairs[0], where)
    if reason is not None:
        parts.html(markup.hint(reason))
        return
    if not all(was_run(one.result) for one in done):
        parts.html(markup.hint(ESTIMATED))
        return
    code = two_snippets.asked_contrast((specs[0], pairs[0]), (specs[1], pairs[1]), where)
    try:
        first, second = done
        checks = first.checks, second.checks
        difference.of_pairs(first.result, second.result, pairs, code, checks)
    except ObverseError as error:
        parts.html(markup.hint(str(error)))
