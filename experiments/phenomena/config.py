"""Settings that every study of a phenomenon has."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import Self

from experiments.errors import StudyError

__all__ = ["PhenomenonConfig"]

_FULL_SEEDS = 5


@dataclass(frozen=True)
class PhenomenonConfig:
    """Settings of a study; one that has more of them inherits from this.

    Attributes:
        model: local folder, hub id, or the name of a bundled organism; if left out, the study
            trains organisms of its own.
        revision: branch, tag or commit on the hub.
        data: the file of what the model is asked; `data.json` beside the model if left out.
        seeds: how many organisms are trained of each arm.
        twin: local folder or hub id of a model that the given one is compared with, where a study
            compares two: the same one trained without what is looked for.
    """

    model: str | None = None
    revision: str | None = None
    data: str | None = None
    seeds: int = 1
    twin: str | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise StudyError(f"'seeds' is {self.seeds}; choose 1 or more.")
        about = {"data": self.data, "revision": self.revision, "twin": self.twin}
        what = next((name for name, value in about.items() if value is not None), None)
        if self.model is None and what is not None:
            raise StudyError(
                f"'{what}' is about a model, and none is given; name it with --model, or leave "
                f"'{what}' out: the study trains organisms of its own."
            )

    @classmethod
    def preset(cls, name: str) -> Self:
        """ "quick" (one organism of each arm) or "full" (five)."""
        if name == "quick":
            return cls()
        if name == "full":
            return cls(seeds=_FULL_SEEDS)
        raise StudyError(f"Unknown preset '{name}'; choose 'quick' or 'full'.")
