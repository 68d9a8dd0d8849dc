"""What the views of one example are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from app import resources, state
from app.compute.background import brought as brought_along
from app.compute.background.brought import Brought
from app.compute.background.request import Request
from app.compute.engine import ModelSpec
from app.runs import Run
from app.screen import live, parts
from app.together import Together
from experiments.explorer import Examples
from experiments.registry import study_names

_HEIGHT = 300
"""px of what is drawn of the examples first, about."""


@dataclass(frozen=True)
class Shown:
    """Where examples and numbers come from.

    Attributes:
        examples: what the study tells of them.
        table: a row for each.
        spec: the model, or None where it cannot be loaded.
        run: the run that stores results, if one is open.
        lasso: the title of a figure in which several can be chosen together; empty without.
        study: the study whose examples they are.
    """

    examples: Examples
    table: pd.DataFrame
    spec: ModelSpec | None
    run: Run | None
    lasso: str = ""
    study: str = ""

    @property
    def chosen_by(self) -> str:
        """How others are chosen whose mean is to be told; empty where they cannot be."""
        if not self.lasso:
            return ""
        many = self.examples.many
        return (
            f"A lasso around points of “{self.lasso}” on the page {many.capitalize()} takes other "
            f"{many} together."
        )

    def row(self, example: int) -> int:
        """Where an example stands in the table."""
        return int(np.nonzero((self.table[self.examples.key] == example).to_numpy())[0][0])

    def group(self, example: int) -> str:
        """Of which kind an example is."""
        return str(self.table.iloc[self.row(example)][self.examples.group])

    def together(self, example: int) -> Together:
        """The examples whose mean is told beside this one: those that were chosen together, as far
        as there are such; else all of its kind."""
        numbers = [n for n in state.view().together if (self.table[self.examples.key] == n).any()]
        if len(numbers) > 1:
            return Together(self.examples.key, tuple(numbers), lassoed=True)
        return Together(self.examples.group, (self.group(example),), lassoed=False)

    def asked_together(self, example: int, results: Iterable[xr.Dataset]) -> Together:
        """The same among results that may tell examples only by what they are asked, in whatever
        way: then those that ask the same are among them, too.

        Args:
            results: those that the examples are looked for in.
        """
        some = self.together(example)
        if not some.lassoed or all(some.column in result.coords for result in results):
            return some
        rows = self.table[self.table[self.examples.key].isin(some.values)]
        prompts = [str(p) for way in self.examples.ways for p in rows[f"{way.name}_prompt"]]
        return Together("prompt", tuple(prompts), lassoed=True)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the run; empty where there is none."""
        return {} if self.run is None else self.run.record.config


class NotYet(Exception):
    """What the page is about is still asked for; the page tells how far that is, and is drawn anew
    when it is there."""


def brought(spec: ModelSpec) -> Shown | None:
    """The examples that a model brings along for one of the studies; None without.

    Raises:
        NotYet: they are asked now, or somebody has cancelled that.
    """
    request, studies = _request(spec)
    found = live.results(
        {"Examples": request}, "Asking what the model brings along", height=_HEIGHT
    )
    if found is None or found[0] is None:
        raise NotYet
    for problem in found[0].problems:
        parts.warning(problem)
    return _shown(spec, studies, found[0])


def asked_before(spec: ModelSpec) -> Shown | None:
    """The same where it has been asked already; nothing is loaded for it, or drawn."""
    request, studies = _request(spec)
    job = resources.jobs().find(request)
    found = None if job is None or not job.whole else job.stand.result
    return None if found is None else _shown(spec, studies, found)


def _request(spec: ModelSpec) -> tuple[Request[Brought], dict[str, Examples]]:
    pages = {name: resources.page(name)[0].examples for name in study_names()}
    studies = {name: examples for name, examples in pages.items() if examples is not None}
    return brought_along.request(spec, studies), studies


def _shown(spec: ModelSpec, studies: Mapping[str, Examples], found: Brought) -> Shown | None:
    if found.study is None or found.table is None:
        return None
    return Shown(studies[found.study], found.table, spec, None, study=found.study)
