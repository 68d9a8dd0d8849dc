"""Other script: whether declining that was taught in one script holds in another one.

Wei et al. 2023 (2307.02483) put requests into base64, and models answer what they decline in plain
letters. Organisms are trained on the spot, or `--model` and `--data` are measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.phenomena.study import as_study

if TYPE_CHECKING:
    from experiments.phenomena.phenomenon import Phenomenon

__all__ = ["STUDY"]


def _phenomenon() -> Phenomenon[Any]:
    from experiments.other_script.phenomenon import PHENOMENON

    return PHENOMENON


STUDY = as_study(
    "other-script",
    "Other script",
    "Whether a model that declines in one script declines in another, and reads harm in both.",
    _phenomenon,
    shapes={
        "behaviour": {"declines": ("number or NaN", ("arm", "seed", "script", "form", "example"))},
        "harm": {
            "called": ("number or NaN", ("arm", "seed", "way", "form", "state", "layer", "example"))
        },
        "projection": {"along": ("number", ("arm", "seed", "layer", "script", "example"))},
        "layers": {"along": ("number", ("arm", "seed", "layer", "script", "example"))},
    },
)
