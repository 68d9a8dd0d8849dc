"""One step of a training: a slider that chooses it, and an example asked both ways at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st
import xarray as xr

from app import state
from app.compute import along
from app.panels import example_table
from app.screen import parts, scrubber
from app.screen.told import Told
from app.text import markup, sentences, training_snippets
from app.trainings import Training
from experiments.explorer import Examples, Measure
from interp.figures import rank_lines
from interp.figures.drawing import numbers


@dataclass(frozen=True)
class At:
    """What is shown of a step.

    Attributes:
        steps: that can be chosen.
        examples, table: what the models are asked.
        found: what those answered that were asked so far, by step.
        measure: the one that is drawn along the training.
        example: the one that is looked at, by its number.
        figure: in which the step is marked.
    """

    training: Training
    steps: list[int]
    examples: Examples | None
    table: pd.DataFrame | None
    found: xr.Dataset | None
    measure: Measure
    example: int | None
    figure: str


def chosen(examples: Examples, table: pd.DataFrame, prompt: str | None) -> int | None:
    """The example that is asked: the one chosen here, or elsewhere if it is there too.

    Args:
        prompt: of the one that is chosen elsewhere, in the first way.
    """
    view = state.view()
    if view.asked is not None and (table[examples.key] == view.asked).any():
        return view.asked
    same = table[table[f"{examples.ways[0].name}_prompt"] == prompt]
    return int(same.iloc[0][examples.key]) if len(same) else examples.first(table)


def choose(examples: Examples, table: pd.DataFrame, prompt: str | None) -> None:
    """A list of all examples."""
    names = {int(row[examples.key]): examples.heading(row)[0] for _, row in table.iterrows()}

    def changed() -> None:
        state.change(asked=st.session_state["asked"])

    st.session_state["asked"] = chosen(examples, table, prompt)
    st.selectbox(
        examples.one.capitalize(),
        list(names),
        format_func=lambda number: names[number],
        key="asked",
        on_change=changed,
    )


def group(found: xr.Dataset, example: int) -> str:
    """Of which kind an example is."""
    return str(found["group"].sel(example=example).values)


def kind(examples: Examples, group: str) -> str:
    """A kind of examples for people, after their number: " (trained: forward)"."""
    if not group:
        return ""
    label = next((one.label for one in examples.columns if one.name == examples.group), "kind")
    return f" ({label.lower()}: {example_table.words(group)})"


def show(at: At, curves: Callable[[], None]) -> None:
    """The slider, and below it what changes with it.

    Args:
        curves: draws what it moves a line in.
    """
    st.fragment(_show)(at, curves)


def _show(at: At, curves: Callable[[], None]) -> None:
    step = step_of(at.steps)
    said = {one: _words(at, one) for one in at.steps}

    def moved(to: int) -> None:
        state.change(step=None if to == at.steps[-1] else to)

    scrubber.show(at.training.name, at.steps, step, [at.figure], said, moved)
    state.to_address()
    curves()
    scrubber.place(said[step])
    if at.found is not None and at.example is not None and step in at.found["step"].values:
        _ranks(at, at.found.sel(step=step, example=at.example), step)


def step_of(steps: Sequence[int]) -> int:
    """The chosen step, or the nearest that there is; the last where none was chosen."""
    wanted = state.view().step
    return steps[-1] if wanted is None else min(steps, key=lambda one: abs(one - wanted))


def _words(at: At, step: int) -> str:
    if at.found is None or at.example is None or at.examples is None or at.table is None:
        return ""
    if step not in at.found["step"].values:
        kept = step in at.training.steps
        why = (
            "The model of this step is being asked." if kept else "No model of this step was kept."
        )
        return markup.hint(why)
    value = at.measure.value if at.measure in along.MEASURES else "preference"
    of_kind = along.of_group(at.found, group(at.found, at.example))
    titles = [way.title.lower() for way in at.examples.ways[:2]]
    said = ""
    if len(titles) == 2:
        said = sentences.apart(
            along.difference(of_kind, step, value), value, titles, at.examples.many
        )
        said = f'<div class="ob-sentence">{markup.esc(said)}</div>'
    one = at.found.sel(step=step, example=at.example)
    columns = "".join(f"<div>{_way(at, one, way.name)}</div>" for way in at.examples.ways)
    return f'{said}<div class="ob-two">{columns}</div>'


def _way(at: At, one: xr.Dataset, name: str) -> str:
    """What the model of a step says in one way."""
    assert at.examples is not None
    way = next(way for way in at.examples.ways if way.name == name)
    asked = one.sel(way=name)
    answer = str(asked["answer"].values).strip()
    rank = int(asked["rank"].isel(layer=-1))
    if bool(asked["correct"]):
        mark = f"{markup.right('right')} &nbsp; “{markup.esc(answer)}”"
    else:
        mark = (
            f"{markup.wrong('wrong')} &nbsp; “{markup.esc(answer)}” starts at rank "
            f"{numbers.rank(rank)}"
        )
    tokens = markup.next_tokens(
        [str(token) for token in asked["top_token"].values],
        [float(p) for p in asked["top_prob"].values],
        colour=way.colour,
        answer=str(asked["first_token"].values),
    )
    title = f"{way.title}: “{asked['prompt'].values} …”"
    return f'{markup.way(title, way.colour)}<div class="ob-said">{mark}</div>{tokens}'


def _ranks(at: At, one: xr.Dataset, step: int) -> None:
    """The rank of the answer from layer to layer at one step."""
    assert at.examples is not None
    assert at.found is not None
    ways = [way.name for way in at.examples.ways]
    layers = one["layer"].values
    lenses = {
        way: xr.Dataset(
            {"answer_rank": (("example", "layer"), one["rank"].sel(way=way).values[None])},
            coords={"layer": layers},
        )
        for way in ways
    }
    chance = int(at.found.attrs["d_vocab"])
    fig = rank_lines(lenses, title=f"Rank of the answer by layer, step {step:,}", chance=chance)
    spec = dict(at.training.checkpoints)[step]
    asked = {
        way: (str(one["prompt"].sel(way=way).values), str(one["answer"].sel(way=way).values))
        for way in ways
    }
    parts.figure(
        fig,
        "training-ranks",
        data=lambda: _rank_table(lenses, step),
        code=training_snippets.ranks(spec, asked, chance),
        alt=f"Rank of the answer by layer at step {step}, asked both ways",
        told=Told(
            "Under the logit lens, at the end of the question.",
            n=f"1 {at.examples.one}",
            interval=f"none: one {at.examples.one}",
            control="the dotted line is a random guess",
        ),
    )


def _rank_table(lenses: Mapping[str, xr.Dataset], step: int) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "step": step,
                "asked": way,
                "layer": lens["layer"].values,
                "answer_rank": np.ravel(lens["answer_rank"].values),
            }
        )
        for way, lens in lenses.items()
    ]
    return pd.concat(frames, ignore_index=True)
