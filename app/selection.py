"""What is chosen on the screen, as plain values. `app.link` reads and writes them as an address.

Nothing here knows Streamlit, so that all of it can be tested without a browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["run", "model"]
SITES = ("resid_pre", "attn_out", "mlp_out", "z")

PAGES = ("start", "study", "examples", "circuit", "probes", "training", "compare", "prompt", "jobs")
"""Names of pages, as links tell them."""

SWITCHES: Mapping[str, tuple[str, ...]] = {
    "patch-value": ("change", "normalised", "raw"),
    "patch-of": ("one", "mean"),
    "circuit-of": ("mean", "one"),
    "inside": ("attention", "attribution", "heads", "metric", "writes"),
    "attention-value": ("pattern", "moved"),
    "attention-of": ("one", "all"),
    "attribution-by": ("component", "head"),
    "head-score": (
        *("patching", "attribution", "to_span", "induction", "previous_token"),
        "duplicate_token",
    ),
    "lens": ("logit", "tuned", "jacobian"),
    "against": ("foil", "alone"),
    "circuit-paths": ("all", "through"),
    "circuit-heads": ("apart", "grouped"),
}
"""By name what a switch of the screen can stand at; first where it stands if nobody moves it."""

NUMBERS = ("attention-layer", "attention-head", "circuit-strongest")
"""Switches that stand at a number; at 0 if nobody moves them."""

LONGEST_TEXT = 2000
"""Characters of each typed text; an address could not hold more."""
LONGEST_NAME = 40
"""Characters of a typed name."""
LONGEST_SEARCH = 200
"""Characters of a search."""
LONGEST_STATE = 6000
"""Characters of each state that is compared, as it stands in an address."""
COMPARED = ("findings", "ranks", "patching", "lens", "activations", "swaps")
"""What of two states can be looked at side by side."""
OVER = ("all", "one")


@dataclass(frozen=True)
class Source:
    """What is open: a run directory by its name, or a model by its source."""

    kind: Kind
    name: str


@dataclass(frozen=True)
class Cell:
    """A place in a model that reads a prompt.

    Attributes:
        way: which of the prompts on the screen: "clean" or "corrupt" of the user's own, or the way
            in which a study asks.
        layer: blocks passed, from 0 (the embedding).
        position: token of the prompt, counted from 0; None where a head is meant.
        head: the head, all positions together; None where a token is meant.
    """

    way: str
    layer: int
    position: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class Node:
    """A component in a circuit.

    Attributes:
        way: the way of asking whose circuit it is in.
        name: "a1.h3" or "m2".
        position: index of the position label at which it writes; -1 where none is known.
    """

    way: str
    name: str
    position: int


@dataclass(frozen=True)
class Ask:
    """The user's own prompts."""

    clean: str
    corrupt: str
    answer: str
    foil: str


PLACES = ("subject", "last")
"""Which token probes read: the last one of what a prompt is about, or of the prompt."""


@dataclass(frozen=True)
class Probe:
    """What probes are asked for.

    Attributes:
        label: of the examples, by its name; "" for the usual one.
        way: of asking, by its name; "" for the usual one.
        place: one of `PLACES`.
        point: the layer that is looked at, counted from the left.
        typed: whether the user's own lists are probed.
        lists: a line for each prompt of the first and of the second class; None as suggested.
        names: of the two classes.
    """

    label: str = ""
    way: str = ""
    place: str = "subject"
    point: int | None = None
    typed: bool = False
    lists: tuple[str, str] | None = None
    names: tuple[str, str] = ("A", "B")


@dataclass(frozen=True)
class Listed:
    """Which of the examples the table lists.

    Attributes:
        search: words that stand in them.
        kinds: their kinds; none for all.
        sort: the column by which they are sorted, with "-" before it from the largest down; empty
            for the order of the study.
    """

    search: str = ""
    kinds: tuple[str, ...] = ()
    sort: str = ""


@dataclass(frozen=True)
class Writing:
    """What the model is to write on after the prompts that are looked at.

    Attributes:
        tokens: how many, 1 to `MOST_WRITTEN`.
        toward, away: texts whose difference steers it; it is not steered where one is empty.
        after: blocks that have passed where it is steered, less one.
        dose: by how much, at most `MOST_DOSE` either way.
    """

    tokens: int
    toward: str = ""
    away: str = ""
    after: int = 0
    dose: float = 2.0


MOST_WRITTEN = 64
MOST_DOSE = 20.0


@dataclass(frozen=True)
class Two:
    """What the page "compare" lays side by side.

    Attributes:
        a, b: the states, whose own `two` is empty; None where nothing was chosen.
        over: "all" examples that two runs have in store, or "one" question; None for the usual.
        shown: one of `COMPARED`; None for the usual.
        way, group: how the examples of runs are asked, and of which kind they are; None for the
            usual.
    """

    a: View | None = None
    b: View | None = None
    over: str | None = None
    shown: str | None = None
    way: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class View:
    """All that the address of a page tells.

    Attributes:
        page: one of `PAGES`; None for the usual one of what is open.
        edges: how many edges the circuits have; None where nobody has chosen.
        node: the component of a circuit that is opened.
        figure: the figure of a study that is looked at, by its name.
        training: the training that is looked at, by its name; None for the first.
        measure: what is drawn along it; None for the first.
        step: at which step of it; None for the last.
        asked: the example that its models are asked, by its number among theirs; None for the one
            that is chosen elsewhere.
        switches: (name, value) of `SWITCHES` and `NUMBERS` that do not stand as usual, by name.
        probe: what probes are asked for.
        two: what is compared.
        together: numbers of the examples that were chosen together; none for all of a kind.
        listed: which of the examples the table lists.
        overview: the figure of all examples that stands beside their table, by its name; None for
            the first.
        table: the stored table that is looked at, by its name; None for the first.
        writing: what is to be written on; None where nobody has asked.
        sought: what nodes of circuits are searched for.
        pinned: components that circuits show with all of their edges.
    """

    source: Source | None = None
    page: str | None = None
    example: int | None = None
    site: str = "resid_pre"
    cell: Cell | None = None
    ask: Ask | None = None
    edges: int | None = None
    node: Node | None = None
    figure: str | None = None
    training: str | None = None
    measure: str | None = None
    step: int | None = None
    asked: int | None = None
    probe: Probe = Probe()
    switches: tuple[tuple[str, str], ...] = ()
    two: Two = Two()
    together: tuple[int, ...] = ()
    listed: Listed = Listed()
    overview: str | None = None
    table: str | None = None
    writing: Writing | None = None
    sought: str = ""
    pinned: tuple[Node, ...] = ()

    def at(self, switch: str) -> str:
        """Where a switch stands."""
        return dict(self.switches).get(switch, usual(switch))

    def switched(self, **values: str) -> View:
        """The same with switches moved; "-" in their names are "_" here."""
        moved = {name.replace("_", "-"): value for name, value in values.items()}
        every = dict(self.switches) | moved
        kept = {name: value for name, value in every.items() if value != usual(name)}
        return replace(self, switches=tuple(sorted(kept.items())))


def usual(switch: str) -> str:
    """Where a switch stands if nobody moves it."""
    return "0" if switch in NUMBERS else SWITCHES[switch][0]
