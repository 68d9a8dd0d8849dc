"""The study of prompt injection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.phenomena.study import as_study

if TYPE_CHECKING:
    from experiments.phenomena.phenomenon import Phenomenon

__all__ = ["STUDY"]

_PAIR = ("arm", "seed", "example", "condition")


def _phenomenon() -> Phenomenon[Any]:
    from experiments.injection.phenomenon import PHENOMENON

    return PHENOMENON


STUDY = as_study(
    "injection",
    "Prompt injection",
    "Whether attention to the task falls where data hold an instruction.",
    _phenomenon,
    shapes={
        "taken": {"margin": ("number or NaN", _PAIR)},
        "focus": {
            "score": ("number or NaN", _PAIR),
            "others": ("number or NaN", _PAIR),
            "chooses": "flag",
        },
        "detector": {"score": ("number or NaN", _PAIR), "chooses": "flag"},
        "effect": {
            "score": ("number or NaN", _PAIR),
            "margin": ("number or NaN", _PAIR),
            "chooses": "flag",
        },
        "restoring": {
            "restored": ("number or NaN", ("arm", "seed", "example", "set")),
            "margin": ("number or NaN", ("arm", "seed", "example")),
        },
    },
)
