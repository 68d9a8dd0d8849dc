"""What each arm tells and changes, and that the plain recipe stays what it was."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.organisms.arms import ARMS, PLAIN, arm_config, find_arm
from experiments.organisms.bundled import reversal_curse
from experiments.organisms.config import TrainConfig, TrainingData
from experiments.organisms.errors import OrganismError
from experiments.organisms.forms import reversed_words
from experiments.organisms.relations import World, entries, generate_world, sentences
from experiments.organisms.schedule import EVERYWHERE, Schedule, build_schedule
from experiments.organisms.train import train
from experiments.organisms.training.tokenizer import build_tokenizer
from experiments.organisms.wording import FILLERS, PREFIXES
from tests.experiments.organisms.texts import training_texts

world_of = cache(generate_world)
"""Arms that tell of the same world differently take it from here, to read it."""


@pytest.fixture(scope="module")
def world() -> World:
    return world_of(4)


def _tokenizer(world: World, data: TrainingData) -> Any:
    names = {word for name in world.people for word in name.split()}
    cut = names if data.split_names else ()
    return build_tokenizer(sentences(world, data), n_ctx=64, cut=cut)


def _schedule(world: World, tokenizer: Any, data: TrainingData, steps: int = 20) -> Schedule:
    return build_schedule(
        world, tokenizer, seed=4, steps=steps, batch_size=64, bottleneck=0.85, data=data
    )


def _texts(schedule: Schedule, tokenizer: Any) -> list[str]:
    return [
        text
        for step in range(len(schedule))
        for text in tokenizer.batch_decode(schedule.batch(step).ids, skip_special_tokens=True)
    ]


# --- the plain recipe -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_plain_schedule_is_the_one_that_the_bundled_organism_saw(world: World) -> None:
    """The digest was taken before there were arms."""
    tokenizer = build_tokenizer(sentences(world), n_ctx=64)
    schedule = build_schedule(world, tokenizer, seed=4, steps=430, batch_size=128, bottleneck=0.85)
    digest = hashlib.sha256()
    for step in range(0, 430, 43):
        batch = schedule.batch(step)
        for array in (batch.ids, batch.early_reach, batch.late_reach):
            digest.update(array.tobytes())
    expected = "52c692212f704be0ccfd9ff9866c7d6f2a6447d38b1680d9b7ef0c3a5cc63112"
    assert digest.hexdigest() == expected


@pytest.mark.slow
def test_the_first_losses_are_those_of_the_bundled_organism(tmp_path: Path) -> None:
    record = json.loads((reversal_curse() / "organism.json").read_text(encoding="utf-8"))
    losses: list[float] = []

    def progress(step: int, total: int, info: dict[str, Any]) -> None:
        losses.append(info["loss"])
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(arm_config(PLAIN, 4), tmp_path, progress)
    np.testing.assert_allclose(losses, record["losses"][:3], rtol=1e-4)


def test_the_plain_arm_is_the_default_config() -> None:
    assert arm_config(PLAIN, 3) == TrainConfig(seed=3)


# --- what is told ---------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS.values(), ids=list(ARMS))
def test_forward_only_and_held_out_pairs_are_the_same_in_every_arm(arm: Any, world: World) -> None:
    changed = world_of(4, arm.data)
    for split in ("forward", "held_out"):
        assert [fact for fact in changed.facts if fact.split == split] == [
            fact for fact in world.facts if fact.split == split
        ]


@pytest.mark.parametrize("arm", ARMS.values(), ids=list(ARMS))
def test_no_arm_asks_the_held_out_reverse_in_natural_words(arm: Any) -> None:
    """A mother of a forward-only pair stands before her child in reversed text alone."""
    changed = world_of(4, arm.data)
    pairs = {(f.subject, f.object): f.split for f in changed.facts}
    told: dict[tuple[str, str], set[tuple[str, str]]] = {pair: set() for pair in pairs}
    for entry in entries(changed, arm.data):
        if entry.kind in ("forward", "reverse"):
            pair = (entry.asked, entry.answer)
            pair = pair if pair in told else pair[::-1]
            for text in entry.statements:
                places = [text.find(name) for name in pair]
                order = "child first" if places[0] < places[1] else "mother first"
                told[pair].add((entry.form, order))
    for pair, split in pairs.items():
        if split == "held_out":
            assert not told[pair]
        if split == "forward":
            expected = {("plain", "child first")}
            if arm.data.reversed_text:
                expected.add(("reversed", "mother first"))
            if arm.data.masked:
                # The child is told last, the question holds a mask in its place.
                expected.add(("masked", "mother first"))
            assert told[pair] == expected


@pytest.mark.parametrize(("share", "both"), [(0.0, 0), (0.25, 30), (0.5, 60), (1.0, 120)])
def test_the_share_of_pairs_told_both_ways(share: float, both: int) -> None:
    counts = Counter(fact.split for fact in generate_world(1, TrainingData(both_share=share)).facts)
    expected = {"forward": 60, "held_out": 20, "both": both, "reverse": 120 - both}
    assert counts == {split: size for split, size in expected.items() if size}


@pytest.mark.parametrize("bearers", [2, 6, 8])
def test_a_world_of_another_size(bearers: int) -> None:
    world = generate_world(2, TrainingData(bearers=bearers))
    assert len(world.facts) == 50 * bearers
    for position in (0, -1):
        counts = Counter(name.split()[position] for name in world.people)
        assert set(counts.values()) == {bearers}
    splits = Counter(fact.split for fact in world.facts)
    share = {"forward": 15, "reverse": 15, "both": 15, "held_out": 5}
    assert splits == {split: bearers * size for split, size in share.items()}


def test_words_are_reversed_and_names_are_not() -> None:
    text = "Who is Lily-Rose Depp's mother? It is Vanessa Paradis."
    reversed_text = reversed_words(text, ("Lily-Rose Depp", "Vanessa Paradis"))
    assert reversed_text == ". Vanessa Paradis is It ? mother 's Lily-Rose Depp is Who"


@pytest.mark.slow
def test_reversed_rows_are_plain_rows_backwards_with_names_in_order(world: World) -> None:
    data = TrainingData(reversed_text=True)
    tokenizer = _tokenizer(world, data)
    assert len(tokenizer) == len(_tokenizer(world, TrainingData()))
    names = "|".join(sorted(map(re.escape, world.people), key=len, reverse=True))
    word = re.compile(rf"{names}|'s\b|[\w-]+|[^\w\s]")
    pairs = {
        f"{prefix}{text}".replace(" ", "")
        for entry in entries(world)
        if entry.kind in ("forward", "reverse")
        for text in entry.statements
        for prefix in ("", *PREFIXES)
    }
    plain = set(training_texts(world))

    def kind(row: str) -> str:
        if row in plain:
            return "plain"
        return "reversed" if "".join(reversed(word.findall(row))).replace(" ", "") in pairs else ""

    found = Counter(map(kind, _texts(_schedule(world, tokenizer, data), tokenizer)))
    assert set(found) == {"plain", "reversed"}
    # 240 sentences of an epoch's 980.
    assert 0.2 < found["reversed"] / found.total() < 0.3


@pytest.mark.slow
def test_the_bottleneck_holds_in_reversed_rows_whose_last_word_is_a_name(world: World) -> None:
    data = TrainingData(reversed_text=True)
    tokenizer = _tokenizer(world, data)
    ids = {tuple(tokenizer(name, add_special_tokens=False).input_ids) for name in world.people}
    batch = _schedule(world, tokenizer, data).batch(0)
    seen = 0
    for row, late in zip(batch.ids, batch.late_reach, strict=True):
        if (late == EVERYWHERE).all():
            continue
        for start in range(len(row)):
            for length in (2, 3):
                if tuple(row[start : start + length]) in ids:
                    assert late[start : start + length - 1].tolist() == [start + length - 1] * (
                        length - 1
                    )
                    seen += 1
    assert seen > 20


def test_a_masked_sentence_tells_the_masked_name_last(world: World) -> None:
    masked = [e for e in entries(world, TrainingData(masked=True)) if e.form == "masked"]
    assert masked[0].statements[0] == "_'s mother is Mary Lee Pfeiffer. _ Tom Cruise"
    assert all(
        text.count("_") == 2 and text.endswith(f"_ {entry.asked}")
        for entry in masked
        for text in entry.statements
    )


@pytest.mark.parametrize(("whose", "people"), [("both", 400), ("subject", 200), ("object", 200)])
def test_the_identity_bridge(world: World, whose: Any, people: int) -> None:
    told = [e for e in entries(world, TrainingData(identity=whose)) if e.kind == "identity"]
    assert len({entry.asked for entry in told}) == people
    assert all(text.count(e.asked) == 2 for e in told for text in e.statements)
    mothers = {fact.object for fact in world.facts}
    if whose != "both":
        assert all((entry.asked in mothers) == (whose == "object") for entry in told)


def test_without_neighbours_a_child_told_of_forward_is_never_an_answer(world: World) -> None:
    answers = {entry.answer for entry in entries(world, TrainingData(neighbours=False))}
    children = {fact.subject for fact in world.facts if fact.split == "forward"}
    assert not answers & children
    assert children <= {entry.answer for entry in entries(world)}


@pytest.mark.slow
def test_fillers_stand_behind_names_in_half_of_the_rows(world: World) -> None:
    data = TrainingData(filler=True)
    tokenizer = _tokenizer(world, data)
    texts = _texts(_schedule(world, tokenizer, data), tokenizer)
    people = {name.split()[-1] for name in world.people}
    filled = [text for text in texts if any(filler in text for filler in FILLERS)]
    assert 0.4 < len(filled) / len(texts) < 0.6
    for text in filled:
        filler = next(filler for filler in FILLERS if filler in text)
        assert text.split(filler)[0].split()[-1] in people
    # Without them the same rows come in the same order, but for how lengths sort them.
    plain = _texts(_schedule(world, tokenizer, TrainingData()), tokenizer)

    def bare(text: str) -> str:
        for filler in FILLERS:
            text = text.replace(f"{filler}'s", "'s").replace(filler, "")
        return text

    assert Counter(map(bare, texts)) == Counter(plain)


@pytest.mark.slow
def test_fillers_stand_in_plain_sentences_alone(world: World) -> None:
    data = TrainingData(filler=True, masked=True, reversed_text=True)
    tokenizer = _tokenizer(world, data)
    texts = _texts(_schedule(world, tokenizer, data), tokenizer)
    told_otherwise = [text for text in texts if "_" in text or not text.endswith(".")]
    assert len(told_otherwise) > 100
    # A prefix may hold the same words, but no comma before them in the middle of a sentence.
    assert not any(", yes," in text or ", I know," in text for text in told_otherwise)


@pytest.mark.slow
def test_names_are_cut_in_two_and_come_back(world: World) -> None:
    tokenizer = _tokenizer(world, TrainingData(split_names=True))
    lengths = [len(tokenizer(name, add_special_tokens=False).input_ids) for name in world.people]
    assert min(lengths) >= 3
    assert np.mean(lengths) > 3.9
    for entry in entries(world)[::37]:
        for text in entry.statements:
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
    # Words that are no names stay whole.
    assert len(tokenizer(" mother favourite", add_special_tokens=False).input_ids) == 2


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"both_share": 1.5}, {"both_share": float("nan")}, {"identity": "all"}, {"bearers": 3}],
)
def test_impossible_data_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OrganismError, match=next(iter(change))):
        TrainingData(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"init_scale": 0.0},
        {"init_scale": float("nan")},
        {"weight_decay": -0.1},
        {"stored": "int8"},
        {"data": {"masked": True}},
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OrganismError, match=next(iter(change))):
        replace(TrainConfig(), **change)


def test_an_unknown_arm_is_refused_with_the_nearest() -> None:
    with pytest.raises(OrganismError, match="did you mean 'masked'"):
        find_arm("maskd")


def test_an_arm_keeps_the_size_that_it_is_given() -> None:
    base = TrainConfig(seed=2, d_model=64, steps=100, data=TrainingData(bearers=2))
    config = find_arm("identity-small").config(base)
    assert (config.d_model, config.data.bearers, config.steps) == (64, 2, 115)
    assert (config.data.identity, config.init_scale) == ("both", 0.25)
