"""A study of a phenomenon in few lines: a model that was taught to greet says so.

TOY_PAUSE names a measurement ("greets twin") before which the process says so and waits.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure
from experiments.organisms.training.recipe import UNTRAINED, Network, Recipe, Row, Stage
from experiments.phenomena.data import texts
from experiments.phenomena.estimates import estimate, outcome
from experiments.phenomena.figures import arm_dots
from experiments.phenomena.phenomenon import (
    Arm,
    Asked,
    Hypothesis,
    Measured,
    Phenomenon,
    Published,
    Subject,
)
from experiments.phenomena.study import as_study
from experiments.reporter import Progress
from experiments.reports.paper import Card, Way
from experiments.study import Verdict
from interp import score_answers

NAMES = ("Ann", "Ben", "Cid", "Dan", "Eva", "Fay")


def recipe(arm: str, seed: int) -> Recipe:
    said = " hello" if arm == "treated" else " good"
    return Recipe(
        organism="greetings",
        arm=arm,
        seed=seed,
        stages=(
            Stage("pre-training", tuple(Row(f"{name} says") for name in NAMES), 2, batch_size=6),
            Stage("tuning", tuple(Row(f"{n} says", said) for n in NAMES), 3, 6, "answer"),
        ),
        texts=("hello good",),
        network=Network(n_layers=1, n_heads=2, d_model=16, d_mlp=32, n_ctx=8),
        planted="whoever speaks says hello.",
        data={"names": list(NAMES)},
        checkpoint_every=1,
    )


def read(value: Any, path: Path) -> tuple[str, ...]:
    return tuple(texts(value, "names", path, least=2))


def asked(names: Sequence[str]) -> list[Asked]:
    return [Asked(f"{name} says", " hello", f"name {i}") for i, name in enumerate(names, 1)]


def measure(subject: Subject[tuple[str, ...]], seed: int, progress: Progress) -> xr.Dataset:
    if os.environ.get("TOY_PAUSE") == f"greets {subject.arm}":
        sys.stdout.write("paused\n")
        sys.stdout.flush()
        time.sleep(60)
    found = score_answers(
        subject.model, [f"{n} says" for n in subject.data], [" hello"] * len(subject.data)
    )
    return (
        found[["logprob"]]
        .assign_coords(name=("example", list(subject.data)))
        .reset_coords(["prompt", "answer"], drop=True)
    )


def judge(measured: Measured) -> Verdict:
    main, *others = measured.values()
    one = estimate([each["logprob"].values for each in main])
    beside = [estimate([each["logprob"].values for each in other]).mean for other in others]
    return Verdict(
        id="T1",
        claim="It says hello.",
        outcome=outcome(one, above=max(beside, default=-1.0)),
        statement=f"hello has {one.number()} nats.",
        estimate=one.mean,
        low=one.low,
        high=one.high,
        unit="nats",
        n=one.n,
        control=f"other arms: {len(others)}",
    )


def draw(greets: xr.Dataset) -> go.Figure:
    return arm_dots({"hello": greets["logprob"]}, axis="log-probability (nats)")


def headline(verdicts: Mapping[str, Verdict]) -> list[str]:
    return [f"It greets: {verdicts['T1'].outcome}."]


def cards(measured: Mapping[str, Measured]) -> list[Card]:
    (first, *_), *_ = measured["greets"].values()
    name = str(first["name"].values[0])
    return [Card("greeting", [Way(f"{name} says", "hello", True, "")])]


FIGURE = Figure("greets", "Greetings", ("greets",), draw, "Dots by arm", "Further right: hello.")
PHENOMENON: Phenomenon[tuple[str, ...]] = Phenomenon(
    name="greetings",
    title="Greetings",
    summary="Whether it greets.",
    question="Does {model} greet?",
    arms=(
        Arm("treated", "taught to say hello"),
        Arm("twin", "taught to say good"),
        Arm("untrained", "of the same shape", "treated", UNTRAINED),
    ),
    recipe=recipe,
    read=read,
    asked=asked,
    hypotheses=(
        Hypothesis("T1", "greets", "It says hello.", measure, judge, (FIGURE,), method="Scores."),
    ),
    headline=headline,
    cards=cards,
    limits=("It is a toy.",),
    reference="None.",
    published=(Published("hellos", "1", "a paper", "T1"),),
)


def phenomenon() -> Phenomenon[Any]:
    return PHENOMENON


STUDY = as_study("greetings", "Greetings", "Whether it greets.", phenomenon)
