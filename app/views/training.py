"""Models along a training: how what is asked both ways comes about, step by step."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import streamlit as st

from app import state, trainings
from app.compute import pairs
from app.panels import training
from app.screen import parts
from app.selection import LONGEST_TEXT, Ask
from app.text import markup
from app.views.opened import Opened
from experiments.explorer import Examples, Way
from interp.figures.drawing import theme


def show(opened: Opened) -> None:
    """Draw it. Models are loaded only where some were kept."""
    told, run = opened.page.trainings, opened.run
    table = None if told is None or run is None else run.table(told.table)
    if told is not None and table is not None and not trainings.usable(told, table):
        parts.warning(f"The table '{told.table}' of this run lacks columns, and is not drawn.")
        table = None
    if run is not None:
        found = trainings.of_run(run, told, table)
    else:
        model = opened.model
        own = None if model is None else trainings.beside(model)
        found = [] if own is None else [own]
    if not found:
        _title()
        _without(opened)
        return
    by_name = {one.name: one for one in found}
    chosen = by_name.get(state.view().training or "", found[0])
    examples, asked = opened.page.examples, None
    if chosen.name == trainings.OWN and opened.examples is not None:
        examples, asked = opened.examples
    _title("" if told is None or chosen.arm is None else told.about)
    if examples is None:
        examples, asked = _typed()
    prompt = _prompt(opened)
    training.show(training.Shown(chosen, by_name, run, told, table, examples, asked, prompt))


def _title(about: str = "") -> None:
    parts.html(markup.title("Training", about))


def _prompt(opened: Opened) -> str | None:
    """What the example that is chosen on other pages is asked in the first way."""
    example = state.view().example
    if opened.examples is None or example is None:
        return None
    examples, table = opened.examples
    rows = table[table[examples.key] == example]
    return str(rows.iloc[0][f"{examples.ways[0].name}_prompt"]) if len(rows) else None


def _typed() -> tuple[Examples | None, pd.DataFrame | None]:
    """A prompt and its answer, for models that bring nothing along to be asked."""
    ask = state.view().ask or Ask("", "", "", "")
    with st.form("along", border=False):
        columns = st.columns([4, 2, 1], vertical_alignment="bottom")
        clean = columns[0].text_input("Prompt", ask.clean, max_chars=LONGEST_TEXT)
        answer = columns[1].text_input("Its answer", ask.answer, max_chars=LONGEST_TEXT)
        if columns[2].form_submit_button("Ask them", width="stretch"):
            ask = replace(ask, clean=clean, answer=answer)
            state.change(ask=ask)
    prompt, wanted = ask.clean.rstrip(" "), pairs.answer_typed(ask.answer)
    if not prompt or wanted is None:
        return None, None
    table = pd.DataFrame(
        {"number": [0], "kind": [""], "asked_prompt": [prompt], "asked_answer": [wanted]}
    )
    return _ONE, table


_ONE = Examples(
    one="prompt",
    many="prompts",
    table="",
    key="number",
    group="kind",
    ways=(Way("asked", "Your prompt", theme.OKABE_ITO[0]),),
    columns=(),
    search=(),
    first=lambda table: 0,
    heading=lambda row: (str(row["asked_prompt"]), ""),
    measure=lambda model, progress: None,
    pair=lambda *given: pairs.typed("", "", "", ""),  # which refuses: there is nothing to pair
)


def _without(opened: Opened) -> None:
    """What is missing, and the command that makes it."""
    told = opened.page.trainings
    if opened.run is not None and told is not None:
        what, how = "This run followed no training.", f"<code>{markup.esc(told.command)}</code>"
        rest = f"{how} trains small models, keeps some of each on the way and asks them all."
    elif opened.run is not None:
        what, rest = "This study follows no training.", "Open a run of one that does."
    elif opened.source is None:
        what, rest = "Nothing is open.", "Choose a run or a model at the left."
    else:
        what = "No models of a training lie beside this one."
        rest = (
            "<code>obverse train reversal-curse --keep 0 --keep 100 --keep 200</code> keeps some "
            "on the way; open the folder that it leaves. Any folder of a model with "
            "<code>step-N</code> or <code>checkpoint-N</code> in it will do."
        )
    parts.html(f'<div class="ob-empty"><b>{markup.esc(what)}</b><br>{rest}</div>')
