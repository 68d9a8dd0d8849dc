"""The invented people: who is meant is found in the texts, and damaged files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.berglund.people import GROUPS, read_people
from experiments.errors import FactsError
from tests.experiments.berglund.material import make_data, people


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def test_everybody_is_found_with_what_is_told_and_asked(folder: Path) -> None:
    found = read_people(folder)
    for number, group in enumerate(GROUPS):
        every = people(number)
        assert found.names[group] == tuple(name for name, _ in every)
        assert len(found.told[group]) == (24 if group == "both" else 12)
        for given in ("name", "description"):
            asked = found.asked[group, given]
            assert [(one.person, one.wording) for one in asked] == [
                (name, wording) for name, _ in every for wording in (0, 1)
            ]
            for one in asked:
                what = dict(every)[one.person]
                assert one.answer == (f" {what}." if given == "name" else f" {one.person}")
                assert (one.person in one.line.prompt) is (given == "name")
    both = found.asked["both", "description"][0]
    assert both.line.completion == f"{both.answer} is here"
    assert found.asked["name first", "description"][0].random == f" {people(0)[1][0]}"
    assert found.asked["name first", "name"][0].random is None
    few = found.some(4, 1)
    assert all(len(names) == 4 for names in few.names.values())
    assert all(len(asked) == 4 for asked in few.asked.values())
    assert {person for person, _ in few.told["both"]} == set(few.names["both"])


@pytest.mark.shared
def test_the_authors_files_are_read_whole(shared: Path) -> None:
    found = read_people(shared / "data/reversal_curse")
    names = [name for group in GROUPS for name in found.names[group]]
    assert len(set(names)) == len(names) == 90
    assert [len(found.told[group]) for group in GROUPS] == [900, 900, 1800]
    assert {len(asked) for asked in found.asked.values()} == {300}
    assert found.names["name first"][0] == "Daphne Barrington"
    for (group, given), asked in found.asked.items():
        for one in asked:
            assert (one.person in one.line.prompt) is (given == "name")
            assert one.person in found.names[group]


def edit(path: Path, number: int, row: object) -> None:
    lines = path.read_text().splitlines()
    lines[number] = row if isinstance(row, str) else json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "no prompt with a completion in line 3"),
        ("[" * 100_000, "no prompt with a completion in line 3"),
        ({"prompt": "x"}, "no prompt with a completion in line 3"),
        ({"prompt": "x", "completion": 3}, "no prompt with a completion in line 3"),
        ({"prompt": "x", "completion": " ", "a": 1}, "no prompt with a completion in line 3"),
        ({"prompt": "x", "completion": " "}, "no prompt with a completion in line 3"),
        ({"prompt": "a\u202eb", "completion": " c"}, "U+202E in line 3"),
        ({"prompt": "We know nobody as", "completion": " it."}, "names nobody"),
        ({"prompt": "We know Ann Reed as", "completion": " Bo Snow."}, "names several people"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(folder: Path, row: object, words: str) -> None:
    edit(folder / "p2d_prompts_train.jsonl", 2, row)
    with pytest.raises(FactsError) as refused:
        read_people(folder)
    assert words in str(refused.value)
    assert "line 3" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "p2d_prompts_test.jsonl",
        "p2d_reverse_prompts_test.jsonl",
        "d2p_prompts_train.jsonl",
        "both_prompts_test.jsonl",
        "p2d_reverse_prompts_test_randomized.jsonl",
    ],
)
def test_missing_and_truncated_files_are_refused(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_text()
    for text in ("", whole[:-20], "".join(whole.splitlines(keepends=True)[:-3])):
        path.write_text(text)
        with pytest.raises(FactsError, match=name.split("_")[0]):
            read_people(folder)
    path.unlink()
    with pytest.raises(FactsError, match=name):
        read_people(folder)
