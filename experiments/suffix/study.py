"""The study of universal suffixes, as an entry point names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.phenomena.study import as_study

if TYPE_CHECKING:
    from experiments.phenomena.phenomenon import Phenomenon

__all__ = ["STUDY"]


def _phenomenon() -> Phenomenon[Any]:
    from experiments.suffix.phenomenon import PHENOMENON

    return PHENOMENON


STUDY = as_study(
    "suffix",
    "Universal suffixes",
    "Whether one suffix undoes declining for many requests, and which heads carry it.",
    _phenomenon,
    # Of one organism each; the judge asks for it.
    shapes={"projection_*": {"gap": "number"}},
)
