"""What a run has measured."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

__all__ = ["Measured"]


@dataclass
class Measured:
    """Results of the parts that were run; None for the others.

    Attributes:
        published: as `published.summary` gives it.
        people: as `invented.by_question` gives it.
        pairs: as `celebrities.by_pair` gives it.
        training: as `tune.train` gives it.
    """

    published: pd.DataFrame | None = None
    people: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    training: pd.DataFrame | None = None
