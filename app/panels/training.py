"""A training: what its models answered, step by step, and one of them asked both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
import xarray as xr

from app import resources, state
from app.compute import along
from app.compute.background import training as of_training
from app.compute.background.training import Answers
from app.panels import at_step
from app.runs import Run
from app.screen import follow, live, parts
from app.screen.told import Told
from app.text import markup, training_snippets
from app.trainings import Training
from experiments.explorer import Examples, Measure, Trainings
from interp.figures import step_lines

# Weights that are read within a minute; more is read where that is asked for.
MOST_BYTES = 2 << 30
_CURVES = "training-curves"
# px: what is said of the step stands below it, and both are to be seen at once.
_HEIGHT = 244


@dataclass(frozen=True)
class Shown:
    """What the page is about.

    Attributes:
        training: the one that is looked at.
        trainings: all of them, by name.
        run: the run that is open, if one is.
        told: what its study tells of its trainings.
        table: as the run stores it.
        examples: what the models are asked.
        asked: the table of these; None for what the models bring along.
        prompt: what the example that is chosen elsewhere is asked in the first way.
    """

    training: Training
    trainings: Mapping[str, Training]
    run: Run | None
    told: Trainings | None
    table: pd.DataFrame | None
    examples: Examples | None
    asked: pd.DataFrame | None
    prompt: str | None = None

    @property
    def rows(self) -> pd.DataFrame | None:
        """What the run stores of this training and of others of its arm."""
        if self.table is None or self.training.arm is None:
            return None
        return self.table[self.table["arm"].astype(str) == self.training.arm]

    @property
    def measures(self) -> dict[str, Measure]:
        """By name; those that are stored first."""
        stored: tuple[Measure, ...] = ()
        if self.told is not None and self.rows is not None:
            stored = self.told.measures
        asked: tuple[Measure, ...] = ()
        if self.training.checkpoints and self.examples:
            asked = along.MEASURES
        if self.asked is not None and len(self.asked) < along.LEAST:
            asked = tuple(one for one in asked if one.value != "preference")
        return {one.name: one for one in (*stored, *asked)}


@dataclass(frozen=True)
class _Asking:
    """The work on one training.

    Attributes:
        table: what the models are asked; None before that is known.
    """

    work: live.Waiting[Answers]
    table: pd.DataFrame | None


def show(shown: Shown) -> None:
    """Curves, the slider, and what the model of its step says."""
    asking = _asking(shown)
    measure = _controls(shown, asking)
    if asking is None:
        if measure is not None:
            _page(shown, measure, None, None)
        return
    live.draw([asking], lambda: _going(shown, measure, asking))


def _asking(shown: Shown) -> _Asking | None:
    """The models that were kept, being asked in the background; None where that must be asked for,
    and where there are none."""
    training, examples = shown.training, shown.examples
    if not training.checkpoints:
        parts.html(
            markup.hint(
                "No models of this training are on this computer, so none can be asked; what was "
                "stored of them is drawn."
            )
        )
        return None
    if examples is None:
        parts.html(
            '<div class="ob-empty"><b>There is nothing to ask these models yet.</b><br>Type a '
            "prompt and its answer above.</div>"
        )
        return None
    asked = shown.asked
    what = None if asked is None else _told(asked)
    kept = resources.asked_along(training.checkpoints, what)
    if asked is not None:
        kept.table = asked
    request = of_training.request(
        training.checkpoints, examples, what, kept, resources.load_apart, training.title
    )
    wanted = ("ask-all", training.checkpoints)
    if (
        training.bytes > MOST_BYTES
        and not st.session_state.get(str(wanted))
        and resources.jobs().find(request) is None
    ):
        st.button(
            f"Ask all {len(training.checkpoints)} models ({training.bytes / 1e9:,.1f} GB are read)",
            key="ask-all",
            on_click=st.session_state.update,
            args=({str(wanted): True},),
        )
        return None
    with st.spinner("Loading the last model …", show_time=True):
        work = live.wait_for(request, shown.run, within=_within(shown))
    if asked is None:
        # What they are asked is known when the first was; its list stands above what is drawn.
        found = work.wait(live.PATIENCE).result
        asked = None if found is None else found.table
    return _Asking(work, asked)


def _within(shown: Shown) -> bool:
    """Whether the models lie in the folder of the run that is open."""
    if shown.run is None:
        return False
    folder = shown.run.record.path.absolute()
    return all(folder in Path(spec.source).parents for _, spec in shown.training.checkpoints)


def _told(asked: pd.DataFrame) -> tuple[str, ...]:
    """All questions and answers of a table: two with the same ones are the same."""
    return tuple(map(str, asked.filter(regex="_(prompt|answer)$").to_numpy().ravel()))


def _controls(shown: Shown, asking: _Asking | None) -> Measure | None:
    """Which training, which measure, which example."""
    columns = st.columns(3, gap="small")
    names = list(shown.trainings)

    def trained() -> None:
        name = st.session_state["training"]
        state.change(training=None if name == names[0] else name, step=None, asked=None)

    st.session_state["training"] = shown.training.name
    columns[0].selectbox(
        "Training",
        names,
        format_func=lambda name: shown.trainings[name].title,
        key="training",
        on_change=trained,
        help=_arm(shown),
    )
    measures = shown.measures
    if not measures:
        return None
    chosen = measures.get(state.view().measure or "", next(iter(measures.values())))

    def measured() -> None:
        name = st.session_state["measure"]
        state.change(measure=None if name == next(iter(measures)) else name)

    st.session_state["measure"] = chosen.name
    columns[1].selectbox(
        "Along it",
        list(measures),
        format_func=lambda name: measures[name].title,
        key="measure",
        on_change=measured,
        help=markup.plain(chosen.about),
    )
    table = None if asking is None else asking.table
    if table is not None and shown.examples is not None and len(table) > 1:
        with columns[2]:
            at_step.choose(shown.examples, table, shown.prompt)
    return chosen


def _arm(shown: Shown) -> str | None:
    """What is told or done in the training that is looked at."""
    arm = shown.training.arm
    about = "" if shown.told is None or arm is None else shown.told.arms.get(arm, "")
    return markup.plain(f"{arm}: {about}") if about else None


def _going(shown: Shown, measure: Measure | None, asking: _Asking) -> None:
    stand = asking.work.stand
    if stand.error is not None:
        parts.error(stand.error)
    elif stand.running:
        live.bar(asking.work, "Asking the models that were kept")
    elif stand.stopped:
        parts.html(markup.hint("Cancelled; what was found is drawn."))
        live.again(asking.work, "Ask the others")
    live.tell(asking.work)
    if measure is None:
        return
    if stand.result is None:
        _page(shown, measure, None, None)
    else:
        _page(shown, measure, stand.result.found, stand.result.table)


def _page(
    shown: Shown, measure: Measure, found: xr.Dataset | None, table: pd.DataFrame | None
) -> None:
    steps = set(shown.training.steps)
    if shown.rows is not None:
        of_seed = shown.rows[shown.rows["seed"] == shown.training.seed]
        steps |= set(of_seed["step"].astype(int))
    every = sorted(steps)
    example = None
    if found is not None and table is not None and shown.examples is not None:
        example = at_step.chosen(shown.examples, table, shown.prompt)
    at_step.show(
        at_step.At(shown.training, every, shown.examples, table, found, measure, example, _CURVES),
        lambda: _marked(shown, measure, found, table, example, every),
    )


def _marked(
    shown: Shown,
    measure: Measure,
    found: xr.Dataset | None,
    table: pd.DataFrame | None,
    example: int | None,
    steps: list[int],
) -> None:
    """The curves, with a line at the chosen step."""
    _curves(shown, measure, found, table, example)
    follow.step(_CURVES, lambda: at_step.step_of(steps))


def _curves(
    shown: Shown,
    measure: Measure,
    found: xr.Dataset | None,
    table: pd.DataFrame | None,
    example: int | None,
) -> None:
    asked = any(measure is one for one in along.MEASURES)
    if asked:
        if found is None or example is None or shown.examples is None or table is None:
            return
        _asked(shown, measure, along.of_group(found, at_step.group(found, example)))
    elif shown.rows is not None and shown.told is not None and shown.run is not None:
        _stored(shown, measure, shown.rows, shown.told, shown.run)


def _stored(shown: Shown, measure: Measure, rows: pd.DataFrame, told: Trainings, run: Run) -> None:
    training = shown.training
    one, others = rows[rows["seed"] == training.seed], rows[rows["seed"] != training.seed]
    chance = (
        float(rows[measure.chance].mean()) if isinstance(measure.chance, str) else measure.chance
    )
    fig = step_lines(
        one,
        measure.value,
        by=told.way,
        interval=measure.interval,
        beside=others,
        scale=measure.scale,
        chance=chance,
        label=measure.label,
    )
    seeds = others["seed"].nunique()
    over = "none is stored"
    if measure.interval and _banded(one, measure.interval):
        over = "95% over them, each step for itself"
    beside = f"; thin lines: {seeds} other seeds" if seeds else "; one training, so none over seeds"
    parts.figure(
        fig.update_layout(height=_HEIGHT, margin={"t": 30, "b": 40}),
        _CURVES,
        data=lambda: rows,
        code=training_snippets.stored(run.record.path, told, training, measure),
        alt=f"{measure.title} along the training, asked both ways",
        told=Told(
            f"{measure.title}.",
            n=f"{_range(one[told.n])} {told.group}",
            interval=over + beside,
            control=measure.control,
        ),
    )


def _asked(shown: Shown, measure: Measure, found: xr.Dataset) -> None:
    examples = shown.examples
    assert examples is not None
    curves = along.curves(found, measure.value)
    chance = measure.chance if isinstance(measure.chance, float) else None
    fig = step_lines(
        curves,
        "value",
        by="way",
        interval=("low", "high"),
        scale=measure.scale,
        chance=chance,
        label=measure.label,
    )
    n = int(curves["n"].max())
    kind = at_step.kind(examples, str(np.atleast_1d(found["group"].values)[0]))
    parts.figure(
        fig.update_layout(height=_HEIGHT, margin={"t": 30, "b": 40}),
        _CURVES,
        data=lambda: curves,
        code=training_snippets.asked(shown.training, measure, *training_snippets.questions(found)),
        alt=f"{measure.title} along the training, asked both ways",
        told=Told(
            f"{measure.title}.",
            n=f"{_range(curves['n'])} {examples.many if n > 1 else examples.one}{kind}",
            interval=(
                f"none: one {examples.one}"
                if n == 1
                else "95% over them, each step for itself; one training, so none over seeds"
                if _banded(curves, ("low", "high"))
                else f"none: too few {examples.many} that are independent"
            ),
            control=measure.control,
        ),
    )


def _range(numbers: pd.Series) -> str:
    """How many, where that is not the same at each step and in each way."""
    least, most = int(numbers.min()), int(numbers.max())
    return str(most) if least == most else f"{least} to {most}"


def _banded(rows: pd.DataFrame, ends: tuple[str, str]) -> bool:
    """Whether there is an interval anywhere; few examples have none, and no band is drawn."""
    return bool(np.isfinite(rows[list(ends)].to_numpy(dtype=float)).all(axis=1).any())
