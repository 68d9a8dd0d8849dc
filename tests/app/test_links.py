"""A page that is opened from a link stands as the link tells: every control of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from streamlit.testing.v1 import AppTest

from app.link import from_query, state_to_text
from app.text import markup
from experiments.records import RunRecord
from tests.app import material
from tests.app.pages import Open, assert_fine, root_of

pytestmark = pytest.mark.slow

CONTROLS = (
    *("radio", "selectbox", "text_input", "text_area", "number_input", "slider", "select_slider"),
    *("toggle", "checkbox", "button_group", "multiselect", "tab_container", "date_input"),
)
"""Kinds of elements that a reader moves, and that change what the page shows."""

ELSEWHERE = {"source"}
"""Controls that say what the link is of, and not how it is looked at."""

ASK = {"clean": "Tom Cruise's mother is", "corrupt": "Cy Dale's mother is"}
ASK |= {"answer": "Mary", "foil": "Bea"}


@dataclass(frozen=True)
class Link:
    """A link that moves every control of a page away from where it usually stands.

    Attributes:
        query: its parameters, but for what is open.
        stands: by key what each control then stands at.
        drawn: what the drawing of circuits is told.
        open: "run", "trained" (a run that has followed trainings), or "model".
    """

    query: dict[str, str]
    stands: dict[str, Any]
    open: str = "run"
    drawn: dict[str, Any] = field(default_factory=dict)


FACTS = {"page": "examples", "example": "1", "search": "ann", "kinds": "forward,both"}
FACTS |= {"overview": "margins", "site": "mlp_out", "patch-of": "mean", "patch-value": "raw"}
FACTS |= {"lens": "tuned"}
STAND = {"page": "examples", "search": "ann", "groups": ["forward", "both"], "lens": "tuned"}
STAND |= {"overview": "Every fact", "site": "MLP output", "patch-of": "mean", "patch-value": "raw"}
WRITE = {"inside": "writes", "tokens": "3", "toward": "Ann", "away": "Bea", "after": "1"}
WRITE |= {"dose": "-1.5"}
WRITES = {"inside": "What it writes", "write-tokens": 3, "write-toward": "Ann"}
WRITES |= {"write-away": "Bea", "write-after": 1, "write-dose": -1.5}
SIDES = {"a": urlencode({"run": "RUN", "example": "1"}), "b": urlencode({"run": "RUN"} | ASK)}

LINKS = {
    "findings": Link(
        {"page": "study", "figure": "accuracy", "table": "facts"},
        {"page": "study", "gallery": "accuracy", "table": "facts"},
    ),
    "facts": Link(FACTS | WRITE, STAND | WRITES),
    "prompt": Link(
        {"page": "prompt", "inside": "attention", "attention-layer": "1", "attention-head": "1"}
        | {"attention-value": "moved", "lens": "jacobian", "patch-value": "raw", "site": "z"}
        | {"edges": "10"}
        | ASK,
        {"page": "prompt", "inside": "Attention", "attention-layer": 1, "attention-head": 1}
        | {
            "attention-of": "one",
            "attention-value": "moved",
            "lens": "jacobian",
            "patch-value": "raw",
        }
        | {"own-site": "Heads", "circuit": True, "edges": 10}
        | {f"ask-{name}": text for name, text in ASK.items()},
        "model",
    ),
    "one prompt": Link(
        {"page": "prompt", "inside": "heads", "head-score": "attribution", "against": "alone"}
        | {"lens": "tuned"}
        | ASK
        | {"corrupt": ""},
        {"page": "prompt", "inside": "Head scores", "head-score": "attribution"}
        | {"against": "alone", "lens": "tuned"}
        | {f"ask-{name}": text for name, text in (ASK | {"corrupt": ""}).items()},
        "model",
    ),
    "shares": Link(
        {"page": "prompt", "inside": "attribution", "attribution-by": "head", "lens": "tuned"}
        | {"clean": ASK["clean"]},
        {"page": "prompt", "inside": "Attribution", "attribution-by": "head", "lens": "tuned"}
        | {"ask-clean": ASK["clean"], "ask-answer": "", "ask-corrupt": "", "ask-foil": ""},
        "model",
    ),
    "circuit": Link(
        {"page": "circuit", "example": "1", "circuit-of": "one", "edges": "10"}
        | {"circuit-paths": "through", "circuit-heads": "grouped", "circuit-strongest": "7"}
        | {"find": "Ann", "pinned": "forward m1 2,reverse a0.h1 0", "node": "forward a1.h0 1"}
        | {"attention-value": "moved"},
        {"page": "circuit", "example": 1, "circuit-of": "one", "edges": 10}
        | {"attention-value": "moved"},
        drawn={
            "filters": {
                "circuit-paths": "through",
                "circuit-heads": "grouped",
                "circuit-strongest": 7,
                "find": "Ann",
                "pinned": [
                    {"way": "forward", "node": "m1", "position": 2},
                    {"way": "reverse", "node": "a0.h1", "position": 0},
                ],
                "chosen": [{"way": "forward", "node": "a1.h0", "position": 1}],
            }
        },
    ),
    "probes": Link(
        {"page": "probes", "probed": "typed", "site": "mlp_out", "class1": "x", "class2": "y"}
        | {"list1": "a b", "list2": "c d"},
        {"page": "probes", "probed": "typed", "probe-site": "mlp_out", "class-1": "x"}
        | {"class-2": "y", "list-1": "a b", "list-2": "c d", "overview": "Answers read"},
    ),
    "labels": Link(
        {"page": "probes", "label": "split", "read": "reverse", "place": "last"}
        | {"site": "mlp_out", "overview": "retrieval"},
        {"page": "probes", "probed": "examples", "probe-label": "split", "probe-way": "reverse"}
        | {"probe-place": "last", "probe-site": "mlp_out", "overview": "Answers read"},
    ),
    "training": Link(
        {"page": "training", "training": "model", "measure": "asked-rank", "asked": "2"}
        | {"step": "40"},
        {"page": "training", "training": "model", "measure": "asked-rank", "asked": 2},
        "trained",
    ),
    "compare": Link(
        {"page": "compare", "shown": "patching", "asking": "reverse", "site": "z"} | SIDES,
        {"page": "compare", "compare-shown": "patching", "compare-way": "reverse"}
        | {"compare-site": "z", "compare-a": SIDES["a"], "compare-b": SIDES["b"]},
    ),
}


def controls(page: AppTest) -> dict[str, Any]:
    """By key, what every control of a page stands at."""
    found = {}
    for kind in CONTROLS:
        for one in page.get(kind):
            if kind == "tab_container":
                key = one.proto.id.partition("-")[2].split("-", 1)[1]
                found[key] = page.session_state[key]
            elif one.key is not None:
                found[one.key] = one.value
    return found


@pytest.mark.parametrize("name", LINKS)
def test_every_control_stands_as_the_link_tells(
    name: str,
    open_page: Open,
    record: RunRecord,
    model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:
    link = LINKS[name]
    root, what = root_of(record), {"run": f"{record.study}/{record.path.name}"}
    if link.open == "trained":
        root = material.trained_once(tmp_path_factory) / "runs"
        what = {"run": "/".join(next(root.glob("*/*")).parts[-2:])}
    elif link.open == "model":
        root, what = tmp_path, {"model": str(model_folder)}
    run = quote(what.get("run", ""), safe="")
    query = what | {k: text.replace("RUN", run) for k, text in link.query.items()}
    page = open_page(root, query=query)
    assert_fine(page)
    found = controls(page)
    for side in ("compare-a", "compare-b"):
        if side in found:
            found[side] = (state_to_text(found[side]) or "").replace(run, "RUN")
    assert {key: at for key, at in found.items() if key not in ELSEWHERE} == link.stands
    told = [json.loads(one.proto.json) for one in page.get("bidi_component")]
    for name, at in link.drawn.items():
        assert [one[name] for one in told if name in one] == [at]
    # And what is on the screen has that address.
    assert from_query(page.query_params) == from_query(query)


HOSTILE_WORDS = "**b** :smile: $x$ `c` [l](http://x) <img src=x> \u202e"


def choices() -> None:
    """A page of controls whose words come from elsewhere."""
    import streamlit as st

    from app.panels.comparing import side
    from app.screen import switch
    from tests.app.test_links import HOSTILE_WORDS

    side.choice("group", {"a": HOSTILE_WORDS, "b": "plain"}, "a", label="Kind")
    switch.choose("lens", {"logit": HOSTILE_WORDS, "tuned": "plain"}, "Lens")
    opened, place = switch.row_of_tabs("two", {"x": "Same", "y": "Same"}, "y", lambda name: None)
    with place:
        st.text(f"open: {opened}")


def test_words_from_elsewhere_are_no_markdown_and_tabs_of_one_name_are_two() -> None:
    page = AppTest.from_function(choices).run()
    assert not page.exception
    for key in ("compare-group", "lens"):
        first = page.segmented_control(key=key).options[0]
        assert first == markup.plain(HOSTILE_WORDS)
        assert "**b**" not in first
        assert "\u202e" not in first
    assert [tab.label for tab in page.tabs] == ["Same · 1", "Same · 2"]
    assert page.session_state["two"] == "Same · 2"
    assert page.text[0].value == "open: y"
