"""Two states side by side: two runs of a study, two models, or two questions; and the pins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal
from urllib.parse import urlencode

import streamlit as st

from app import pins, resources, state
from app.link import state_to_text, to_query
from app.panels.comparing import one, runs
from app.panels.comparing.side import COLOURS, Side, choice, one_of
from app.screen import parts
from app.screen.standing import standing
from app.selection import Source, View
from app.text import markup
from app.views import naming, opening
from app.views.opened import Opened

_Name = Literal["a", "b"]
_OVER = {"all": "All examples", "one": "One question"}


def show(opened: Opened) -> None:
    """The page."""
    parts.html(
        markup.title("Compare", "Two runs of one study, two models, or two questions to one model.")
    )
    two = state.view().two
    _choose(opened)
    _pinned(opened)
    found: list[Side] = []
    once: dict[Source, Opened] = {}
    for name, view in (("a", two.a), ("b", two.b)):
        side = None if view is None else _side(opened, "a" if name == "a" else "b", view, once)
        if side is not None:
            found.append(side)
        elif view is not None:
            return  # what is missing was said
    if len(found) < 2:
        _empty()
        return
    a, b = found
    bar = st.container(horizontal=True, gap="medium")
    over = "one"
    if a.run is not None and b.run is not None and a.view.source != b.view.source:
        if a.run.record.study == b.run.record.study:
            over = one_of(state.view().two.over, list(_OVER))
            with bar:
                choice("over", _OVER, over, label="Over", usual="all")
        else:
            parts.html(
                markup.hint(
                    "These are runs of two studies, whose findings are about other things; their "
                    "models can be asked one question."
                )
            )
    if over == "all":
        runs.show(a, b, bar)
    else:
        one.show(a, b, bar)


def _empty() -> None:
    two = state.view().two
    missing = " and ".join(n.upper() for n in ("a", "b") if getattr(two, n) is None)
    parts.html(
        f'<div class="ob-empty"><b>Choose {missing} above.</b><br>Runs and models stand in the '
        "lists as they are. To compare two questions, open one (an example, or <b>Any "
        "prompt</b>), press <b>Pin this</b> at the left, then open the other one and pin that, "
        "too:<br>the first two pins become A and B.</div>"
    )


def _options(opened: Opened) -> dict[View, str]:
    """What can be compared, with names that differ."""
    found = {pin.view: f"Pinned: {pin.name}" for pin in pins.all_pins()}
    sources = [Source("run", name) for name in opened.found]
    models = dict.fromkeys([*opening.bundled(), *sorted(state.agreed())])
    sources += [Source("model", name) for name in models]
    current = () if opened.source is None else (opened.source,)
    for source in dict.fromkeys([*sources, *current]):
        kind = "Run" if source.kind == "run" else "Model"
        view = View(source)
        told = naming.of_source(opened, view) if source.kind == "run" else source.name
        found.setdefault(view, f"{kind}: {told}")
    two = state.view().two
    for chosen in (two.a, two.b):
        if chosen is not None:
            found.setdefault(chosen, naming.of_view(opened, chosen))
    return told_apart(found)


def told_apart(names: Mapping[View, str]) -> dict[View, str]:
    """Names of which none stands for two states: a list is chosen from by its names."""
    told, seen, found = Counter(names.values()), Counter[str](), {}
    for view, name in names.items():
        seen[name] += 1
        found[view] = name if told[name] == 1 else f"{name} · {seen[name]}"
    return found


def _choose(opened: Opened) -> None:
    options = _options(opened)
    for name, column in zip(("a", "b"), st.columns(2, gap="large"), strict=True):
        chosen = getattr(state.view().two, name)
        key, changed = standing(f"compare-{name}", chosen, partial(_as, name))
        with column:
            parts.html(markup.way(name.upper(), COLOURS[name]))
            st.selectbox(
                name.upper(),
                list(options),
                index=None,
                format_func=options.__getitem__,
                key=key,
                on_change=changed,
                placeholder=f"Choose {name.upper()}: a pin, a run or a model",
                label_visibility="collapsed",
            )


def _pinned(opened: Opened) -> None:
    """The pins, each to be opened, compared, linked to, or removed."""
    some = pins.all_pins()
    if not some:
        parts.html(
            markup.hint(
                "Nothing is pinned. “Pin this” at the left of every other page keeps what is on "
                "its screen; pins last as long as this session, links to them longer."
            )
        )
        return
    two = state.view().two
    with st.expander(f"Pinned: {len(some)}", expanded=two.a is None or two.b is None):
        for number, pin in enumerate(some):
            with st.container(
                horizontal=True, vertical_alignment="center", gap="small", key=f"pin-{number}"
            ):
                st.html(f'<div class="ob-pin">{markup.esc(pin.name)}</div>', width="stretch")
                for name in ("a", "b"):
                    on = getattr(two, name) == pin.view
                    st.button(
                        name.upper(),
                        key=f"pin-{number}-{name}",
                        type="primary" if on else "secondary",
                        help=f"Compare as {name.upper()}",
                        on_click=_as,
                        args=(name, pin.view),
                    )
                st.button("Open", key=f"pin-{number}-open", on_click=_open, args=(pin.view,))
                with st.popover("Link"):
                    st.code(link(pin.view), language=None, wrap_lines=True)
                st.button("Remove", key=f"pin-{number}-remove", on_click=pins.remove, args=(pin,))


def link(view: View) -> str:
    """The address of a state, to be copied."""
    base = (st.context.url or "").split("?")[0]
    return f"{base}?{urlencode(to_query(view))}"


def _as(name: str, view: View) -> None:
    two = state.view().two
    state.change(two=replace(two, a=view) if name == "a" else replace(two, b=view), cell=None)


def _open(view: View) -> None:
    two = state.view().two
    assert view.source is not None
    opening.open_(view.source)
    fields = {name: getattr(view, name) for name in view.__dataclass_fields__ if name != "two"}
    state.change(**fields, two=two)


def _side(opened: Opened, name: _Name, view: View, once: dict[Source, Opened]) -> Side | None:
    """A state with what it is about; None where it cannot be opened, which is said.

    A link alone opens what is bundled, or stands in the folder of runs, and nothing else.

    Args:
        once: what has been opened, to be filled: what is wrong with it is said once for both.
    """
    source = view.source
    assert source is not None
    run = None
    if source.kind == "run":
        if source.name not in opened.found:
            parts.error(f"{name.upper()} is a run '{source.name}' that is not here.")
            return None
        run = resources.run(opened.found[source.name])
    elif not opening.agreed(source.name):
        opening.ask(source.name)
        return None
    if state_to_text(view) is None:
        parts.warning(f"What {name.upper()} asks is too long for a link to this page.")
    own = once.setdefault(source, Opened(opened.root, source, run, opened.found))
    return Side(
        name,
        naming.of_view(own, view),
        view,
        run,
        lambda: own.model,
        lambda: own.examples,
    )
