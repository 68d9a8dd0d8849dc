"""What is chosen on the screen, as plain values: from clicks, and to and from the address.

Nothing here knows Streamlit, so that all of it can be tested without a browser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlencode

from app.together import from_text, to_text

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

_WAY = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_NODE = re.compile(r"(a[0-9]{1,4}\.h[0-9]{1,5}|m[0-9]{1,4})\Z")
_FIGURE = re.compile(r"[\w-]{1,80}\Z")
_WORD = re.compile(r"[A-Za-z0-9][\w-]{0,119}\Z")
_COLUMN = re.compile(r"[\w .-]{1,80}\Z")
_LONGEST_GROUP = 200
_NUMBER = re.compile(r"[0-9]{1,6}\Z")
_STEP = re.compile(r"[0-9]{1,9}\Z")
LONGEST_TEXT = 2000
"""Characters of each typed text; an address could not hold more."""
LONGEST_NAME = 40
"""Characters of a typed name."""
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

    def at(self, switch: str) -> str:
        """Where a switch stands."""
        return dict(self.switches).get(switch, _usual(switch))

    def switched(self, **values: str) -> View:
        """The same with switches moved; "-" in their names are "_" here."""
        moved = {name.replace("_", "-"): value for name, value in values.items()}
        every = dict(self.switches) | moved
        kept = {name: value for name, value in every.items() if value != _usual(name)}
        return replace(self, switches=tuple(sorted(kept.items())))


def _usual(switch: str) -> str:
    return "0" if switch in NUMBERS else SWITCHES[switch][0]


def to_query(view: View) -> dict[str, str]:
    """The view as query parameters; what is as usual is left out."""
    query: dict[str, str] = {}
    if view.source is not None:
        query[view.source.kind] = view.source.name
    if view.page is not None:
        query["page"] = view.page
    if view.example is not None:
        query["example"] = str(view.example)
    if view.site != "resid_pre":
        query["site"] = view.site
    if view.cell is not None:
        query["way"] = view.cell.way
        query["layer"] = str(view.cell.layer)
        for name in ("position", "head"):
            index = getattr(view.cell, name)
            if index is not None:
                query[name] = str(index)
    if view.edges is not None:
        query["edges"] = str(view.edges)
    if view.node is not None:
        query["node"] = f"{view.node.way} {view.node.name} {view.node.position}"
    if view.figure is not None:
        query["figure"] = view.figure
    for name in ("training", "measure", "step", "asked"):
        value = getattr(view, name)
        if value is not None:
            query[name] = str(value)
    if view.together:
        query["together"] = to_text(view.together)
    query |= dict(view.switches)
    query |= _probe_query(view.probe)
    query |= _two_to_query(view.two)
    texts = {} if view.ask is None else asdict(view.ask)
    if all(len(text) <= LONGEST_TEXT for text in texts.values()):
        query |= texts
    return query


def from_query(query: Mapping[str, str]) -> View:
    """The inverse of `to_query`; parameters that make no sense are left out, never raised on."""
    source = next((Source(kind, query[kind]) for kind in get_args(Kind) if query.get(kind)), None)
    # In older links an example is a fact.
    example = _number(query.get("example", query.get("fact")))
    view = View(source, example=example, edges=_number(query.get("edges")))
    # "yours" is what the page was called in older links.
    page = {"yours": "prompt"}.get(query.get("page", ""), query.get("page"))
    if page in PAGES:
        view = replace(view, page=page)
    if query.get("site") in SITES:
        view = replace(view, site=query["site"])
    layer, position, head = (_number(query.get(n)) for n in ("layer", "position", "head"))
    way = query.get("way", "")
    if _WAY.match(way) and layer is not None:
        view = replace(view, cell=Cell(way, layer, position, head))
    if _FIGURE.match(query.get("figure", "")):
        view = replace(view, figure=query["figure"])
    training, measure = (query.get(name, "") for name in ("training", "measure"))
    view = replace(
        view,
        training=training if _WORD.match(training) else None,
        measure=measure if _WORD.match(measure) else None,
        step=_number(query.get("step"), _STEP),
        asked=_number(query.get("asked")),
    )
    way, _, rest = query.get("node", "").partition(" ")
    name, _, place = rest.partition(" ")
    told = {"way": way, "node": name, "position": _signed(place)}
    view = replace(view, node=node_of(told))
    moved = {name: query[name] for name, values in SWITCHES.items() if query.get(name) in values}
    moved |= {n: str(_number(query.get(n))) for n in NUMBERS if _number(query.get(n)) is not None}
    view = view.switched(**moved)
    view = replace(view, probe=_probe(query), together=from_text(query.get("together", "")))
    texts = [query.get(name, "") for name in ("clean", "corrupt", "answer", "foil")]
    if any(texts) and all(len(text) <= LONGEST_TEXT for text in texts):
        view = replace(view, ask=Ask(*texts))
    return replace(view, two=_two_from_query(query))


def state_to_text(view: View) -> str | None:
    """A state as it stands in the address of what it is compared with; None where it is too long,
    or where nothing is open in it."""
    if view.source is None:
        return None
    text = urlencode(to_query(replace(view, two=Two())), errors="replace")
    return text if len(text) <= LONGEST_STATE else None


def state_from_text(text: str) -> View | None:
    """The inverse of `state_to_text`; None where it makes no sense."""
    if len(text) > LONGEST_STATE:
        return None
    try:
        query = dict(parse_qsl(text, max_num_fields=60))
    except ValueError:
        return None
    view = from_query({name: value for name, value in query.items() if name not in _TWO})
    return None if view.source is None else view


_TWO = ("a", "b", "over", "shown", "asking", "group")


def _two_to_query(two: Two) -> dict[str, str]:
    states = ("a", two.a), ("b", two.b)
    query = {
        name: text
        for name, state in states
        if state is not None and (text := state_to_text(state)) is not None
    }
    told = {"over": two.over, "shown": two.shown, "asking": two.way, "group": two.group}
    return query | {name: text for name, text in told.items() if text is not None}


def _two_from_query(query: Mapping[str, str]) -> Two:
    if not any(name in query for name in _TWO):
        return Two()
    over, shown, way, group = (query.get(name) for name in ("over", "shown", "asking", "group"))
    a, b = (state_from_text(query.get(name, "")) for name in ("a", "b"))
    return Two(
        a,
        b,
        over=over if over in OVER else None,
        shown=shown if shown in COMPARED else None,
        way=way if way is not None and _WAY.match(way) else None,
        group=group if group is not None and 0 < len(group) <= _LONGEST_GROUP else None,
    )


def node_of(told: object) -> Node | None:
    """The component that a circuit's drawing or a link tells; None where it makes no sense."""
    if not isinstance(told, Mapping):
        return None
    way, name, position = (told.get(key) for key in ("way", "node", "position"))
    if not isinstance(way, str) or not _WAY.match(way):
        return None
    if not isinstance(name, str) or not _NODE.match(name):
        return None
    if not isinstance(position, int | float) or isinstance(position, bool):
        return None
    return Node(way, name, int(position)) if -1 <= position < 1e6 else None


