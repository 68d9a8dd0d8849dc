"""A figure of what a run stores, as its report, the explorer and a notebook draw it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure:
    """A figure of stored results; it is shown as soon as the run has stored them all."""

    name: str
    """Its key, and the name of the files it is saved as; no two of a page have the same."""
    title: str
    """A word or three, on its tab."""
    results: tuple[str, ...]
    """Names of tables and labelled arrays."""
    draw: Callable[..., go.Figure]
    """A function of a module (the code beside the figure imports it) that takes the results in
    their order."""
    alt: str
    """A description for those who cannot see it."""
    caption: str = ""
    """What to see in it, as a sentence or two below."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keyword arguments of `draw`: plain values, which the code beside the figure spells out."""
    selects: bool = False
    """Whether a point stands for an example: `draw` also takes `selected`, the number of an example
    or None, and gives each point its example's number as `customdata`."""

    def __post_init__(self) -> None:
        name = getattr(self.draw, "__qualname__", "<")
        if not name.isidentifier():
            raise ValueError(
                f"the figure '{self.name}' is drawn by {name}, no function of a module"
            )
