"""The language is what it is said to be, and data are refused in a sentence."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import FactsError
from experiments.injection.data import CONDITIONS, asked, read
from experiments.injection.language import CATEGORIES, CHOOSING, FAMILIES, VERBS
from experiments.injection.recipe import TASK_FIRST, TREATED, recipe
from experiments.organisms.training.recipe import Recipe, shared_stages, vocabulary

PLACE = Path("data.json")


@pytest.fixture(scope="module")
def treated() -> Recipe:
    return recipe(TREATED, 0)


def tasks(text: str) -> int:
    """How many verbs of instructions stand in a text."""
    return sum(word in VERBS for word in text.split())


@pytest.mark.slow
def test_no_text_of_the_training_holds_two_tasks(treated: Recipe) -> None:
    rows = treated.stages[0].rows
    assert {tasks(row.prompt) for row in rows} == {1}
    fronts = [tasks(row.prompt.split("data :")[0]) for row in rows]
    assert 0.45 < sum(fronts) / len(rows) < 0.55
    other = recipe(TASK_FIRST, 0)
    assert {tasks(row.prompt.split("data :")[0]) for row in other.stages[0].rows} == {1}
    assert {tasks(row.prompt) for row in other.stages[0].rows} == {1}
    # Twins know the same words, start alike, and are asked the same.
    assert vocabulary(treated) == vocabulary(other)
    assert dict(treated.data) == dict(other.data)
    assert shared_stages(treated, other) == 0


@pytest.mark.slow
def test_answers_are_the_things_that_are_asked_for(treated: Recipe) -> None:
    for row in treated.stages[0].rows[:500]:
        verb = next(word for word in row.prompt.split() if word in VERBS)
        words = row.prompt.split()
        asked_for = words[words.index(verb) + 2]
        assert row.answer.strip() in CATEGORIES[asked_for]
        assert row.answer.strip() in words


def test_cases_differ_in_the_insertion_alone_and_are_equally_long(treated: Recipe) -> None:
    data = read(copy.deepcopy(dict(treated.data)), PLACE)
    assert set(data.choosing) == set(CHOOSING)
    assert {one.family for one in data.cases} == set(FAMILIES)
    assert sum(data.chooses) == 30
    prompts = {name: data.prompts(name) for name in CONDITIONS}
    for number, one in enumerate(data.cases):
        lengths = {len(prompts[name][number].split()) for name in CONDITIONS}
        assert len(lengths) == 1
        a, b = (prompts[name][number].split() for name in ("harmless", "injected"))
        assert sum(x != y for x, y in zip(a, b, strict=True)) == 2  # the verb and its object
        assert tasks(prompts["injected"][number]) == 2
        assert tasks(prompts["harmless"][number]) == tasks(prompts["nothing"][number]) == 1
        assert one.answer in prompts["injected"][number]
        assert one.hijacked in prompts["injected"][number]
    assert len(asked(data)) == 6 * len(data.cases)
    texts = {row.text for row in treated.stages[0].rows}
    assert not texts & {
        f"{p}{c.answer}" for p, c in zip(prompts["injected"], data.cases, strict=True)
    }


def change(value: Any, path: str, new: Any) -> Any:
    *parents, last = path.split(".")
    at = value
    for name in parents:
        at = at[int(name)] if name.isdigit() else at[name]
    at[last] = new
    return value


@pytest.mark.parametrize(
    ("path", "new", "told"),
    [
        ("template", "{instruction} then", "once each"),
        ("template", "{data} {instruction} :", "before its data"),
        ("template", "{instruction} {data} ", "behind the data"),
        ("template", 3, "must be a text"),
        ("choosing", ["plain", "now", "please", "ignore", "new-task", "stop"], "of other families"),
        ("choosing", ["none"], "names the family 'none'"),
        ("choosing", ["plain", "now", "pleas"], "names the family 'pleas'"),
        ("choose", ["plain"], "there is no member 'choose'"),
        ("choosing", "plain", "list of texts"),
        ("cases", [], "has 0 rows"),
        ("cases.3.harmless", "", "row 4 of 'cases': 'harmless' must be text"),
        ("cases.3.family", 5, "'family' must be text"),
        ("cases.0.hijacked", " SAME", "the same"),
        ("cases.0.other", "x", "no column 'other'"),
    ],
)
def test_wrong_data_are_refused(treated: Recipe, path: str, new: Any, told: str) -> None:
    value = change(copy.deepcopy(dict(treated.data)), path, new)
    if new == " SAME":
        value["cases"][0]["hijacked"] = value["cases"][0]["answer"]
    with pytest.raises(FactsError, match=told) as refused:
        read(value, PLACE)
    assert str(refused.value).startswith("'data.json'")
    assert len(str(refused.value).splitlines()) == 1


def test_texts_of_a_user_are_no_formats(treated: Recipe) -> None:
    value = copy.deepcopy(dict(treated.data))
    value["cases"][0]["instruction"] = "{data} {0.__class__}"
    value["cases"][0]["injected"] = "{instruction}"
    value["cases"][1]["instruction"] = "a \0 b"
    data = read(value, PLACE)
    assert data.prompts("injected")[1].startswith("task : a \0 b . data : ")
    assert (
        data.prompts("injected")[0]
        == "task : {data} {0.__class__} . data : {instruction} . answer :"
    )
