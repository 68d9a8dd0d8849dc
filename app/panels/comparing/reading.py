"""What a state asks a model: the prompt, and as far as there is one the pair that is patched."""

from __future__ import annotations

from dataclasses import dataclass

from app import pins
from app.compute import pairs
from app.compute.engine import ModelSpec
from app.panels import example_patching
from app.panels.comparing.side import Side
from app.screen.shown import Shown
from app.selection import Ask
from experiments.explorer import Examples, Pair, Way


@dataclass(frozen=True)
class Reading:
    """Attributes:
    spec: the model.
    prompt: what is asked.
    answer, foil: what should follow it, and what not; None where nobody said.
    pair: what is patched; None where something is missing for that.
    """

    spec: ModelSpec
    prompt: str
    answer: str | None
    foil: str | None
    pair: Pair | None


def of(side: Side, spec: ModelSpec, asked: str | None) -> Reading | None:
    """The question of a state; None where it has none.

    Args:
        asked: the way that an example is asked; None for the one that the state was looking at.

    Raises:
        ObverseError: the prompts do not fit.
    """
    if side.view.ask is not None and pins.is_typed(side.view):
        return typed(spec, side.view.ask)
    told = side.examples()
    if told is None:
        return None
    examples, table = told
    wanted = side.view.example
    if wanted is None or not (table[examples.key] == wanted).any():
        wanted = examples.first(table)
    if wanted is None:
        return None
    way = _way(examples, asked or (side.view.cell.way if side.view.cell else None))
    shown = Shown(examples, table, spec, side.run)
    row = table.iloc[shown.row(wanted)]
    pair = example_patching.pair_of(shown, wanted, way)
    prompt, answer = str(row[f"{way.name}_prompt"]), str(row[f"{way.name}_answer"])
    return Reading(spec, prompt, answer, None if pair is None else pair.foil, pair)


def typed(spec: ModelSpec, ask: Ask) -> Reading | None:
    """What the user typed; None where that is no prompt.

    Raises:
        PromptError: the two prompts are the same, or too long.
    """
    prompt = ask.clean.rstrip(" ")
    if not prompt.strip():
        return None
    if ask.corrupt.strip() and ask.answer.strip() and ask.foil.strip():
        pair = pairs.typed(ask.clean, ask.corrupt, ask.answer, ask.foil)
        return Reading(spec, pair.clean, pair.answer, pair.foil, pair)
    answer, foil = map(pairs.answer_typed, (ask.answer, ask.foil))
    return Reading(spec, prompt, answer, foil, None)


def _way(examples: Examples, name: str | None) -> Way:
    return next((way for way in examples.ways if way.name == name), examples.ways[0])
