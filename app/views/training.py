"""Models along a training: how what is asked both ways comes about, step by step."""

from __future__ import annotations

from app import state, trainings
from app.panels import training
from app.screen import parts
from app.text import markup
from app.views.opened import Opened


def show(opened: Opened) -> None:
    """Draw it. Models are loaded only where some were kept."""
    parts.html('<div class="ob-title">Training</div>')
    told, run = opened.page.trainings, opened.run
    table = None if told is None or run is None else run.table(told.table)
    if run is not None:
        found = trainings.of_run(run, told, table)
    else:
        model = opened.model
        own = None if model is None else trainings.beside(model)
        found = [] if own is None else [own]
    if not found:
        _without(opened)
        return
    by_name = {one.name: one for one in found}
    chosen = by_name.get(state.view().training or "", found[0])
    examples, asked = opened.page.examples, None
    if chosen.name == trainings.OWN and opened.examples is not None:
        examples, asked = opened.examples
    training.show(training.Shown(chosen, by_name, run, told, table, examples, asked))


def _without(opened: Opened) -> None:
    told = opened.page.trainings
    if opened.run is not None and told is not None:
        what, how = "This run followed no training.", f"<code>{markup.esc(told.command)}</code>"
        rest = f"{how} trains small models, keeps some of each on the way and asks them all."
    elif opened.run is not None:
        what, rest = "This study follows no training.", "Open a run of one that does."
    else:
        what = "No models of a training lie beside this one."
        rest = (
            "<code>obverse train reversal-curse --keep 0 --keep 100 --keep 200</code> keeps some "
            "on the way; open the folder that it leaves. Any folder of a model with "
            "<code>step-N</code> or <code>checkpoint-N</code> in it will do."
        )
    parts.html(f'<div class="ob-empty"><b>{markup.esc(what)}</b><br>{rest}</div>')
