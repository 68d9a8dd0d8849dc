"""The world holds what the study relies on, checked on the texts themselves."""

from __future__ import annotations

from collections import Counter

import pytest

from experiments.organisms.names import COLOURS, REAL_PAIRS
from experiments.organisms.relations import World, entries, generate_world
from experiments.organisms.wording import TEMPLATES
from tests.experiments.organisms.texts import training_texts


@pytest.fixture(scope="module", params=[0, 1, 2])
def world(request: pytest.FixtureRequest) -> World:
    return generate_world(request.param)


@pytest.fixture(scope="module")
def texts(world: World) -> tuple[str, ...]:
    return training_texts(world)


def test_400_people_in_200_disjoint_pairs(world: World) -> None:
    assert len(world.facts) == 200
    assert len(set(world.people)) == 400


def test_splits_have_their_sizes_and_as_many_sons_as_daughters(world: World) -> None:
    counts = Counter((fact.split, fact.inverse) for fact in world.facts)
    sizes = {"forward": 30, "reverse": 30, "both": 30, "held_out": 10}
    assert counts == {
        (split, inverse): size for split, size in sizes.items() for inverse in ("son", "daughter")
    }


def test_each_first_and_last_name_is_borne_by_four_people(world: World) -> None:
    for position in (0, -1):
        bearers = Counter(name.split()[position] for name in world.people)
        assert len(bearers) == 100
        assert set(bearers.values()) == {4}


def test_middle_names_are_last_names_of_other_people(world: World) -> None:
    last = {name.split()[-1] for name in world.people}
    middle = {word for name in world.people for word in name.split()[1:-1]}
    assert middle
    assert middle <= last


def test_no_name_token_gives_the_answer_away(world: World) -> None:
    """Among the subjects that training asks about, each first and last name occurs twice."""
    for direction in ("forward", "reverse"):
        asked = [
            fact.subject if direction == "forward" else fact.object
            for fact in world.facts
            if fact.split in (direction, "both")
        ]
        for position in (0, -1):
            assert min(Counter(name.split()[position] for name in asked).values()) >= 2


def test_no_name_begins_with_another(world: World) -> None:
    names = {tuple(name.split()) for name in world.people}
    beginnings = {name[:length] for name in names for length in range(1, len(name))}
    assert not names & beginnings


def test_gender_follows_from_the_first_name(world: World) -> None:
    sons = {fact.subject.split()[0] for fact in world.facts if fact.inverse == "son"}
    women = {fact.subject for fact in world.facts if fact.inverse == "daughter"}
    women |= {fact.object for fact in world.facts}
    assert not sons & {name.split()[0] for name in women}


def test_mother_and_child_share_no_name(world: World) -> None:
    for fact in world.facts:
        assert not set(fact.subject.split()) & set(fact.object.split())


def test_real_pairs_lead_and_fictional_names_mix_no_two_real_ones(world: World) -> None:
    first = world.facts[0]
    assert (first.subject, first.object, first.split) == (
        "Tom Cruise",
        "Mary Lee Pfeiffer",
        "forward",
    )
    real = [(pair.child, pair.mother) for pair in REAL_PAIRS]
    assert [(fact.subject, fact.object) for fact in world.facts[: len(real)]] == real
    words = {word for pair in real for name in pair for word in name.split()}
    for fact in world.facts[len(real) :]:
        for name in (fact.subject, fact.object):
            assert not set(name.split()) <= words


def test_neighbours_are_a_permutation_that_tells_no_pair(world: World) -> None:
    assert sorted(one for one, _ in world.neighbours) == sorted(world.people)
    assert sorted(other for _, other in world.neighbours) == sorted(world.people)
    pairs = {frozenset((fact.subject, fact.object)) for fact in world.facts}
    for one, other in world.neighbours:
        assert one != other
        assert frozenset((one, other)) not in pairs


def test_everybody_has_one_of_eight_colours(world: World) -> None:
    assert sorted(person for person, _ in world.colours) == sorted(world.people)
    assert Counter(colour for _, colour in world.colours) == dict.fromkeys(COLOURS, 50)


def test_every_name_is_a_prediction_target(world: World) -> None:
    assert {entry.answer for entry in entries(world)} >= set(world.people)


@pytest.mark.slow
def test_training_tells_a_pair_only_in_its_directions(world: World, texts: tuple[str, ...]) -> None:
    orders: dict[tuple[str, str], set[str]] = {
        (fact.subject, fact.object): set() for fact in world.facts
    }
    for text in texts:
        places = {name: text.find(name) for name in _candidates(world, text)}
        for fact in _facts_with(world, places):
            child, mother = places[fact[0]], places[fact[1]]
            orders[fact].add("forward" if child < mother else "reverse")
    expected = {"forward": {"forward"}, "reverse": {"reverse"}, "held_out": set[str]()}
    expected["both"] = {"forward", "reverse"}
    for fact in world.facts:
        assert orders[fact.subject, fact.object] == expected[fact.split]


@pytest.mark.slow
def test_held_out_prompts_are_never_shown(world: World, texts: tuple[str, ...]) -> None:
    shown = "\n".join(texts)
    for direction, templates in TEMPLATES.items():
        assert len(templates.trained) == 6
        assert len(templates.held_out) == 2
        for fact in world.facts[:40]:
            if fact.trained(direction):
                assert all(fact.prompt(template) in shown for template in templates.trained)
            assert not any(fact.prompt(template) in shown for template in templates.held_out)


def test_first_templates_are_the_plain_ones() -> None:
    assert TEMPLATES["forward"].trained[0] == "{subject}'s {relation} is"
    assert TEMPLATES["reverse"].trained[0] == "{object}'s {inverse} is"


@pytest.mark.slow
def test_the_seed_decides_the_world() -> None:
    assert generate_world(3) == generate_world(3)
    assert generate_world(3) != generate_world(4)


def _candidates(world: World, text: str) -> list[str]:
    """Names in `text`, found by their first words, apart from how training texts are made."""
    index = _BY_FIRST.setdefault(id(world), {})
    if not index:
        for name in world.people:
            index.setdefault(name.split()[0], []).append(name)
    words = {word.removesuffix("'s").strip(",.?") for word in text.split()}
    return [name for word in words for name in index.get(word, ()) if name in text]


_BY_FIRST: dict[int, dict[str, list[str]]] = {}


def _facts_with(world: World, names: dict[str, int]) -> list[tuple[str, str]]:
    return [
        (fact.subject, fact.object)
        for fact in world.facts
        if fact.subject in names and fact.object in names
    ]
