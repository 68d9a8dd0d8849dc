"""What the views of one example are about."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from app import resources, state
from app.compute.engine import ModelSpec
from app.runs import Run
from app.screen import parts
from app.together import Together
from cache.errors import ObverseError
from experiments.explorer import Examples
from experiments.registry import study_names


@dataclass(frozen=True)
class Shown:
    """Where examples and numbers come from.

    Attributes:
        examples: what the study tells of them.
        table: a row for each.
        spec: the model, or None where it cannot be loaded.
        run: the run that stores results, if one is open.
        lasso: the title of a figure in which several can be chosen together; empty without.
    """

    examples: Examples
    table: pd.DataFrame
    spec: ModelSpec | None
    run: Run | None
    lasso: str = ""

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

    def asked_together(self, example: int) -> Together:
        """The same among results that tell examples by what they are asked, in whatever way."""
        some = self.together(example)
        if not some.lassoed:
            return some
        rows = self.table[self.table[self.examples.key].isin(some.values)]
        prompts = [str(p) for way in self.examples.ways for p in rows[f"{way.name}_prompt"]]
        return Together("prompt", tuple(prompts), lassoed=True)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the run; empty where there is none."""
        return {} if self.run is None else self.run.record.config


def brought(spec: ModelSpec) -> Shown | None:
    """The examples that a model brings along for one of the studies, asked now; None without."""
    for name in study_names():
        page, _ = resources.page(name)
        if page.examples is None:
            continue
        try:
            with resources.progress(f"Asking for every {page.examples.one}") as tell:
                table = resources.engine().examples(spec, page.examples, tell)
        except ObverseError as error:
            parts.warning(error)
            continue
        except (Exception, SystemExit) as error:  # another package's code may fail in any way
            logging.getLogger("obverse").exception("A study's examples could not be asked")
            parts.warning(
                f"What the study '{name}' asks could not be asked ({type(error).__name__}); the "
                "terminal says more."
            )
            continue
        if table is not None:
            return Shown(page.examples, table, spec, None)
    return None
