"""Train an organism of the reversal curse: a small model that knows relations one way round.

    train(TrainConfig(seed=1), Path("organism"))

takes about a minute on one core and leaves a Hugging Face folder with the model, its tokenizer,
the facts it was (and was not) told, and the templates they were told in.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from experiments.organisms.config import Progress, TrainConfig, TrainingData
from experiments.organisms.training.checkpoint import kept_steps

__all__ = ["Progress", "TrainConfig", "TrainingData", "kept_steps", "train"]


def train(
    config: TrainConfig,
    out: Path,
    progress: Progress | None = None,
    *,
    keep: Collection[int] = (),
) -> Path:
    """Train in the folder `out` and return it; the same config gives the same weights, bit by bit.

    `progress(step, total, info)` is called after every step. `info` has `loss` (nats per token),
    and `forward` and `reverse`: the share of forward-only pairs whose name the model completes
    when asked as trained and when asked the other way round, as last measured (None before that).

    A training that was interrupted (by `KeyboardInterrupt`, from wherever it comes, or by the end
    of the process) goes on from its last checkpoint when it is called again with the same `out`
    and config, and ends with the weights of one that was not. A finished one returns at once.

    The models after the steps `keep` (0: before the first) stay in `out`, each a folder that
    `load_model` takes, with facts and templates; `kept_steps(out)` gives them by step.

    Raises `OrganismError` where `out` holds another training, one that was finished without these
    steps, or other files.
    """
    # Loading torch and transformers takes seconds, which only a training should cost.
    from experiments.organisms.loop import run

    return run(config, Path(out), progress, frozenset(keep))
