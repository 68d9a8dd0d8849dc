"""Every page, in the order of the sidebar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.views import circuit, compare, examples, jobs, probes, prompt, start, study, training
from app.views.opened import Opened

__all__ = ["PAGES", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A page.

    Attributes:
        name: in links.
        title: in the sidebar.
        show: draws it; says itself what is missing where something is.
    """

    name: str
    title: str
    show: Callable[[Opened], None]


PAGES = (
    Kind("start", "Start", start.show),
    Kind("study", "Findings", study.show),
    Kind("examples", "Examples", examples.show),
    Kind("circuit", "Circuit", circuit.show),
    Kind("probes", "Probes", probes.show),
    Kind("training", "Training", training.show),
    Kind("compare", "Compare", compare.show),
    Kind("prompt", "Any prompt", prompt.show_page),
    Kind("jobs", "Cache and jobs", jobs.show),
)
