"""Examples with labels: which are held out together, and what is too little to be probed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

from experiments.errors import StudyError
from experiments.explorer import Examples, Label, Pair, Way
from experiments.labelled import ANSWERED, LEAST, Labelled, labelled, labels_of
from interp import load_model
from interp.errors import PromptError
from interp.model.model import Model


def never(*given: Any) -> Any:
    raise AssertionError("nothing is measured here")


def pair(model: Model, table: pd.DataFrame, row: int, way: Way, how: Mapping[str, Any]) -> Pair:
    return never()


EXAMPLES = Examples(
    one="fact",
    many="facts",
    table="facts",
    key="fact",
    group="split",
    ways=(
        Way("there", "Asked there", "#000", "child"),
        Way("back", "Asked back", "#000", "parent"),
    ),
    columns=(),
    search=(),
    first=lambda table: None,
    heading=lambda row: ("", ""),
    measure=never,
    pair=pair,
    labels=(Label("colour", "Colour"), Label("nothing", "No such column")),
)


def table(n: int = 40) -> pd.DataFrame:
    """Facts of `n` children, two of each parent: of 0 and 1, 2 and 3 …"""
    rows = range(n)
    return pd.DataFrame(
        {
            "fact": rows,
            "child": [f"Child{i} X" for i in rows],
            "parent": [f"PARENT{i // 2} Y" if i % 2 else f"Parent{i // 2} Y" for i in rows],
            "split": ["told"] * n,
            "colour": ["red" if i % 4 < 2 else "blue" for i in rows],
            "there_prompt": [f"Child{i} X's parent is" for i in rows],
            "back_prompt": [f"Parent{i // 2} Y's child is" for i in rows],
            "there_correct": [i % 4 < 2 for i in rows],
            "back_correct": [i % 8 < 2 for i in rows],
        }
    )


def test_what_differs_is_on_offer() -> None:
    assert [label.name for label in labels_of(EXAMPLES, table())] == [
        "there_correct",
        "back_correct",
        ANSWERED,
        "colour",
    ]
    assert [label.name for label in labels_of(EXAMPLES, table(2))] == []


def test_facts_that_share_a_name_in_any_spelling_are_held_out_together() -> None:
    found = labelled(EXAMPLES, table(), "colour", "there", subject=True)
    assert len(found) == 40
    assert found.classes == ("blue", "red")
    assert found.entities == 20
    assert [found.groups[i] == found.groups[i + 1] for i in range(0, 40, 2)] == [True] * 20
    assert found.names[0] == ("child0 x", "parent0 y")
    assert found.words[:2] == ("Child0 X", "Child1 X")
    assert labelled(EXAMPLES, table(), "colour", "back", subject=False).words == ()


def test_ways_that_are_answered_right_make_classes() -> None:
    found = labelled(EXAMPLES, table(80), ANSWERED, "there", subject=False)
    expected = {0: "both", 1: "both", 4: "there", 5: "there"}
    assert list(found.labels) == [expected.get(i % 8, "neither") for i in range(80)]
    assert set(labelled(EXAMPLES, table(), "there_correct", "back", subject=False).labels) == {
        "right",
        "wrong",
    }


def test_classes_of_too_few_entities_are_left_out() -> None:
    facts = table()
    facts.loc[:5, "colour"] = "green"
    facts.loc[6, "colour"] = None
    with pytest.raises(StudyError, match="‘blue’ 9, ‘green’ 3, ‘red’ 8"):
        labelled(EXAMPLES, facts, "colour", "there", subject=False)
    more = table(60)
    more.loc[:5, "colour"] = "green"
    more.loc[6, "colour"] = None
    found = labelled(EXAMPLES, more, "colour", "there", subject=False)
    assert found.left_out == (("green", 3),)
    assert len(found) == 53
    assert len(set(found.groups)) == 27


def test_what_cannot_be_probed_is_refused_in_a_sentence() -> None:
    with pytest.raises(StudyError, match=f"two classes of at least {LEAST} different facts"):
        labelled(EXAMPLES, table(12), "colour", "there", subject=False)
    with pytest.raises(StudyError, match="here there are none"):
        labelled(EXAMPLES, table(), "no such", "there", subject=False)
    with pytest.raises(StudyError, match="Unknown way of asking 'sideways'; choose one of there"):
        labelled(EXAMPLES, table(), "colour", "sideways", subject=False)
    with pytest.raises(StudyError, match="and 34 more"):
        labelled(EXAMPLES, table().assign(colour=list(range(40))), "colour", "there", subject=False)
    many = table(800).assign(colour=[f"c{i // 2 % 13}" for i in range(800)])
    with pytest.raises(StudyError, match="There are 13 classes"):
        labelled(EXAMPLES, many, "colour", "there", subject=False)


@pytest.mark.slow
def test_the_token_that_is_read_ends_the_words_or_the_prompt() -> None:
    model = load_model("reversal-curse")
    prompts = ("Tom Cruise's mother is", "As for Liza Minnelli")
    labels, names = ("a", "b"), ((), ())
    for words, ends in ((("Tom", "Liza Minnelli"), ("Tom", "Minnelli")), ((), ("is", "Minnelli"))):
        found = Labelled(prompts, labels, (0, 1), names, words)
        tokens = [model.token_strings(model.token_ids(prompt)) for prompt in prompts]
        read = [row[place].strip() for row, place in zip(tokens, found.places(model), strict=True)]
        assert tuple(read) == ends
    with pytest.raises(PromptError, match="is not in the prompt"):
        Labelled(prompts, labels, (0, 1), names, ("Ann", "Bea")).places(model)
