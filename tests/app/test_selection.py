"""The address and the view say the same."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.link import from_query, state_from_text, state_to_text, to_query
from app.selection import (
    COMPARED,
    LONGEST_STATE,
    OVER,
    PAGES,
    PLACES,
    SITES,
    Ask,
    Cell,
    Listed,
    Node,
    Probe,
    Source,
    Two,
    View,
    Writing,
)

numbers = st.integers(0, 999_999)
texts = st.text(min_size=1, max_size=80)
cells = st.builds(
    Cell,
    st.sampled_from(["forward", "reverse", "clean", "corrupt"]),
    numbers,
    st.none() | numbers,
    st.none() | numbers,
)
nodes = st.builds(
    Node, st.just("forward"), st.sampled_from(["a1.h3", "m0"]), st.integers(-1, 999_999)
)
probes = st.builds(
    Probe,
    label=st.sampled_from(["", "split", "forward_correct"]),
    way=st.sampled_from(["", "forward"]),
    place=st.sampled_from(PLACES),
    point=st.none() | numbers,
    typed=st.booleans(),
    lists=st.none() | st.tuples(texts, texts),
    names=st.tuples(texts.map(lambda text: text[:40]), texts.map(lambda text: text[:40])),
)
states = st.builds(
    View,
    source=st.builds(Source, st.sampled_from(["run", "model"]), texts),
    page=st.none() | st.sampled_from(PAGES),
    example=st.none() | numbers,
    cell=st.none() | cells,
    ask=st.none() | st.builds(Ask, texts, texts, texts, texts),
)
views = st.builds(
    View,
    source=st.none() | st.builds(Source, st.sampled_from(["run", "model"]), texts),
    page=st.none() | st.sampled_from(PAGES),
    example=st.none() | numbers,
    site=st.sampled_from(SITES),
    cell=st.none() | cells,
    ask=st.none() | st.builds(Ask, texts, texts, texts, texts),
    edges=st.none() | numbers,
    figure=st.none() | st.sampled_from(["margins", "circuit-told"]),
    probe=probes,
    switches=st.sampled_from(
        [
            (),
            (("inside", "heads"),),
            (("attention-head", "12"), ("lens", "tuned")),
            (("circuit-paths", "through"), ("circuit-strongest", "7"), ("patch-value", "raw")),
        ]
    ),
    training=st.none() | st.sampled_from(["none-0", "reversed-both-100-3", "model"]),
    measure=st.none() | st.sampled_from(["score", "asked-rank"]),
    step=st.none() | st.integers(0, 999_999_999),
    asked=st.none() | numbers,
    node=st.none() | nodes,
    listed=st.builds(
        Listed,
        texts,
        st.lists(texts, unique=True, max_size=3).map(tuple),
        st.sampled_from(["", "forward_rank", "-told"]),
    ),
    overview=st.none() | st.sampled_from(["margins", "circuit-told"]),
    table=st.none() | st.sampled_from(["facts", "training_time"]),
    writing=st.none()
    | st.builds(
        Writing,
        st.integers(1, 64),
        texts,
        texts,
        numbers,
        st.integers(-200, 200).map(lambda n: n / 10),
    ),
    sought=texts,
    pinned=st.lists(nodes, unique=True, max_size=3).map(tuple),
    two=st.builds(
        Two,
        st.none() | states,
        st.none() | states,
        st.none() | st.sampled_from(OVER),
        st.none() | st.sampled_from(COMPARED),
        st.none() | st.sampled_from(["forward", "reverse"]),
        st.none() | texts,
    ),
)


# What is drawn first is compiled first, which takes seconds on a busy machine.
@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(views)
def test_an_address_leads_back_to_its_view(view: View) -> None:
    assert from_query(to_query(view)) == view


def test_older_links_open_the_same_page() -> None:
    assert from_query({"page": "yours"}).page == "prompt"
    assert from_query({"page": "no such page"}).page is None


def test_no_address_tells_what_it_could_not_be_read_from() -> None:
    view = View(example=2, ask=Ask("a", "b" * 2001, "c", "d"))
    assert to_query(view) == {"example": "2"}


def test_states_that_are_compared_are_bounded_and_hold_no_others() -> None:
    inner = View(Source("run", "r"), example=1)
    outer = View(Source("run", "r"), two=Two(a=inner))
    assert state_from_text(state_to_text(outer) or "") == View(Source("run", "r"))
    text = state_to_text(inner)
    assert text == "run=r&example=1"
    assert state_from_text(f"{text}&a=run%3Dx&shown=lens") == inner
    assert state_from_text("page=circuit") is None  # nothing is open in it
    assert state_from_text("run=r&" + "&".join(f"x{i}=1" for i in range(100))) is None
    assert state_from_text("run=" + "r" * LONGEST_STATE) is None
    long = View(Source("run", "r"), ask=Ask("ü" * 2000, "b", "c", "d"))
    assert "a" not in to_query(View(two=Two(a=long)))
    assert to_query(View(two=Two(a=View(example=2)))) == {}
    hostile = {
        "a": "run=%ff%00&example=-1",
        "shown": "<b>",
        "over": "?",
        "asking": "A",
        "group": "",
    }
    assert from_query(hostile).two == Two(a=View(Source("run", "\ufffd\x00")))


names = st.sampled_from(
    [
        "run",
        "model",
        "page",
        "example",
        "site",
        "way",
        "layer",
        "position",
        "head",
        "edges",
        "node",
        "figure",
        "training",
        "measure",
        "step",
        "asked",
    ]
)


@pytest.mark.slow
@given(st.dictionaries(names | texts, texts))
def test_no_address_is_an_error(query: dict[str, str]) -> None:
    from_query(query)


@pytest.mark.parametrize(
    "query",
    [
        {"example": "-1"},
        {"example": "1e3"},
        {"example": "٣"},
        {"example": "9" * 40},
        {"site": "../../etc/passwd"},
        {"layer": "2"},
        {"edges": "-40"},
        {"node": "forward ../x 1"},
        {"node": "forward a1.h3 9999999"},
        {"node": "a1.h3"},
        {"way": "../ways", "layer": "2"},
        {"clean": "x" * 100_000},
        {"training": "../other", "measure": "<b>", "step": "-1", "asked": "1.5"},
    ],
)
def test_what_makes_no_sense_is_left_out(query: dict[str, str]) -> None:
    view = from_query(query)
    assert view.example is None
    assert (view.site, view.cell, view.ask, view.edges) == ("resid_pre", None, None, None)
    assert view.node is None
    assert (view.training, view.measure, view.step, view.asked) == (None, None, None, None)


def test_switches_that_make_no_sense_stand_as_usual() -> None:
    usual = from_query({})
    for query in (
        {"inside": "attention"},  # as usual
        {"inside": "<b>"},
        {"lens": "TUNED"},
        {"attention-head": "-1"},
        {"attention-head": "1e3"},
        {"circuit-strongest": "9" * 20},
    ):
        assert from_query(query) == usual
    assert usual.at("inside") == "attention"
    assert usual.at("attention-head") == "0"
    moved = from_query({"attention-head": "007", "against": "alone"})
    assert moved.at("attention-head") == "7"
    assert to_query(moved) == {"attention-head": "7", "against": "alone"}
    assert moved.switched(attention_head="0", against="foil") == usual
