"""The Python that makes a figure of the page of trainings, to go on with in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.compute.engine import ModelSpec
from app.trainings import Training
from experiments.explorer import Measure, Trainings

if TYPE_CHECKING:
    import xarray as xr

Questions = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Prompts and answers by the way of asking."""


def stored(run: Path, told: Trainings, training: Training, measure: Measure) -> str:
    """A measure along a training, as the run stores it."""
    chance = [f"chance = float(table[{measure.chance!r}].mean())"]
    return "\n".join(
        (
            "from experiments.records import RunRecord",
            "from interp.figures import step_lines",
            "",
            f"run = RunRecord.open({run.as_posix()!r})",
            f"table = run.table({told.table!r})",
            f'table = table[table["arm"].astype(str) == {training.arm!r}]',
            *(chance if isinstance(measure.chance, str) else []),
            f'one = table["seed"] == {training.seed}',
            "step_lines(",
            f"    table[one], {measure.value!r}, by={told.way!r}, beside=table[~one],",
            f"    {_settings(measure)},",
            ").show()",
            "",
        )
    )


def questions(found: xr.Dataset) -> tuple[Questions, dict[str, list[str]]]:
    """What models were asked, of `app.compute.along`, and how it was worded, by way."""
    said = {
        name: {
            str(way): [str(text) for text in found[name].sel(way=way).values]
            for way in found["way"].values
        }
        for name in ("prompt", "answer", "wording")
    }
    return {way: (prompts, said["answer"][way]) for way, prompts in said["prompt"].items()}, said[
        "wording"
    ]


def asked(
    training: Training,
    measure: Measure,
    questions: Questions,
    kinds: Mapping[str, Sequence[str]],
) -> str:
    """A measure along a training, of the models that were kept.

    Args:
        kinds: by way, how each question is worded: answers are compared within one wording.
    """
    value = measure.value
    interval = {"correct": "proportion_interval", "rank": "median_interval"}
    instruments = {
        "preference": "from interp import load_model, logits",
    }.get(value, "from interp import load_model, score_answers")
    stats = interval.get(value, "mean_interval, specificity")
    lines = [
        "import numpy as np",
        "import pandas as pd",
        "",
        instruments,
        "from interp.figures import step_lines",
        f"from interp.stats import {stats}",
    ]
    if value == "preference":
        lines += [
            "from interp.prompts.pairs import continuations",
            "from interp.prompts.tokens import tokenise",
        ]
    lines += ["", *_checkpoints(training), *_questions(questions)]
    if value == "preference":
        lines += ["kinds = {"]
        lines += [f"    {way!r}: {list(kinds[way])!r}," for way in kinds]
        lines += ["}"]
    lines += ["", "", *_VALUES[value], "", ""]
    middle = "np.median(found)" if value == "rank" else "np.mean(found)"
    ends = f"{interval.get(value, 'mean_interval')}(found, asked)"
    lines += [
        "rows = []",
        "for step, folder in checkpoints.items():",
        f"    model = load_model({_load(training)})",
        "    for way, (prompts, answers) in questions.items():",
        f"        found = values({'model, way' if value == 'preference' else 'model'}, "
        "prompts, answers)",
        "        there = np.isfinite(found)",
        "        found, asked = found[there], np.array(prompts)[there]",
        f"        low, high = {ends}",
        f'        rows.append({{"step": step, "way": way, "value": {middle}, "low": low, '
        '"high": high})',
        "",
        "step_lines(",
        '    pd.DataFrame(rows), "value", by="way", interval=("low", "high"),',
        f"    {_settings(measure, interval=False)},",
        ").show()",
        "",
    ]
    return "\n".join(lines)


_VALUES = {
    "correct": (
        "def values(model, prompts, answers):",
        '    return score_answers(model, prompts, answers)["correct"].values.astype(float)',
    ),
    "rank": (
        "def values(model, prompts, answers):",
        '    return score_answers(model, prompts, answers)["rank"].values.astype(float)',
    ),
    "preference": (
        "def values(model, way, prompts, answers):",
        "    ids = continuations(model, tokenise(model, prompts), answers)",
        "    first = np.array([one[0] for one in ids])",
        "    logprobs = logits(model, prompts).log_softmax(-1).cpu().numpy()",
        "    found, names = np.full(len(prompts), np.nan), np.array(kinds[way])",
        "    for kind in set(kinds[way]):",
        "        rows = np.flatnonzero(names == kind)",
        "        if len(rows) < 3:",
        "            continue",
        "        alike = (first[rows][:, None] == first[rows]) & ~np.eye(len(rows), dtype=bool)",
        "        block = logprobs[np.ix_(rows, first[rows])].astype(float)",
        "        found[rows] = specificity(np.where(alike, np.nan, block))",
        "    return found",
    ),
}


def ranks(model: ModelSpec, questions: Mapping[str, tuple[str, str]], chance: int) -> str:
    """Rank lines of one example at one step."""
    return "\n".join(
        (
            "from interp import load_model, logit_lens",
            "from interp.figures import rank_lines",
            "",
            f"model = load_model({model.source!r}{_dtype(model)})",
            "lens = {",
            *(
                f"    {way!r}: logit_lens(model, [{prompt!r}], [{answer!r}], k=1),"
                for way, (prompt, answer) in questions.items()
            ),
            "}",
            f"rank_lines(lens, chance={chance}).show()",
            "",
        )
    )


def _checkpoints(training: Training) -> list[str]:
    lines = [f"    {step}: {spec.source!r}," for step, spec in training.checkpoints]
    return ["checkpoints = {", *lines, "}"]


def _questions(questions: Questions) -> list[str]:
    lines = ["questions = {"]
    for way, (prompts, answers) in questions.items():
        lines += [f"    {way!r}: (", f"        {list(prompts)!r},", f"        {list(answers)!r},"]
        lines.append("    ),")
    return [*lines, "}"]


def _load(training: Training) -> str:
    return f"folder{_dtype(training.checkpoints[0][1])}"


def _dtype(model: ModelSpec) -> str:
    return "" if model.dtype == "float32" else f", dtype={model.dtype!r}"


def _settings(measure: Measure, *, interval: bool = True) -> str:
    given: dict[str, Any] = {}
    if interval and measure.interval is not None:
        given["interval"] = measure.interval
    if measure.scale != "number":
        given["scale"] = measure.scale
    told = [f"{name}={value!r}" for name, value in given.items()]
    if isinstance(measure.chance, str):
        told.append("chance=chance")
    elif measure.chance is not None:
        told.append(f"chance={measure.chance!r}")
    return ", ".join([*told, f"label={measure.label!r}"])
