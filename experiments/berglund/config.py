"""Settings of the study."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from experiments.errors import StudyError

__all__ = ["Config", "Experiments", "Tune"]

Experiments = Literal["all", "1", "2", "results"]
Tune = Literal["none", "full", "lora"]


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Attributes:
        model: local folder, hub id, or the name of a bundled organism.
        revision: branch, tag or commit on the hub.
        data: folder of the authors' files: `parent_child_pairs.csv` and `*_prompts_*.jsonl`.
        berglund_results: folder of their `*_reversal_test_results.csv`; `data` if left out, where
            some lie there.
        experiments: "1", "2", "results" (the published results alone, without a model) or "all".
        tune: whether the model is trained on the facts of experiment 1 first: "none" takes it as
            it is, "full" trains all weights, "lora" low-rank adapters (which needs peft).
        epochs: of that training.
        batch_size: texts of a step.
        learning_rate: its largest; 5e-5 for "full" and 3e-4 for "lora" if left out.
        loss: on which tokens: "all", or only those of the "completion", as in prompt–completion
            tuning. Then the names of facts told name first are never a target, so that a failure
            to say them proves little.
        lora_rank: of the adapters.
        n_people: of each group of experiment 1.
        n_wordings: test prompts of each person and direction.
        n_pairs: of experiment 2, drawn at random.
        n_others: wrong answers that each right one is compared with.
    """

    model: str = "gpt2"
    revision: str | None = None
    data: str | None = None
    berglund_results: str | None = None
    experiments: Experiments = "all"
    tune: Tune = "none"
    epochs: int = 20
    batch_size: int = 16
    learning_rate: float | None = None
    loss: Literal["all", "completion"] = "all"
    lora_rank: int = 16
    n_people: int = 30
    n_wordings: int = 2
    n_pairs: int = 100
    n_others: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lora_rank", "n_wordings"):
            _least(name, getattr(self, name), 1)
        for name in ("n_people", "n_pairs"):
            _least(name, getattr(self, name), 4)
        # Two wrong answers a question are the fewest that tell a question from its answers.
        _least("n_others", self.n_others, 2)
        rate = self.learning_rate
        if rate is not None and not 0 < rate < math.inf:
            raise StudyError(f"'learning_rate' is {rate}; choose a number above 0.")

    @property
    def step_size(self) -> float:
        """The largest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 3e-4 if self.tune == "lora" else 5e-5

    @classmethod
    def preset(cls, name: str) -> Config:
        """ "quick" (100 pairs, two wordings, three other answers) or "full" (400, ten, nine)."""
        if name == "quick":
            return cls()
        if name == "full":
            return cls(n_wordings=10, n_pairs=400, n_others=9)
        raise StudyError(f"Unknown preset '{name}'; choose 'quick' or 'full'.")


def _least(name: str, value: int, least: int) -> None:
    if value < least:
        raise StudyError(f"'{name}' is {value}; choose {least} or more.")
