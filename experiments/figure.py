"""A figure of what a run stores, as its report, the explorer and a notebook draw it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Figure", "Telling", "Words", "counted", "of_mean", "of_median", "of_share"]

Words: TypeAlias = "str | Callable[..., str]"
"""A phrase, or a function that takes what `draw` takes, but no selected example, and makes it."""


@dataclass(frozen=True)
class Telling:
    """What is told with a figure.

    Attributes:
        shows: what it shows, in one line.
        n: over how many examples.
        interval: what its bands or bars are, or that there are none.
        control: what it is held against.
    """

    shows: str
    n: str
    interval: str
    control: str

    @property
    def facts(self) -> dict[str, str]:
        """What there is beside the first line, by its name."""
        named = {"n": self.n, "interval": self.interval, "control": self.control}
        return {name: text for name, text in named.items() if text}


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
    """How to read it, as a sentence or two below."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keyword arguments of `draw`: plain values, which the code beside the figure spells out."""
    selects: bool = False
    """Whether a point stands for an example: `draw` also takes `selected`, the number of an example
    or None, and gives each point its example's number as `customdata`."""
    shows: str = ""
    """What it shows, as one line."""
    n: Words = ""
    """Over how many examples: "60 questions"."""
    interval: Words = ""
    """What its bands or bars are; "none: …" where there are none."""
    control: Words = ""
    """What it is held against; "none: …" where there is nothing."""

    def __post_init__(self) -> None:
        name = getattr(self.draw, "__qualname__", "<")
        if not name.isidentifier():
            raise ValueError(
                f"the figure '{self.name}' is drawn by {name}, no function of a module"
            )

    def telling(self, *results: Any) -> Telling:
        """What is told with it, of the results that it is drawn from."""

        def said(words: Words) -> str:
            return words if isinstance(words, str) else words(*results, **self.options)

        return Telling(self.shows, *map(said, (self.n, self.interval, self.control)))


def counted(numbers: Iterable[int], one: str, many: str = "") -> str:
    """Counts as a phrase: "60 facts", "20 to 60 facts", "1 fact".

    Args:
        numbers: the counts, of which the smallest and the largest are told.
        many: the plural, where that is not "s" behind the singular.
    """
    found = sorted(set(numbers)) or [0]
    noun = one if found[-1] == 1 else many or f"{one}s"
    return (
        " to ".join(f"{number:,}" for number in dict.fromkeys((found[0], found[-1]))) + f" {noun}"
    )


def of_mean(over: str) -> str:
    """What `interp.stats.mean_interval` gives, over what is independent."""
    return f"95% of the mean over {over} (t or bootstrap-t, the wider)"


def of_median(over: str) -> str:
    """What `interp.stats.median_interval` gives."""
    return f"95% of the median over {over} (order statistics)"


def of_share(over: str) -> str:
    """What `interp.stats.wilson` and `proportion_interval` give."""
    return f"95% of the share over {over} (Wilson score)"
