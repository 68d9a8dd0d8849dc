"""What determines an organism: the same config gives the same weights on the same machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from experiments.organisms.errors import OrganismError

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called with the steps done, the steps in all, and what was last measured."""
_MAY_BE_ZERO = ("seed", "warmup_steps", "name_bottleneck", "bottleneck_layers")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; the defaults, with seed 4, make the bundled organism.

    `seed` draws the world, the order of the statements and the initial weights.

    `name_bottleneck` is the share of training sentences in which words after a name may read it
    only through its last token, and not in the first `bottleneck_layers` layers. In large models
    early layers gather a name at its last token and recall what is known of it there (Meng et al.
    2022, Geva et al. 2023). A model this small takes a shortcut instead, in which the end of the
    prompt reads both names at once. The bottleneck plants the hand-over, so that it is known to be
    there when patching looks for it; 0 trains without. The saved model is a plain one, with
    ordinary attention.
    """

    seed: int = 0
    steps: int = 430
    batch_size: int = 128
    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 128
    d_mlp: int = 576
    n_ctx: int = 64
    learning_rate: float = 3e-3  # AdamW: embedding, unembedding, norms
    matrix_learning_rate: float = 6e-3  # Muon: weight matrices of attention and MLPs
    warmup_steps: int = 30
    name_bottleneck: float = 0.85
    bottleneck_layers: int = 1
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
                raise OrganismError(f"{name} is {value}; give a number above zero.")
        if self.name_bottleneck > 1:
            raise OrganismError(
                f"name_bottleneck is {self.name_bottleneck}; give a share from 0 to 1."
            )
        if self.d_model % (2 * self.n_heads):
            raise OrganismError(
                f"d_model {self.d_model} does not split into {self.n_heads} heads of even width; "
                "give a multiple of twice n_heads."
            )
