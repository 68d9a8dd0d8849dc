"""A `Study` of a phenomenon: what a study's own `study.py` declares, importing nothing slow.

def _phenomenon() -> Phenomenon[Any]:
    from experiments.refusal.phenomenon import PHENOMENON

    return PHENOMENON


STUDY = as_study("refusal", "Refusal", "Whether …", _phenomenon)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.phenomena.config import PhenomenonConfig
from experiments.run_directory.shapes import Shapes
from experiments.study import Study, Verdict

if TYPE_CHECKING:
    from experiments.context import Context
    from experiments.explorer import Page
    from experiments.phenomena.phenomenon import Phenomenon

__all__ = ["as_study"]

_OURS: Shapes = {
    "headline": {"sentence": "text"},
    "trained_*": {"fingerprint": "text", "steps": "integer", "loss": "number"},
}


def as_study(
    name: str,
    title: str,
    summary: str,
    phenomenon: Callable[[], Phenomenon[Any]],
    *,
    config_type: type[PhenomenonConfig] = PhenomenonConfig,
    shapes: Shapes | None = None,
) -> Study[Any]:
    """What an entry point names.

    Args:
        name, title, summary: as a `Study` has them.
        phenomenon: gives the rest, and imports it.
        config_type: of the settings.
        shapes: what the study's stored results hold, where its figures look for something.
    """

    def run(config: PhenomenonConfig, context: Context) -> Sequence[Verdict]:
        from experiments.phenomena.run import run_phenomenon

        return run_phenomenon(phenomenon(), config, context)

    def page() -> Page:
        from experiments.explorer import Page

        figures = (figure for one in phenomenon().hypotheses for figure in one.figures)
        return Page(figures=tuple(figures))

    found: Mapping[str, Any] = {**_OURS, **(shapes or {})}
    return Study(name, title, summary, config_type, run, found, page)
