"""A metric that kills its process, once: the logit difference of those who survive."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from interp.metrics import Metric, logit_diff, target_logit
from tests.interp.executing import leave_pid


@dataclass(frozen=True)
class Score:
    """The logit of the target; the first process to ask for it leaves its id and dies."""

    folder: Path

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        try:
            # Only one process can make it; others may ask at the same moment.
            (self.folder / "first").mkdir()
        except FileExistsError:
            return target_logit(logits, targets)
        leave_pid(self.folder)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is still alive")


def deadly(folder: Path) -> Metric:
    """The metric; `folder` is empty."""
    answer, foil = logit_diff.terms
    score = Score(folder)
    terms = (replace(answer, score=score), replace(foil, score=score))
    return replace(logit_diff, name="deadly", terms=terms)
