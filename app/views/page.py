"""The page: what to open, and then what there is to see of it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app import resources, runs, state
from app.arguments import Arguments
from app.compute.engine import ModelSpec
from app.selection import Source
from app.text import markup
from app.views import model_page, own, parts, run_page
from experiments.records import RunRecord
from interp.figures.drawing import theme

_OTHER = Source("model", "")


def show(arguments: Arguments) -> None:
    """Draw everything."""
    found, problems = runs.find(arguments.root, arguments.run)
    source = _choose(found)
    for problem in problems:
        parts.warning(problem)
    if source is None:
        _nothing(arguments.root)
    elif source.kind == "run":
        run_page.show(resources.run(found[source.name]))
    elif source.name:
        if _asked_for(source.name):
            model_page.show(ModelSpec(source.name))
        else:
            _ask(source.name)


def _choose(found: dict[str, RunRecord]) -> Source | None:
    """The bar at the top. A source that the address names but that is not there is told."""
    options = [Source("run", name) for name in found]
    options += [Source("model", name) for name in _bundled()]
    options.append(_OTHER)
    wanted = state.view().source
    missing = None
    if wanted is not None and wanted.kind == "run" and wanted.name not in found:
        wanted, missing = None, wanted
    if wanted is not None and wanted not in options:
        options.insert(len(options) - 1, wanted)
    current = wanted or (options[0] if found else None)
    if current != state.view().source:
        state.change(source=current)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.html('<div class="ob-brand">Ob<span>verse</span></div>', width="content")
        _selectbox(options, current, found)
        _pages(current)
        _settings()
    if missing is not None:
        parts.error(f"There is no run '{missing.name}' here; choose one from the list.")
    if st.session_state.get("source") == _OTHER or current == _OTHER:
        _other_model()
        return _OTHER
    return current


def _selectbox(options: list[Source], current: Source | None, found: dict[str, RunRecord]) -> None:
    def name(source: Source) -> str:
        if source == _OTHER:
            return "Another model …"
        if source.kind == "run":
            return f"Run: {runs.label(found[source.name])}"
        return f"Model: {source.name}"

    def changed() -> None:
        _open(st.session_state["source"])

    if current is not None and st.session_state.get("source") != current:
        st.session_state["source"] = current
    st.selectbox(
        "Open",
        options,
        index=None if current is None else 0,  # the session state has the choice
        format_func=name,
        key="source",
        on_change=changed,
        placeholder="Choose a run or a model",
        label_visibility="collapsed",
    )


def _open(source: Source) -> None:
    """Look at something else; what was chosen in one run or model means nothing in another."""
    state.change(source=source, example=None, cell=None, ask=None, page="study")
    for widget in ("page", "examples", "search", "groups", "table", *own.FORM):
        st.session_state.pop(widget, None)


def _pages(current: Source | None) -> None:
    if current is None or (current.kind == "model" and not _asked_for(current.name)):
        return

    def changed() -> None:
        state.change(page=st.session_state["page"] or "study", cell=None)

    st.session_state.setdefault("page", state.view().page)
    st.segmented_control(
        "Page",
        ["study", "yours"],
        format_func={"study": "Study", "yours": "Your own prompts"}.__getitem__,
        key="page",
        on_change=changed,
        label_visibility="collapsed",
        required=True,
    )


def _settings() -> None:
    with st.popover("Figures", type="tertiary", icon=":material/tune:"):
        st.segmented_control(
            "The camera above a figure saves it as",
            ["svg", "png"],
            default="svg",
            format_func=str.upper,
            key="image",
            required=True,
        )


def _asked_for(name: str) -> bool:
    """Whether a model may be loaded: bundled ones may, others after a click in this session.

    A link alone must neither open a folder of this computer nor fetch anything from a hub.
    """
    return bool(name) and (name in _bundled() or name in st.session_state.get("asked_for", ()))


def _ask(name: str) -> None:
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
    st.session_state["asked_for"] = {*st.session_state.get("asked_for", ()), name}


def _other_model() -> None:
    with st.form("other", border=False):
        columns = st.columns([4, 1], vertical_alignment="bottom")
        name = columns[0].text_input(
            "Folder of a Hugging Face model, or its id on the hub", key="other-name"
        )
        if columns[1].form_submit_button("Load", width="stretch") and name.strip():
            source = Source("model", name.strip())
            _allow(source.name)
            _open(source)
            st.session_state.pop("source", None)
            st.rerun()
    parts.html(markup.hint("Only safetensors are read, and no code that a model brings along."))


def _nothing(root: Path) -> None:
    parts.html(
        '<div class="ob-empty"><b>There are no runs here yet.</b><br>'
        f"In <code>{markup.esc(root)}</code> nothing was found. Make one with "
        "<code>obverse run reversal-curse</code> and reload this page,<br>"
        "or choose a model above to look at it directly.</div>"
    )


def _bundled() -> list[str]:
    from interp.loading.where import bundled_models

    try:
        return sorted(bundled_models())
    except Exception:  # an entry point of another package can fail in any way; none is needed here
        return []
