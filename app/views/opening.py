"""Choosing what to open, and the user's consent to open a model that only a link names."""

from __future__ import annotations

from pathlib import PurePath

import streamlit as st

from app import resources, runs, state
from app.panels.inside import generation
from app.screen import parts
from app.screen.standing import standing
from app.selection import Listed, Probe, Source
from app.text import markup
from app.views import probes, prompt
from experiments.records import RunRecord
from interp.figures.drawing import theme

OTHER = Source("model", "")
"""A model that the user types in."""

_MISSING = "missing-run"


def choose(found: dict[str, RunRecord]) -> Source | None:
    """The list of runs and models. A run that the address names but is not there is noted, to be
    told until another one is chosen (`missing`)."""
    options = [Source("run", name) for name in found]
    options += [Source("model", name) for name in bundled()]
    options.append(OTHER)
    wanted = state.view().source
    if wanted is not None and wanted.kind == "run" and wanted.name not in found:
        st.session_state[_MISSING] = wanted.name
        wanted = None
    if wanted is not None and wanted not in options:
        options.insert(len(options) - 1, wanted)
    current = wanted or (options[0] if found else None)
    if current != state.view().source:
        state.change(source=current)
    _selectbox(options, current, found)
    return current


def missing() -> str | None:
    """The run that the address has named, where there is no such run."""
    name: str | None = st.session_state.get(_MISSING)
    return name


def _selectbox(options: list[Source], current: Source | None, found: dict[str, RunRecord]) -> None:
    def name(source: Source) -> str:
        if source == OTHER:
            return "Another model …"
        if source.kind == "run":
            return f"Run: {runs.label(found[source.name])}"
        return f"Model: {PurePath(source.name).name if source.name[:1] in '/~.' else source.name}"

    # Whenever it is drawn: a page that is drawn again before the browser has got it once would have
    # the first of the list, and choose that.
    key, changed = standing("source", current, open_)
    st.selectbox(
        "Open",
        options,
        index=None if current is None else 0,  # the session state has the choice
        format_func=name,
        key=key,
        on_change=changed,
        placeholder="Choose a run or a model",
        label_visibility="collapsed",
    )


def open_(source: Source) -> None:
    """Look at something else; what was chosen in one run or model means nothing in another."""
    st.session_state.pop(_MISSING, None)
    state.change(source=source, example=None, cell=None, ask=None, page=None, probe=Probe())
    state.change(training=None, measure=None, step=None, asked=None, together=())
    state.change(listed=Listed(), overview=None, table=None, writing=None, sought="", pinned=())
    for widget in ("search", *prompt.FORM, *probes.FORM, *generation.FORM):
        st.session_state.pop(widget, None)


def agreed(name: str) -> bool:
    """Whether a model may be loaded: bundled ones may, others after a click.

    A link alone must neither open a folder of this computer nor fetch anything from a hub.
    """
    return bool(name) and (name in bundled() or name in state.agreed() | resources.agreed())


def ask(name: str) -> None:
    """What a link wants to open, and the click that allows it. Nothing of it is touched before."""
    with st.container(border=True):
        parts.html(
            markup.heading("Open this model?", "The link that you followed asks for it.")
            + f'<pre class="ob-path">{markup.esc(theme.visible(name))}</pre>'
            + markup.hint(
                "If there is such a folder on this computer, the model in it is opened; else the "
                "name is looked up on the Hugging Face hub and the model is downloaded. Only "
                "safetensors are read, and no code that a model brings along."
            )
        )
        st.button("Open it", key="allow", type="primary", on_click=_allow, args=(name,))


def _allow(name: str) -> None:
    state.agree(name)
    resources.agreed().add(name)


def other() -> None:
    """A form for a model that is neither bundled nor of a run."""
    with st.form("other", border=False):
        columns = st.columns([4, 1], vertical_alignment="bottom")
        name = columns[0].text_input(
            "Folder of a Hugging Face model, or its id on the hub", key="other-name"
        )
        if columns[1].form_submit_button("Load", width="stretch") and name.strip():
            source = Source("model", name.strip())
            _allow(source.name)
            open_(source)
            st.rerun()
    parts.html(markup.hint("Only safetensors are read, and no code that a model brings along."))


def bundled() -> list[str]:
    """Names of models that come with installed packages."""
    from interp.loading.where import bundled_models

    try:
        return sorted(bundled_models())
    except Exception:  # an entry point of another package can fail in any way; none is needed here
        return []
