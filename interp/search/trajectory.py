"""What a search has done so far, as a labelled result that it can go on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from interp.errors import PromptError
from interp.model.model import Model
from interp.search.goal import Asked
from interp.search.layout import MARKER, Tokens

INSTRUMENT = "greedy coordinate search"
Scores = npt.NDArray[np.float64]


@dataclass
class Trajectory:
    """Steps of a search, the first of which is where it starts.

    Attributes:
        tokens: free tokens after each step.
        scores: of each prompt after each step [example].
        slot: which slot a step has changed, -1 for none.
        tried, unwritable: candidates that were run, and those left out because they do not read
            back.
        best: the lowest loss among those that were run; NaN where none was.
    """

    tokens: list[Tokens] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    slot: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    unwritable: list[int] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    def begin(self, tokens: Tokens, scores: Scores) -> None:
        self._add(tokens, scores, -1, 0, 0, np.nan)

    def stay(self, tried: int, unwritable: int, best: float) -> None:
        self._add(self.tokens[-1], self.scores[-1], -1, tried, unwritable, best)

    def move(
        self, tokens: Tokens, scores: Scores, tried: int, unwritable: int, best: float
    ) -> None:
        slot = next(
            i for i, (a, b) in enumerate(zip(tokens, self.tokens[-1], strict=True)) if a != b
        )
        self._add(tokens, scores, slot, tried, unwritable, best)

    def _add(
        self, tokens: Tokens, scores: Scores, slot: int, tried: int, unwritable: int, best: float
    ) -> None:
        self.tokens.append(tokens)
        self.scores.append(scores)
        self.slot.append(slot)
        self.tried.append(tried)
        self.unwritable.append(unwritable)
        self.best.append(best)

    @property
    def loss(self) -> float:
        """As it stands."""
        return float(-self.scores[-1].mean())

    @property
    def steps(self) -> int:
        """Taken so far."""
        return len(self.tokens) - 1

    @property
    def round(self) -> tuple[int, int]:
        """Swaps taken, and steps without one since the last."""
        moved = [i for i, slot in enumerate(self.slot) if slot >= 0]
        return len(moved), self.steps - (moved[-1] if moved else 0)

    def dataset(
        self, model: Model, asked: Asked, settings: dict[str, Any], ended: str
    ) -> xr.Dataset:
        """The result; see `greedy_coordinate_search`."""
        layout, scores = asked.layout, np.stack(self.scores)
        ids = np.array(self.tokens, dtype=np.int64)
        used = np.unique(ids)
        names = dict(zip(used.tolist(), model.token_strings(used.tolist()), strict=True))
        text = layout.text(self.tokens[-1])
        return xr.Dataset(
            {
                "loss": ("step", -scores.mean(1)),
                "score": (("step", "example"), scores),
                "token_id": (("step", "slot"), ids),
                "token": (
                    ("step", "slot"),
                    np.array([[names[i] for i in row] for row in ids.tolist()], dtype=object),
                ),
                "text": ("step", [layout.text(tokens) for tokens in self.tokens]),
                "changed_slot": ("step", np.array(self.slot)),
                "tried": ("step", np.array(self.tried)),
                "unwritable": ("step", np.array(self.unwritable)),
                "best_tried": ("step", np.array(self.best)),
            },
            coords={"step": np.arange(len(ids)), **example_coordinates(asked)},
            attrs={
                "instrument": INSTRUMENT,
                **goal_attributes(asked),
                **settings,
                **model.identity,
                "suffix": text,
                "ended": ended,
                "settings_hash": settings_hash(asked, settings),
                "statement": self._statement(asked, text, ended),
            },
        )

    def _statement(self, asked: Asked, text: str, ended: str) -> str:
        n, tried, left = len(asked.layout), sum(self.tried), sum(self.unwritable)
        first, last = float(-self.scores[0].mean()), self.loss
        gone = f", and {left:,} left out that do not read back" if left else ""
        return (
            f"In {self.steps} steps, with {tried:,} suffixes run{gone}, the mean loss of {n} "
            f"prompt{'s' if n != 1 else ''} went from {first:.3f} to {last:.3f}. The suffix "
            f"{text!r} reads back as the same tokens in each of them. {ended}"
        )

    @classmethod
    def read(cls, found: xr.Dataset, expected: str) -> Trajectory:
        """Back from a result.

        Raises:
            PromptError: of another search than the one that is to go on.
        """
        if found.attrs.get("settings_hash") != expected:
            raise PromptError(
                "This search was begun with another model, other prompts, goal, pool or settings; "
                "go on with the same ones, or begin anew without start=…."
            )
        return cls(
            [tuple(int(i) for i in row) for row in found["token_id"].values],
            [np.asarray(row, dtype=np.float64) for row in found["score"].values],
            [int(i) for i in found["changed_slot"].values],
            [int(i) for i in found["tried"].values],
            [int(i) for i in found["unwritable"].values],
            [float(i) for i in found["best_tried"].values],
        )


def example_coordinates(asked: Asked) -> dict[str, Any]:
    """Prompts, with a mark where the free tokens stand, and answers."""
    found: dict[str, Any] = {
        "example": np.arange(len(asked.layout)),
        "prompt": ("example", list(asked.layout.whole(MARKER))),
    }
    for name, texts in (("answer", asked.answers), ("foil", asked.foils)):
        if texts is not None:
            found[name] = ("example", list(texts))
    return found


def goal_attributes(asked: Asked) -> dict[str, Any]:
    """What is raised."""
    return {"metric": asked.goal.name, "unit": asked.goal.unit, "goal": asked.label}


def settings_hash(asked: Asked, settings: dict[str, Any]) -> str:
    """What must be the same for a search to go on."""
    layout = asked.layout
    what = [
        asked.layout.model.fingerprint,
        layout.before,
        layout.after,
        asked.answers,
        asked.foils,
        asked.label,
        settings,
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
