"""The examples that a model brings along for a study, asked as a job."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.compute.background.request import Request
from app.compute.models import touched
from app.compute.turns import ModelSpec
from app.compute.work import Stopped
from cache.errors import ObverseError
from experiments.explorer import Examples
from experiments.reporter import Progress

if TYPE_CHECKING:
    import pandas as pd

    from interp.model.model import Model


@dataclass(frozen=True)
class Brought:
    """What was found.

    Attributes:
        study: whose examples they are; None where the model brings none along.
        table: a row for each.
        problems: sentences: which studies' examples could not be asked.
    """

    study: str | None = None
    table: pd.DataFrame | None = None
    problems: tuple[str, ...] = ()


def request(spec: ModelSpec, studies: Mapping[str, Examples]) -> Request[Brought]:
    """Ask for the examples of the first study that the model brings some along for.

    Args:
        studies: what each study tells of its examples, by its name.
    """

    def work(model: Model, tell: Progress) -> Iterator[Brought]:
        problems: list[str] = []
        for name, examples in studies.items():
            try:
                table = examples.measure(model, tell)
            except Stopped:
                raise
            except ObverseError as error:
                problems.append(str(error))
            except (Exception, SystemExit) as error:  # another package's code may fail in any way
                logging.getLogger("obverse").exception("A study's examples could not be asked")
                problems.append(
                    f"What the study '{name}' asks could not be asked ({type(error).__name__}); "
                    "the terminal says more."
                )
            else:
                if table is not None:
                    yield Brought(name, table, tuple(problems))
                    return
        yield Brought(problems=tuple(problems))

    return Request(
        spec,
        # What lies beside the weights may change while they stay.
        ("brought", tuple(studies), touched(spec)),
        "Examples that the model brings along",
        work,
        "examples asked",
        gives_way=True,
    )
