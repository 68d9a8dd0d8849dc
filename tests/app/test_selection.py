"""The address and the view say the same, and clicks are read whatever Streamlit makes of them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.selection import (
    PAGES,
    PLACES,
    SITES,
    Ask,
    Cell,
    Node,
    Probe,
    Source,
    View,
    clicked,
    clicked_one,
    column_of,
    from_query,
    picked,
    to_query,
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
    node=st.none()
    | st.builds(
        Node, st.just("forward"), st.sampled_from(["a1.h3", "m0"]), st.integers(-1, 999_999)
    ),
)


# What is drawn first is compiled first, which takes seconds on a busy machine.
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
    ]
)


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
    ],
)
def test_what_makes_no_sense_is_left_out(query: dict[str, str]) -> None:
    view = from_query(query)
    assert view.example is None
    assert (view.site, view.cell, view.ask, view.edges) == ("resid_pre", None, None, None)
    assert view.node is None


def event(data: object) -> dict[str, object]:
    return {"selection": {"points": [{"customdata": data}], "point_indices": [0]}}


def test_a_click_tells_figure_layer_and_column() -> None:
    assert clicked({"figure": "lens-forward", "cell": [2, 5]}) == ("lens-forward", (2, 5))
    assert clicked({"figure": "lens-forward", "cell": [2.0, 5.0]}) == ("lens-forward", (2, 5))


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        *("ab", [], {}, {"figure": "x"}, {"cell": [1, 2]}, {"figure": 3, "cell": [1, 2]}),
        *({"figure": "x", "cell": cell} for cell in ([1], [1, 2, 3], ["1", 2], [-1, 2], "12")),
        *({"figure": "x", "cell": [1, n]} for n in (float("nan"), float("inf"), 1e300, None, True)),
    ],
)
def test_a_click_that_makes_no_sense_selects_nothing(nonsense: object) -> None:
    assert clicked(nonsense) is None


def test_a_point_tells_its_fact() -> None:
    assert clicked_one(event([7])) == 7
    assert clicked_one(event({"0": 7})) == 7
    assert clicked_one(event([7, 1])) is None
    assert clicked_one({}) is None


def test_a_row_tells_the_fact_that_stands_there_now() -> None:
    assert picked({"selection": {"rows": [1]}}, [4, 9]) == 9
    assert picked({"selection": {"rows": []}}, [4, 9]) is None
    # A row number from before the search was changed.
    assert picked({"selection": {"rows": [5]}}, [4, 9]) is None


def test_a_token_is_found_on_an_axis_that_lacks_some() -> None:
    labels = ["start -1", "subject -1", "end -1"]
    slots = {"start -1": 0, "subject -1": 2, "end -1": 3}
    assert column_of(labels, slots, 2) == 1
    assert column_of(labels, slots, 1) is None
