"""What the views of one fact are about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from app.compute.engine import ModelSpec
from app.runs import Run


@dataclass(frozen=True)
class Study:
    """Where facts and numbers come from.

    Attributes:
        spec: the model, or None where it cannot be loaded.
        facts: the table of facts.
        run: the run that stores results, if one is open.
    """

    spec: ModelSpec | None
    facts: pd.DataFrame
    run: Run | None

    def row(self, fact: int) -> int:
        """Where a fact stands in the table."""
        return int(np.nonzero((self.facts["fact"] == fact).to_numpy())[0][0])
