"""A run of a study: organisms are trained, all models measured, the measurements judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from experiments.context import Context
from experiments.errors import StudyError
from experiments.organisms.training.recipe import Recipe, shared_stages
from experiments.phenomena.config import PhenomenonConfig
from experiments.phenomena.data import find_data, read_json
from experiments.phenomena.phenomenon import (
    GIVEN,
    Arm,
    Hypothesis,
    Measured,
    Phenomenon,
    Subject,
)
from experiments.phenomena.report import paper
from experiments.phenomena.work import (
    MeasuringJob,
    TrainingJob,
    Working,
    check_asked,
    measured,
)
from experiments.reports.publish import publish
from experiments.run_directory.layout import HEADLINE
from experiments.study import Verdict
from interp.execute import Unit
from interp.loading.where import bundled_models

__all__ = ["WORTH_SPREADING", "run_phenomenon"]

_MOST_SEED = 2**31

# Steps of training: below this, processes take longer to start than they save.
WORTH_SPREADING = 500


def run_phenomenon(
    phenomenon: Phenomenon[Any], config: PhenomenonConfig, context: Context
) -> Sequence[Verdict]:
    """Train and measure, or measure the user's model; judge, and write the report."""
    found = (
        _of_organisms(phenomenon, config, context)
        if config.model is None
        else _of_a_model(phenomenon, config, context)
    )
    for one in phenomenon.hypotheses:
        context.dataset(one.name, lambda _, one=one: _together(one, found[one.name]))  # type: ignore[misc]
    verdicts = {one.id: one.judge(found[one.name]) for one in phenomenon.hypotheses}
    sentences = list(phenomenon.headline(verdicts))
    context.table(HEADLINE, lambda _: pd.DataFrame({"sentence": sentences}))
    report = paper(phenomenon, config, context, verdicts, sentences, phenomenon.cards(found))
    publish(report, context)
    return list(verdicts.values())


def _of_a_model(
    phenomenon: Phenomenon[Any], config: PhenomenonConfig, context: Context
) -> dict[str, Measured]:
    """What each hypothesis measures in the user's model."""
    given = config.model or ""
    if config.twin is not None and not any(one.beside for one in phenomenon.hypotheses):
        raise StudyError(f"'{phenomenon.name}' compares no two models; leave 'twin' out.")
    if config.data is not None:
        # A bad file is told before a large model is loaded.
        phenomenon.read(read_json(Path(config.data).expanduser()), Path(config.data))
    model = context.model()
    folder = model.path or bundled_models().get(given)
    path = find_data(folder, config.data, phenomenon.name)
    data = phenomenon.read(read_json(path), path)
    context.input_file("data" if config.data is not None else path.name, path)
    check_asked(phenomenon, model, data, path)
    beside = None
    if config.twin is not None:
        # Noted with its weights: results of another twin are not gone on with.
        beside = context.another_model(config.twin)
        check_asked(phenomenon, beside, data, path)
    subject = Subject(model, data, GIVEN, context.seed, beside)
    return {
        one.name: {
            GIVEN: [
                context.dataset(
                    f"{one.name}_{GIVEN}",
                    lambda progress, one=one: measured(  # type: ignore[misc]
                        phenomenon, one.name, subject, context.seed_for(one.name), progress
                    ),
                )
            ]
        }
        for one in phenomenon.hypotheses
    }


def _of_organisms(
    phenomenon: Phenomenon[Any], config: PhenomenonConfig, context: Context
) -> dict[str, Measured]:
    """What each hypothesis measures in the organisms of every arm and seed."""
    # A seed of the run gives as many organisms, which no other seed near it shares.
    seeds = [context.seed * 1000 % _MOST_SEED + number for number in range(config.seeds)]
    folder = context.workspace("organisms").absolute()
    working = Working(phenomenon, context.device, context.dtype)
    trainings = _trainings(phenomenon, seeds, folder)
    steps = sum(phenomenon.recipe(unit.payload.recipe, 0).steps for unit in trainings)
    with context.spreading(len(trainings) if steps >= WORTH_SPREADING else 1):
        tables = _train(working, trainings, context)
        results = _measure(
            working, _measurements(phenomenon, seeds, folder, tables, context), context
        )
    return {
        one.name: {
            arm.name: [results[f"{one.name}_{_id(arm.name, seed)}"] for seed in seeds]
            for arm in phenomenon.arms
            if one.measured_in(arm.name)
        }
        for one in phenomenon.hypotheses
    }


