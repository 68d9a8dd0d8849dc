"""What states are called: for the sidebar, for pins, and for what is compared."""

from __future__ import annotations

from pathlib import PurePath

from app import pins, resources
from app.panels.patching import SITE_NAMES
from app.selection import Cell, View
from app.views.opened import Opened
from experiments.records import RunRecord
from interp.figures.drawing import theme

_LONGEST = 60  # characters of a prompt


def example(opened: Opened, number: int) -> str:
    """An example of what is open in a few words."""
    # A model's own examples are asked when their page is opened, not to write their name here.
    there = opened.examples_there
    if there is None:
        return f"number {number}"
    examples, table = there
    rows = table[table[examples.key] == number]
    return examples.heading(rows.iloc[0])[0] if len(rows) else f"number {number}"


def cell(chosen: Cell) -> str:
    """A cell in a few words."""
    where = f"head {chosen.head}" if chosen.head is not None else f"token {chosen.position}"
    return f"{chosen.way}, layer {chosen.layer}, {where}"


def of_view(opened: Opened, view: View) -> str:
    """A state in a line: what is looked at, and in what.

    Args:
        opened: what is open now, which need not be what the state is about.
    """
    if view.source is not None and view.source != opened.source:
        record = opened.found.get(view.source.name) if view.source.kind == "run" else None
        run = None if record is None else resources.run(record)
        opened = Opened(opened.root, view.source, run, opened.found)
    pieces = []
    if view.ask is not None and pins.is_typed(view):
        prompt = theme.shorten(theme.visible(view.ask.clean.strip()), _LONGEST)
        pieces.append(f"“{prompt}”")
    elif view.example is not None:
        pieces.append(example(opened, view.example))
    if view.cell is not None:
        if view.site != View.site:  # the one that is usual
            pieces.append(SITE_NAMES[view.site])
        pieces.append(cell(view.cell))
    pieces.append(of_source(opened, view))
    return theme.visible(" · ".join(pieces))


def of_source(opened: Opened, view: View) -> str:
    """The run or the model of a state."""
    if view.source is None:
        return "nothing"
    record = opened.found.get(view.source.name)
    if view.source.kind == "run" and record is not None:
        told = [_run(other) for other in opened.found.values()]
        alone = told.count(_run(record)) == 1
        return _run(record) if alone else f"{_run(record)} ({view.source.name})"
    return PurePath(view.source.name).name or view.source.name


def _run(record: RunRecord) -> str:
    config = record.config
    model = PurePath(str(config.get("model") or "")).name
    # A study's own model bears its name.
    model = "" if model == record.study else model
    pieces = (record.study, model, str(config["preset"]), f"seed {config['seed']}")
    return ", ".join(piece for piece in pieces if piece)
