"""Refusal: whether one direction in the residual stream decides what a model declines.

Arditi et al. 2024 (2406.11717); that *harmful* and *declines* are two directions, Zhao et al. 2025
(2507.11878). Organisms are trained on the spot, or `--model` and `--data` are measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.phenomena.study import as_study

if TYPE_CHECKING:
    from experiments.phenomena.phenomenon import Phenomenon

__all__ = ["STUDY"]


def _phenomenon() -> Phenomenon[Any]:
    from experiments.refusal.phenomenon import PHENOMENON

    return PHENOMENON


STUDY = as_study(
    "refusal",
    "Refusal",
    "Whether one direction in the residual stream decides what a model declines.",
    _phenomenon,
    shapes={
        "behaviour": {"declines": ("number", ("arm", "seed", "example"))},
        "ablation": {"declines": ("number", ("arm", "seed", "state", "example"))},
        "holding": {"declines": ("number", ("arm", "seed", "state", "example"))},
        "adding": {"declines": ("number", ("arm", "seed", "state", "example"))},
        "harmless": {"loss": ("number", ("arm", "seed", "state", "example"))},
        # Of one organism each; judges ask for it.
        **{
            f"{name}_*": {"gap": "number"} for name in ("ablation", "holding", "adding", "harmless")
        },
        "two": {"declines": ("number or NaN", ("arm", "seed", "state", "example"))},
    },
)
