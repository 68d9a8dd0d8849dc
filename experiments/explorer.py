"""What a study hands the explorer: plain descriptions, which the explorer's own views draw.

A study need not hand it anything: settings, verdicts and stored tables of a run are shown anyway.
With `figures`, stored results are drawn; with `examples`, each of them can be looked at from every
side: what is asked, what each layer would say, which activations and edges carry the answer.

A study gives a function that makes its `Page` (`Study.explorer`), so that nothing of it is imported
before somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from experiments.figure import Figure
from experiments.reporter import Progress

if TYPE_CHECKING:
    import pandas as pd

    from interp.model.model import Model

__all__ = [
    "Column",
    "Examples",
    "Figure",
    "Label",
    "Measure",
    "Page",
    "Pair",
    "Trainings",
    "Way",
    "pair_in",
]


@dataclass(frozen=True)
class Page:
    """What is shown of a study, beside what is shown of every run."""

    figures: tuple[Figure, ...] = ()
    """Those of one name are alternatives: the first is shown whose results are all stored."""
    examples: Examples | None = None
    trainings: Trainings | None = None
    probes: tuple[Figure, ...] = ()
    """Of probes that the study itself has fitted."""

    def __post_init__(self) -> None:
        names = [figure.name for figure in self.figures]
        if len({(figure.name, figure.results) for figure in self.figures}) < len(names):
            raise ValueError(f"two figures of the same results have one name: {', '.join(names)}")


@dataclass(frozen=True)
class Way:
    """One way in which the same examples are asked: "forward", say, and "reverse"."""

    name: str
    """Lower case; it stands in the names of columns and results, and in links."""
    title: str
    """As a heading: "Asked forward"."""
    colour: str
    """As CSS has it."""
    about: str = ""
    """The column with the words that a prompt is about: its span "subject"."""


@dataclass(frozen=True)
class Column:
    """A column of the table of examples, as people read it."""

    name: str
    label: str
    kind: Literal["text", "flag", "rank", "number"]
    """A rank is stored from 0 and shown from 1."""
    width: int
    """px."""
    help: str | None = None


@dataclass(frozen=True)
class Label:
    """What examples differ in, so that a probe can be asked to tell them apart."""

    name: str
    """Its column in the table of examples; or `experiments.labelled.ANSWERED`."""
    title: str
    """As a choice: "Son or daughter"."""


@dataclass(frozen=True)
class Examples:
    """The examples of a study: a table with a row for each, and how a row is asked.

    For each way `w` the table has the columns `w_prompt`, `w_answer` (what is right, with the space
    before it), `w_rank` (of the answer's first token, from 0), `w_correct`, and where it is known
    `w_said`. Labelled arrays that the study stores, an example of them for each row or for some,
    have the coordinates `group` and `key`; those that lack `key`, as older runs have them, tell
    their examples by the coordinate `prompt`, and no two that ask the same apart.
    """

    one: str
    """"fact"."""
    many: str
    """"facts"."""
    table: str
    """The name of the stored table."""
    key: str
    """Its column that numbers the examples."""
    group: str
    """Its column that tells of which kind an example is; means are taken within a kind."""
    ways: tuple[Way, ...]
    columns: tuple[Column, ...]
    """Those of the table that are shown, where they are there."""
    search: tuple[str, ...]
    """The columns that are searched."""
    first: Callable[[pd.DataFrame], int | None]
    """The example to begin with; None where the table is empty."""
    heading: Callable[[pd.Series], tuple[str, str]]
    """A row as a heading, and a line below it."""
    measure: Callable[[Model, Progress], pd.DataFrame | None]
    """The table of a model that no run is open of: the examples that it brings along are asked.
    None where it brings none. Others may use the model whenever this tells how far it is."""
    pair: Callable[[Model, pd.DataFrame, int, Way, Mapping[str, Any]], Pair]
    """The pair for patching the example in a row of the table, asked in a way, as the study makes
    it; with the run's settings, which are empty where there is no run."""
    lens: str = "lens_{way}"
    """The name of the stored ranks by layer."""
    patching: str = "patching_{way}_{site}"
    """The name of a stored patching map."""
    labels: tuple[Label, ...] = ()
    """What probes can be asked for, beside the group and what is answered right."""


@dataclass(frozen=True)
class Measure:
    """A column of numbers of a table of trainings, drawn over the steps."""

    name: str
    """In links: "preference"."""
    title: str
    """In the list of measures: "Preference for the right name"."""
    label: str
    """On the axis, with the unit."""
    value: str
    """The column."""
    about: str
    """What it is, as a sentence or two."""
    control: str
    """What it is held against."""
    interval: tuple[str, str] | None = None
    """The columns with the ends of its 95% interval over examples, where they are stored."""
    scale: Literal["number", "share", "rank"] = "number"
    """A rank is stored from 0 and shown from 1."""
    chance: float | str | None = None
    """What guessing gives: a number, or the column that holds it."""


@dataclass(frozen=True)
class Trainings:
    """The trainings of a study along which models were asked, and maybe kept.

    The stored table has a row for each arm, seed, step and way: the columns `arm`, `seed`, `step`,
    and those that are named here.
    """

    table: str
    """The name of the stored table."""
    way: str
    """Its column that tells the way, by its name."""
    n: str
    """Its column that tells over how many examples a row is."""
    measures: tuple[Measure, ...]
    group: str
    """Of which kind these examples are, for people: "facts that were told forward only"."""
    about: str
    """What was planted by the training, and what was not, as a sentence."""
    folder: str
    """Where in the run's work folder a training lies whose models were kept, in `steps`: a path
    with {arm} and {seed}."""
    command: str
    """What a user types to have such results."""
    arms: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What is told or done in an arm, by its name."""


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted prompt with what should follow each."""

    clean: str
    corrupt: str
    answer: str
    foil: str
    words: tuple[str, str]
    """What differs, in the clean and in the corrupted prompt."""
    span: str = "subject"
    """What to call that part of the prompt."""


def pair_in(
    table: pd.DataFrame,
    way: Way,
    clean: str,
    corrupt: str,
    answers: tuple[str, str] | None = None,
) -> Pair:
    """The pair of two prompts that stand in a table of examples, each with its own answer.

    Taken from there rather than from a result: the text of a result's answers is put together
    from tokens, which need not bring their spaces along.

    Args:
        answers: what a result says should follow each: several examples can ask the same (a mother
            of three is asked for her child), and it is of one of them.

    Raises:
        PromptError: one of them does not stand there.
    """
    from interp.errors import PromptError

    prompts, told = (table[f"{way.name}_{what}"].tolist() for what in ("prompt", "answer"))
    rows = []
    for prompt, wanted in zip((clean, corrupt), answers or ("", ""), strict=True):
        asked = [row for row, one in enumerate(prompts) if one == prompt]
        if not asked:
            raise PromptError(f"The prompt '{prompt}' is not in this table of examples.")
        same = [row for row in asked if _spaceless(told[row]) == _spaceless(wanted)]
        rows.append((same or asked)[0])
    (answer, foil), (left, right) = (
        [str(table[name].iloc[row]) for row in rows] for name in (f"{way.name}_answer", way.about)
    )
    return Pair(clean, corrupt, answer, foil, (left, right))


def _spaceless(text: object) -> str:
    return "".join(str(text).split())
