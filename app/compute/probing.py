"""Probes at every layer, with all that they have to be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.labelled import LEAST, Labelled, check_classes
from experiments.reporter import Progress
from interp.errors import PromptError
from interp.kinds import site_kind

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from interp.model.model import Model
    from interp.prompts.tokens import TokenBatch
    from probes.features import Features

READ = 32
"""Prompts that are read at a time; between two readings others have their turn."""

MOST_LINES = 400


@dataclass(frozen=True)
class Swept:
    """Attributes:
    report: what `probes.probe_report` says of the sites that are done; None before the first.
    words: the same of the words of each prompt up to the token that is read, as counts of tokens.
    same: share of the prompts that are, up to that token, the tokens of one of another group.
    """

    report: xr.Dataset | None = None
    words: xr.Dataset | None = None
    same: float = 0.0


@dataclass(frozen=True)
class Checked:
    """Whether a report's numbers can be what they say.

    Attributes:
        apart: names that stand in two folds.
        control: sites where control labels are told better than by chance, each with what is told.
        gradient: the largest at the end of a fit, and what it was to be.
    """

    apart: tuple[str, ...]
    control: tuple[str, ...]
    gradient: tuple[float, float]


def typed(first: str, second: str, names: tuple[str, str]) -> tuple[Labelled, int]:
    """Two lists of prompts, one in each line, as examples of two classes; and how many lines stand
    there again.

    Raises:
        PromptError: a line stands in both, the classes have one name, or there are too many lines.
        StudyError: there are too few.
    """
    named = tuple(name.strip() for name in names)
    if not all(named) or named[0] == named[1]:
        raise PromptError("Give the two classes names, and not the same one twice.")
    lists = [
        [line.strip() for line in text.splitlines() if line.strip()] for text in (first, second)
    ]
    once = [list(dict.fromkeys(lines)) for lines in lists]
    both = set(once[0]) & set(once[1])
    if both:
        raise PromptError(
            f"The line '{min(both)}' stands in both lists, so that nothing can tell them apart; "
            "take it out of one."
        )
    n = sum(map(len, once))
    if n > MOST_LINES:
        raise PromptError(f"There are {n} lines; at most {MOST_LINES} are taken here.")
    counts = {name: len(lines) for name, lines in zip(named, once, strict=True)}
    enough = {name: n for name, n in counts.items() if n >= LEAST}
    check_classes(enough, {k: n for k, n in counts.items() if k not in enough}, "lines")
    prompts = tuple(once[0] + once[1])
    labels = (named[0],) * len(once[0]) + (named[1],) * len(once[1])
    every = tuple((prompt,) for prompt in prompts)
    asked = Labelled(prompts, labels, tuple(range(n)), every)
    return asked, sum(map(len, lists)) - n


def sites(site: str, n_layers: int) -> list[str]:
    """The sites of a sweep: every layer of a kind; of the stream, the embedding before them."""
    if site_kind(site).part == "before":
        return [f"{site}.0", *(f"resid_post.{layer}" for layer in range(n_layers))]
    return [f"{site}.{layer}" for layer in range(n_layers)]


@dataclass(frozen=True)
class Read:
    """What a model has read.

    Attributes:
        features: activations at each site.
        counts: of the tokens up to the one that is read.
        same: as in `Swept`.
    """

    features: Features
    counts: Features
    same: float


def read(model: Model, asked: Labelled, site: str, progress: Progress) -> Iterator[Read | None]:
    """Read the prompts, some at a time; all of them are the last step.

    Args:
        progress: told of sites, as if each were read after the other.

    Raises:
        PromptError: what prompts are about does not stand in them.
    """
    from interp.prompts.tokens import tokenise
    from probes.collect import token_counts

    names = sites(site, model.n_layers)
    batch = tokenise(model, list(asked.prompts))
    places = asked.places(model, batch)
    parts: list[Features] = []
    for start in range(0, len(asked), READ):
        stop = min(len(asked), start + READ)
        parts.append(_read(model, batch, places, names, range(start, stop)))
        progress(len(names) * stop // len(asked), 2 * len(names))
        yield None
    counts = token_counts(model, batch, places)
    yield Read(_together(parts), counts, _same(batch, places, asked.groups))


def swept(model: Model, asked: Labelled, site: str, progress: Progress) -> Iterator[Swept]:
    """Read the prompts, then fit probes at one site after the other.

    Raises:
        PromptError: what prompts are about does not stand in them.
        ProbeError: the examples do not make a probe.
    """
    there: Read | None = None
    for step in read(model, asked, site, progress):
        there = step
        yield Swept()
    assert there is not None  # the last step
    words, n = None, len(there.features.sites)
    for words in fitted(there.counts, asked):
        yield Swept(None, words, there.same)
    for report in fitted(there.features, asked):
        progress(n + report.sizes["site"], 2 * n)
        yield Swept(report, words, there.same)


def fitted(features: Features, asked: Labelled) -> Iterator[xr.Dataset]:
    """Reports of ever more sites."""
    from probes.report import probe_steps

    return probe_steps(features, asked.labels, groups=asked.groups, types=asked.groups)


def rows(report: xr.Dataset) -> pd.DataFrame:
    """A report's numbers, a row for each site."""
    columns = [
        *(f"{name}{end}" for name in _MEASURED for end in ("", "_low", "_high")),
        *("auroc", "p_value", "p_corrected", "compression"),
    ]
    table = report[columns].to_dataframe().reset_index()
    return table.assign(
        shuffled=report["null"].mean("null").values,
        commonest_class=float(report["majority"]),
        examples=report.sizes["example"],
        groups=int(report.attrs["groups"]),
    )


