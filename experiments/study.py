"""What a study is: settings, a function that runs them, and the verdicts it returns.

A study lives in a folder of its own and declares itself in its `study.py`:

    STUDY = Study("reversal-curse", "The reversal curse", "Why …", Config, run, RESULTS)

which an entry point names (see `experiments.registry`). To list studies and to read their runs
that module is imported: it should import what takes long (torch, pandas) inside of functions. The
runner gives `run` a `Context`: a directory, seeds, progress, and results that are kept when the run
is stopped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args

from experiments.errors import StudyError
from experiments.run_directory.shapes import Shapes

if TYPE_CHECKING:
    from typing_extensions import Self

    from experiments.context import Context
    from experiments.explorer import Page

__all__ = ["Outcome", "Study", "StudyConfig", "Verdict"]

Outcome = Literal["supported", "rejected", "undecided"]
"""What a verdict says of its hypothesis."""

# Written to config.json by the runner, beside the study's own settings.
RESERVED = ("study", "preset", "seed", "dtype")


class StudyConfig(Protocol):
    """A frozen dataclass, with defaults, of values that JSON can hold (tuples become lists).

    Fields named `model`, `revision`, `facts` and `templates` are what the command line's options
    of these names set; a study leaves out those it has no use for.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @classmethod
    def preset(cls, name: str) -> Self:
        """The settings called `name` ("quick" or "full"). Raises StudyError for other names."""


ConfigT = TypeVar("ConfigT", bound=StudyConfig)


@dataclass(frozen=True)
class Verdict:
    """What the data say about one hypothesis.

    An estimate or bound that is not finite becomes None: not computable, or unbounded.
    """

    id: str
    """Short name within the study: "H1"."""
    claim: str
    """The hypothesis, as a sentence."""
    outcome: Outcome
    statement: str
    """The finding, as one sentence with its numbers."""
    estimate: float | None
    low: float | None
    """Lower end of the interval of the estimate."""
    high: float | None
    unit: str
    """Of the estimate and its interval: "nats", "share of pairs"."""
    n: int
    """Number of examples (pairs, seeds) behind the estimate."""
    control: str
    """What it was compared with, and what that showed."""
    confidence: float = 0.95
    """Of the interval; equivalence tests at 5% use one of 90%."""

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise ValueError(f"outcome is '{self.outcome}', not one of {get_args(Outcome)}")
        for name in ("estimate", "low", "high"):
            value = getattr(self, name)
            finite = value is not None and math.isfinite(value)
            # Plain numbers: NumPy's are not JSON's.
            object.__setattr__(self, name, float(value) if finite else None)
        object.__setattr__(self, "n", int(self.n))

    @classmethod
    def undecided(
        cls,
        id: str,
        claim: str,
        statement: str,
        *,
        unit: str,
        n: int,
        control: str = "None: there is nothing to compare.",
        confidence: float = 0.95,
    ) -> Verdict:
        """A verdict without numbers: too little can be compared, and `statement` says what."""
        ends = (None, None, None)
        return cls(id, claim, "undecided", statement, *ends, unit, n, control, confidence)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in verdicts.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_dict`, of data that `schema.check_verdicts` has seen."""
        return cls(**data)


@dataclass(frozen=True)
class Study(Generic[ConfigT]):
    """A question, its settings, and the function that answers it."""

    name: str
    """As on the command line: "reversal-curse"."""
    title: str
    summary: str
    """One line."""
    config_type: type[ConfigT]
    run: Callable[[ConfigT, Context], Sequence[Verdict]]
    """Computes through the context, writes report.html there, returns the verdicts."""
    results: Shapes = field(default_factory=dict)
    """What its stored results hold; a run's readers are told of those that hold something else."""
    explorer: Callable[[], Page] | None = None
    """Makes what the explorer shows of it, beside verdicts and tables: see that module."""

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self.config_type)
        taken = [one.name for one in fields if one.name in RESERVED]
        if taken:
            raise TypeError(
                f"{self.config_type.__name__} must not have a field '{taken[0]}': the runner keeps "
                f"{', '.join(RESERVED)} itself (a study finds its seed at context.seed)"
            )

    def configure(self, preset: str, changes: Mapping[str, Any] | None = None) -> ConfigT:
        """The preset's settings with `changes` made to them.

        Raises:
            StudyError: the study has no such preset or setting.
        """
        config = self.config_type.preset(preset)
        known = [one.name for one in dataclasses.fields(config)]
        for name in changes or {}:
            if name not in known:
                raise StudyError(f"The study '{self.name}' has no '{name}' to set; leave it out.")
        return dataclasses.replace(config, **(changes or {}))
