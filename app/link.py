"""The address of a page: a `View` as query parameters, and back.

Whatever stands in an address may have been written by anybody: what makes no sense is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import get_args
from urllib.parse import parse_qsl, quote, unquote, urlencode

from app.clicks import node_of, pinned_of
from app.selection import (
    COMPARED,
    LONGEST_NAME,
    LONGEST_SEARCH,
    LONGEST_STATE,
    LONGEST_TEXT,
    MOST_DOSE,
    MOST_WRITTEN,
    NUMBERS,
    OVER,
    PAGES,
    PLACES,
    SITES,
    SWITCHES,
    Ask,
    Cell,
    Kind,
    Listed,
    Node,
    Probe,
    Source,
    Two,
    View,
    Writing,
)
from app.together import from_text, to_text

_WAY = re.compile(r"[a-z][a-z0-9_]{0,30}\Z")
_FIGURE = re.compile(r"[\w-]{1,80}\Z")
_WORD = re.compile(r"[A-Za-z0-9][\w-]{0,119}\Z")
_COLUMN = re.compile(r"[\w .-]{1,80}\Z")
_SORT = re.compile(r"-?[\w .][\w .-]{0,79}\Z")
_LONGEST_KIND = 200
_MOST_KINDS = 50
_NUMBER = re.compile(r"[0-9]{1,6}\Z")
_STEP = re.compile(r"[0-9]{1,9}\Z")
_DOSE = re.compile(r"-?[0-9]{1,2}(\.[0-9]{1,6})?\Z")


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
        query["node"] = _node_text(view.node)
    if view.figure is not None:
        query["figure"] = view.figure
    for name in ("training", "measure", "step", "asked"):
        value = getattr(view, name)
        if value is not None:
            query[name] = str(value)
    if view.together:
        query["together"] = to_text(view.together)
    query |= dict(view.switches)
    query |= _listed_query(view)
    query |= _circuit_query(view)
    query |= _writing_query(view.writing)
    query |= _probe_query(view.probe)
    query |= _two_to_query(view.two)
    texts = {} if view.ask is None else asdict(view.ask)
    if all(len(text) <= LONGEST_TEXT for text in texts.values()):
        query |= texts
    return query


def from_query(query: Mapping[str, str]) -> View:
    """The inverse of `to_query`; parameters that make no sense are left out, never raised on."""
    source = next((Source(kind, query[kind]) for kind in get_args(Kind) if query.get(kind)), None)
    if source is None and "model" in query:
        source = Source("model", "")  # one that is still to be typed
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
    view = replace(view, node=node_of(_component(query.get("node", ""))))
    view = replace(view, listed=_listed(query), writing=_writing(query))
    if _FIGURE.match(query.get("overview", "")):
        view = replace(view, overview=query["overview"])
    if _WORD.match(query.get("table", "")):
        view = replace(view, table=query["table"])
    if len(query.get("find", "")) <= LONGEST_SEARCH:
        view = replace(view, sought=query.get("find", ""))
    view = replace(view, pinned=pinned_of(map(_component, query.get("pinned", "").split(","))))
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
        group=group if group is not None and 0 < len(group) <= _LONGEST_KIND else None,
    )


def _listed_query(view: View) -> dict[str, str]:
    listed = view.listed
    told = {
        "search": listed.search if len(listed.search) <= LONGEST_SEARCH else "",
        "kinds": ",".join(quote(kind, safe="", errors="replace") for kind in listed.kinds),
        "sort": listed.sort,
        "overview": view.overview,
        "table": view.table,
    }
    return {name: text for name, text in told.items() if text}


def _listed(query: Mapping[str, str]) -> Listed:
    search, kinds = query.get("search", ""), query.get("kinds", "")
    if len(search) > LONGEST_SEARCH:
        search = ""
    names = [unquote(name) for name in kinds.split(",", _MOST_KINDS) if name][:_MOST_KINDS]
    told = dict.fromkeys(name for name in names if 0 < len(name) <= _LONGEST_KIND)
    sort = query.get("sort", "")
    return Listed(search, tuple(told), sort if _SORT.match(sort) else "")


def _circuit_query(view: View) -> dict[str, str]:
    query = {"find": view.sought} if 0 < len(view.sought) <= LONGEST_SEARCH else {}
    if view.pinned:
        query["pinned"] = ",".join(map(_node_text, view.pinned))
    return query


def _node_text(node: Node) -> str:
    return f"{node.way} {node.name} {node.position}"


def _component(text: str) -> dict[str, object]:
    """A component as `node_of` takes it."""
    way, _, rest = text.partition(" ")
    name, _, place = rest.partition(" ")
    return {"way": way, "node": name, "position": _signed(place)}


def _writing_query(writing: Writing | None) -> dict[str, str]:
    if writing is None or max(len(writing.toward), len(writing.away)) > LONGEST_TEXT:
        return {}
    usual = Writing(writing.tokens)
    told = {name: value for name, value in asdict(writing).items() if value != getattr(usual, name)}
    return {"tokens": str(writing.tokens)} | {name: str(value) for name, value in told.items()}


def _writing(query: Mapping[str, str]) -> Writing | None:
    tokens, after = _number(query.get("tokens")), _number(query.get("after"))
    if tokens is None or not 1 <= tokens <= MOST_WRITTEN:
        return None
    found = Writing(tokens, after=after or 0)
    texts = query.get("toward", ""), query.get("away", "")
    if all(len(text) <= LONGEST_TEXT for text in texts):
        found = replace(found, toward=texts[0], away=texts[1])
    dose = query.get("dose", "")
    if _DOSE.match(dose) and abs(float(dose)) <= MOST_DOSE:
        found = replace(found, dose=float(dose))
    return found


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