def checked(report: xr.Dataset, asked: Labelled) -> Checked:
    """Look at what must hold: nothing is both learned and tested, random labels are told no better
    than by chance, and fits have ended."""
    from probes.controls.significance import group_interval

    folds: dict[str, set[int]] = {}
    for names, fold in zip(asked.names, report["fold"].values.tolist(), strict=True):
        for name in names:
            folds.setdefault(name, set()).add(int(fold))
    # One sweep in a hundred fails by chance.
    level = 1 - 0.01 / report.sizes["site"]
    low, _ = group_interval(
        np.asarray(report["control_correct"].values),
        np.asarray(report["group"].values),
        confidence=level,
    )
    chance = max(float(report["majority"]), float(report["control_majority"]))
    above = [str(name) for name in report["site"].values[low > chance]]
    return Checked(
        tuple(sorted(name for name, there in folds.items() if len(there) > 1)),
        tuple(above),
        (float(report["gradient"].max()), float(report.attrs["tol"])),
    )


def beyond_words(swept: Swept) -> np.ndarray | None:
    """At each site the interval of accuracy minus that of the words alone [site, low or high]."""
    from probes.controls.significance import difference_interval

    if swept.report is None or swept.words is None:
        return None
    right = np.asarray(swept.report["correct"].values)
    theirs = np.broadcast_to(np.asarray(swept.words["correct"].values), right.shape)
    groups = np.asarray(swept.report["group"].values)
    return np.stack(difference_interval(right, theirs, groups), axis=1)


_MEASURED = ("accuracy", "control", "selectivity")


def _same(batch: TokenBatch, places: Sequence[int], groups: Sequence[int]) -> float:
    read = [tuple(batch.row(number)[: place + 1]) for number, place in enumerate(places)]
    groups_of: dict[tuple[int, ...], set[int]] = {}
    for row, group in zip(read, groups, strict=True):
        groups_of.setdefault(row, set()).add(group)
    return sum(len(groups_of[row]) > 1 for row in read) / len(read)


def _read(
    model: Model, batch: TokenBatch, places: Sequence[int], names: Sequence[str], some: range
) -> Features:
    from probes.collect import collect

    here = [places[number] for number in some]
    return collect(model, batch.subset(list(some)), list(names), positions={"here": here})


def _together(parts: Sequence[Features]) -> Features:
    import torch

    from probes.features import Features

    first = parts[0]
    return Features(
        torch.cat([part.values for part in parts], 1),
        tuple(name.split("@")[0] for name in first.sites),
        tuple(token for part in parts for token in part.tokens),
        identity=first.identity,
    )