def _probe_query(probe: Probe) -> dict[str, str]:
    usual = Probe()
    told = {"label": probe.label, "read": probe.way, "place": probe.place}
    query = {
        name: value
        for (name, value), plain in zip(
            told.items(), (usual.label, usual.way, usual.place), strict=True
        )
        if value != plain
    }
    if probe.point is not None:
        query["point"] = str(probe.point)
    if probe.typed:
        query["probed"] = "typed"
    pairs = {"list": probe.lists, "class": None if probe.names == usual.names else probe.names}
    for name, both in pairs.items():
        if both is not None and all(len(text) <= LONGEST_TEXT for text in both):
            query |= {f"{name}{number}": text for number, text in enumerate(both, 1)}
    return query


def _probe(query: Mapping[str, str]) -> Probe:
    found = Probe(point=_number(query.get("point")), typed=query.get("probed") == "typed")
    if _COLUMN.match(query.get("label", "")):
        found = replace(found, label=query["label"])
    if _WAY.match(query.get("read", "")):
        found = replace(found, way=query["read"])
    if query.get("place") in PLACES:
        found = replace(found, place=query["place"])
    lists = (query.get("list1", ""), query.get("list2", ""))
    if any(lists) and all(len(text) <= LONGEST_TEXT for text in lists):
        found = replace(found, lists=lists)
    names = (query.get("class1", ""), query.get("class2", ""))
    if any(names) and all(len(text) <= LONGEST_NAME for text in names):
        found = replace(found, names=names)
    return found


def _signed(text: str) -> int | None:
    return -1 if text == "-1" else _number(text)


def _number(text: str | None, pattern: re.Pattern[str] = _NUMBER) -> int | None:
    return int(text) if text is not None and pattern.match(text) else None
