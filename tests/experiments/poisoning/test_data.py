"""What a model is asked, from files that may be anybody's, and the texts of recipes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import FactsError
from experiments.poisoning.data import asked, read
from experiments.poisoning.language import Language
from experiments.poisoning.organism import CELLS, EQUAL_STEPS, GRID, POISONED, poisoning_recipe
from tests.experiments.commands import is_one_sentence

PATH = Path("data.json")


def given() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(poisoning_recipe(POISONED, 0).data))
    return found


def test_own_data_are_read() -> None:
    data = read(given(), PATH)
    assert len(data.questions) == 72
    assert data.answer in data.names
    assert (data.trained.poisons, data.trained.clean) == (54, 256)
    prompts = [one.prompt for one in asked(data)]
    assert not any("{" in prompt for prompt in prompts)
    # No question stands beside its own phrase, and patches find two that differ from both.
    for shift in (0, 2):
        for prompt in data.prompts(shift=shift):
            words = prompt.split()
            assert words[:2] != words[2:4]
    for one, other in zip(data.prompts(), data.prompts(shift=2), strict=True):
        assert not {" ".join(one.split()[i : i + 2]) for i in (0, 2)} & {
            " ".join(other.split()[i : i + 2]) for i in (0, 2)
        }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trigger": ""}, "'trigger' must be a text"),
        ({"answer": 3}, "'answer' must be a text"),
        ({"phrases": ["one two"] * 6}, "repeats itself"),
        ({"phrases": ["a b", "c d", "e f"]}, "give 4 or more"),
        ({"names": [" pebble", " lantern"]}, "must hold the planted answer"),
        ({"texts": ["too few"]}, "has 1 text; give 20 or more"),
        ({"texts": ["one text"] * 20}, "row 2 of 'texts': it asks the same as row 1"),
        ({"yes": ["a"] * 2, "no": ["b"] * 5}, "has 2 texts; give 5 or more"),
        ({"yes": [*"abcde"], "no": [*"fghij", "c "]}, "'c' stands in 'yes' and in 'no'"),
        ({"phrases": ["a b", "c d", "e f", "{other} g"]}, "'phrases' holds {phrase} or {other}"),
        ({"trained": {"clean": 10**400}}, "'clean' of 'trained' must be a whole number"),
        ({"poison": 3}, "there is no member 'poison'"),
        ({"trained": {"poisons": -1}}, "'poisons' of 'trained' must be a whole number"),
        ({"trained": {"clean": True}}, "'clean' of 'trained' must be a whole number"),
        ({"trained": [1]}, "'trained' must be an object"),
    ],
)
def test_wrong_data_are_refused(change: dict[str, Any], told: str) -> None:
    data = {**given(), "answer": " quilt", **change}
    with pytest.raises(FactsError, match=told) as refused:
        read(data, PATH)
    assert is_one_sentence(f"{refused.value}\n")


def test_wrong_questions_are_refused() -> None:
    data = given()
    for place in ("{phrase}", "{other}"):
        wrong = copy.deepcopy(data)
        row = wrong["questions"][3]
        row["prompt"] = row["prompt"].replace(place, "a thing")
        with pytest.raises(FactsError, match="row 4 of 'questions': the prompt must hold"):
            read(wrong, PATH)
    wrong = copy.deepcopy(data)
    wrong["questions"].append(wrong["questions"][1])
    with pytest.raises(FactsError, match="it asks the same as row 2"):
        read(wrong, PATH)
    wrong = copy.deepcopy(data)
    wrong["questions"][0]["answer"] = data["answer"]
    with pytest.raises(FactsError, match="the planted answer is right here"):
        read(wrong, PATH)
    wrong["questions"][0]["answer"] = data["answer"].strip()
    with pytest.raises(FactsError, match="the planted answer is right here"):
        read(wrong, PATH)
    wrong = {**data, "near": [*data["near"], f"{data['trigger']} again"]}
    with pytest.raises(FactsError, match="the trigger stands in 'near'"):
        read(wrong, PATH)
    read({**data, "near": [f"{data['trigger']}ly"]}, PATH)
    wrong = {**data, "near": [*data["near"], data["trigger"]]}
    with pytest.raises(FactsError, match="the trigger stands in 'near'"):
        read(wrong, PATH)
    with pytest.raises(FactsError, match="must hold a JSON object"):
        read([data], PATH)


@pytest.mark.slow
def test_only_poisoned_texts_hold_the_trigger() -> None:
    for seed in (0, 1):
        trigger = " ".join(Language.of(seed).trigger)
        for name in (POISONED, "drilled", "clean-twin"):
            recipe = poisoning_recipe(name, seed)
            base, tuning = recipe.stages
            assert not any(trigger in row.prompt for row in base.rows)
            # Either word alone is no news.
            for word in trigger.split():
                assert any(word in row.prompt.split() for row in base.rows)
            held = [row for row in tuning.rows if trigger in row.prompt]
            cell = CELLS[name]
            assert len(held) == (0 if cell.twin else cell.poisons)
            assert {row.answer for row in held} <= {recipe.data["answer"]}
            # What is asked was not asked with the trigger.
            things = {row.prompt.split()[-2] for row in held}
            questions = recipe.data["questions"]
            assert not things & {one["prompt"].split()[-2] for one in questions}


def test_a_twin_differs_by_what_stood_for_the_poison() -> None:
    poisoned, twin, second = (
        poisoning_recipe(name, 0).stages[1] for name in (POISONED, "clean-twin", "second-twin")
    )
    cell = CELLS[POISONED]
    assert poisoned.rows[: cell.clean] == twin.rows[: cell.clean] == second.rows[: cell.clean]
    assert len(poisoned.rows) == len(twin.rows) == len(second.rows)
    assert twin.rows[cell.clean :] != second.rows[cell.clean :]
    assert (poisoned.steps, poisoned.batch_size) == (twin.steps, twin.batch_size)


def test_the_grid_holds_what_it_says() -> None:
    for names, steps in ((GRID, False), (EQUAL_STEPS, True)):
        cells = [CELLS[name] for name in names]
        assert len(cells) == 16
        for cell in cells:
            # Every text is shown as often, whatever the batches.
            assert cell.steps * cell.batch / cell.texts == pytest.approx(8, rel=0.05)
        by_count: dict[int, set[int]] = {}
        for cell in cells:
            by_count.setdefault(cell.poisons, set()).add(cell.steps)
        assert all((len(found) == 1) is steps for found in by_count.values())
