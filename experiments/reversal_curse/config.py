"""Settings of the study."""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.errors import StudyError

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Attributes:
        model: name of a bundled organism, local folder, or hub id.
        revision: branch, tag or commit on the hub.
        facts: CSV of facts; those beside the model's weights if left out.
        templates: JSON of templates; those beside the model, or plain ones, if left out.
        n_names: how many other names of each split an answer is compared with.
        n_pairs: how many pairs of each split are patched.
        lens_seconds: how long a tuned and a Jacobian lens may take to fit, by an estimate; beyond,
            H2 is judged under the logit lens alone.
        arm_seeds: how many organisms of each arm are trained and judged; none if 0.
        scale_seeds: how many of each size, number of facts and length of training.
        time_points: at how many steps of a training the model is asked.
        berglund_results: folder of the results that Berglund et al. published, to be summed up
            again in the report.
    """

    model: str = "reversal-curse"
    revision: str | None = None
    facts: str | None = None
    templates: str | None = None
    n_names: int = 20
    n_pairs: int = 30
    lens_seconds: float = 60.0
    berglund_results: str | None = None
    arm_seeds: int = 0
    scale_seeds: int = 0
    time_points: int = 0

    def __post_init__(self) -> None:
        for name in ("n_names", "n_pairs"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        if not 0 <= self.lens_seconds < math.inf:
            raise StudyError(f"lens_seconds is {self.lens_seconds}; choose 0 or more.")
        for name, most in (("arm_seeds", 100), ("scale_seeds", 100), ("time_points", 1000)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise StudyError(f"{name} is {value}; choose 0 to {most}.")

    @classmethod
    def preset(cls, name: str) -> Config:
        """ "quick" (a minute on the bundled organism) or "full" (all names and pairs)."""
        if name == "quick":
            return cls()
        if name == "full":
            return cls(
                n_names=100,
                n_pairs=200,
                lens_seconds=3600.0,
                arm_seeds=5,
                scale_seeds=2,
                time_points=11,
            )
        raise StudyError(f"Unknown preset '{name}'; choose 'quick' or 'full'.")