def _measurements(
    phenomenon: Phenomenon[Any],
    seeds: Sequence[int],
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    context: Context,
) -> list[Unit]:
    """What is measured of each organism, named as it is stored; a worker keeps to one organism."""

    def job(one: Hypothesis[Any], arm: Arm, seed: int) -> MeasuringJob:
        name = _id(arm.trained_by, seed)
        fingerprint = str(tables[name]["fingerprint"].iloc[0])
        drawn = context.seed_for(f"{one.name} {seed}")
        return MeasuringJob(one.name, arm, seed, str(folder / name), fingerprint, drawn)

    arms = {arm.name: arm for arm in phenomenon.arms}
    units: list[Unit] = []
    for seed in seeds:
        for arm in phenomenon.arms:
            for one in phenomenon.hypotheses:
                if one.measured_in(arm.name):
                    work, mine = job(one, arm, seed), _id(arm.name, seed)
                    if one.beside:
                        work = replace(work, beside=job(one, arms[one.beside], seed))
                    units.append(Unit(f"{one.name}_{mine}", work, group=mine))
    return units


def _measure(working: Working, units: Sequence[Unit], context: Context) -> dict[str, xr.Dataset]:
    if context.executor.kind != "serial":
        return context.datasets("measured", units, working, telling=True, whole_names=True)
    subjects: dict[tuple[str, int], Subject[Any]] = {}
    return {
        unit.id: context.dataset(
            unit.id,
            lambda progress, unit=unit: working.measure(  # type: ignore[misc]
                unit.payload, subjects, progress
            ),
        )
        for unit in units
    }


def _trainings(phenomenon: Phenomenon[Any], seeds: Sequence[int], folder: Path) -> list[Unit]:
    """Each recipe with each seed; those that begin alike go on from the first of them."""
    names = list(dict.fromkeys(arm.trained_by for arm in phenomenon.arms))
    first, others = [], []
    for seed in seeds:
        origins: dict[str, Recipe] = {}
        for name in names:
            recipe, mine = phenomenon.recipe(name, seed), _id(name, seed)
            alike = (one for one, origin in origins.items() if shared_stages(recipe, origin))
            if (base := next(alike, None)) is None:
                origins[name] = recipe
                first.append(Unit(mine, TrainingJob(name, seed, str(folder / mine))))
            else:
                base = _id(base, seed)
                job = TrainingJob(name, seed, str(folder / mine), str(folder / base))
                others.append(Unit(mine, job, after=(base,)))
    # The longest come first.
    return [*first, *others]


def _train(working: Working, units: Sequence[Unit], context: Context) -> dict[str, pd.DataFrame]:
    if context.executor.kind != "serial":
        return context.tables("trained", units, working, telling=True)
    return {
        unit.id: context.table(f"trained_{unit.id}", partial(working.train, unit.payload))
        for unit in units
    }


def _together(one: Hypothesis[Any], found: Measured) -> xr.Dataset:
    """All that was measured, with the dimensions arm and seed in front."""
    arms = []
    for name, datasets in found.items():
        sizes = {tuple(sorted(each.sizes.items())) for each in datasets}
        if len(sizes) > 1:
            raise ValueError(f"'{one.name}' was measured with other dimensions in other seeds")
        joined = xr.concat(
            [each.reset_coords().drop_attrs() for each in datasets],
            pd.RangeIndex(len(datasets), name="seed"),
            coords="minimal",
        )
        arms.append(joined.expand_dims(arm=[name]))
    whole = xr.concat(arms, "arm", coords="minimal", compat="equals")
    return whole.assign_attrs(instrument=one.name)


def _id(name: str, seed: int) -> str:
    return f"{name}-{seed}"
