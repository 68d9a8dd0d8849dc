"""A question as the instruments take it: a prompt, what should follow, and what that is held
against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import xarray as xr

from app import resources
from app.compute.engine import ModelSpec
from app.screen import switch
from app.text import sentences
from experiments.explorer import Pair, Way


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        way: its name in links, its title and its colour.
        prompt: the text.
        answer: what should follow; None where nobody has said.
        foil: what that is compared with, if anything.
        spans: named words of the prompt.
        pair: the pair that is patched; None where there is none.
        stored: the patching map of heads that a run holds, and which of its examples this is.
    """

    way: Way
    prompt: str
    answer: str | None
    foil: str | None = None
    spans: Mapping[str, str] = field(default_factory=dict)
    pair: Pair | None = None
    stored: tuple[xr.Dataset, int] | None = None

    @property
    def name(self) -> str:
        return self.way.name

    @property
    def metric(self) -> str:
        """What is read, in words."""
        of = f"the logit of the first token of {sentences.token(self.answer or '')}"
        return of if self.foil is None else f"{of} minus that of {sentences.token(self.foil)}"

    @property
    def control(self) -> str:
        """What it is held against, in words."""
        return "none: the answer alone" if self.foil is None else f"the foil “{self.foil.strip()}”"


def collide(spec: ModelSpec, one: Asked) -> bool:
    """Whether answer and foil begin with the same token."""
    if one.answer is None or one.foil is None:
        return False
    return resources.engine().same_first_token(spec, one.prompt, one.answer, one.foil)


def against(spec: ModelSpec, asked: tuple[Asked, ...]) -> tuple[Asked, ...]:
    """A switch between the difference and the answer alone, where there are foils; the questions
    with the foils that are to be used. Foils that begin as their answers do cannot be."""
    if all(one.foil is None for one in asked):
        return asked
    words = {"foil": "Answer minus foil", "alone": "Answer alone"}
    if switch.choose("against", words, "What is read") == "alone":
        return tuple(replace(one, foil=None) for one in asked)
    return tuple(replace(one, foil=None) if collide(spec, one) else one for one in asked)
