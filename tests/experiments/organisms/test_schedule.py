"""Batches hold true statements, in an order fixed by the seed, with the name bottleneck."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from experiments.organisms.config import TrainConfig
from experiments.organisms.model import logits
from experiments.organisms.relations import (
    World,
    entries,
    generate_world,
    sentences,
)
from experiments.organisms.schedule import EVERYWHERE, Batch, Schedule, build_schedule
from experiments.organisms.training.network import build_model
from experiments.organisms.training.tokenizer import build_tokenizer
from tests.experiments.organisms.texts import training_texts


@pytest.fixture(scope="module")
def world() -> World:
    return generate_world(0)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Any:
    return build_tokenizer(sentences(world), n_ctx=64)


def _schedule(world: World, tokenizer: Any, bottleneck: float, seed: int = 0) -> Schedule:
    return build_schedule(
        world, tokenizer, seed=seed, steps=20, batch_size=50, bottleneck=bottleneck
    )


@pytest.fixture(scope="module")
def narrowed(world: World, tokenizer: Any) -> Schedule:
    return _schedule(world, tokenizer, bottleneck=1.0)


def _texts(schedule: Schedule, tokenizer: Any) -> list[str]:
    return [
        text
        for step in range(len(schedule))
        for text in tokenizer.batch_decode(schedule.batch(step).ids, skip_special_tokens=True)
    ]


@pytest.mark.slow
def test_every_row_is_a_training_text(world: World, tokenizer: Any, narrowed: Schedule) -> None:
    texts = _texts(narrowed, tokenizer)
    assert len(texts) == 1000
    assert set(texts) <= set(training_texts(world))


@pytest.mark.slow
def test_an_epoch_tells_each_relation_once_and_some_colours(world: World, tokenizer: Any) -> None:
    told = entries(world)
    index = {text: i for i, entry in enumerate(told) for text in entry.statements}
    # 240 mother/child statements, 400 neighbours and a quarter of 400 colours.
    epoch = build_schedule(world, tokenizer, seed=0, steps=37, batch_size=20, bottleneck=0.0)
    shown = Counter(
        next(index[text[start:]] for start in range(len(text)) if text[start:] in index)
        for text in _texts(epoch, tokenizer)
    )
    assert sum(shown.values()) == 740
    assert set(shown.values()) == {1}
    assert Counter(told[i].kind for i in shown) == {
        "forward": 120,
        "reverse": 120,
        "neighbour": 400,
        "colour": 100,
    }


@pytest.mark.slow
def test_the_seed_fixes_the_order(world: World, tokenizer: Any, narrowed: Schedule) -> None:
    again = _schedule(world, tokenizer, bottleneck=1.0)
    other = _schedule(world, tokenizer, bottleneck=1.0, seed=1)
    assert np.array_equal(again.batch(7).ids, narrowed.batch(7).ids)
    assert _texts(other, tokenizer) != _texts(narrowed, tokenizer)


@pytest.mark.slow
def test_names_are_read_through_their_last_token(
    world: World, tokenizer: Any, narrowed: Schedule
) -> None:
    people = {tuple(name.split()) for name in world.people}
    for step in range(3):
        batch = narrowed.batch(step)
        for row in range(len(batch.ids)):
            words = tokenizer.convert_ids_to_tokens(batch.ids[row].tolist())
            early = [EVERYWHERE] * len(words)
            late = [EVERYWHERE] * len(words)
            for start in range(len(words)):
                for length in (2, 3):
                    if tuple(words[start : start + length]) in people:
                        end = start + length - 1
                        early[start : end + 1] = [end] * length
                        late[start:end] = [end] * (length - 1)
            assert batch.early_reach[row].tolist() == early
            assert batch.late_reach[row].tolist() == late


@pytest.mark.slow
def test_without_bottleneck_everything_may_be_read(world: World, tokenizer: Any) -> None:
    batch = _schedule(world, tokenizer, bottleneck=0.0).batch(0)
    assert (batch.early_reach == EVERYWHERE).all()
    assert (batch.late_reach == EVERYWHERE).all()


@pytest.mark.slow
def test_the_share_of_rows_with_a_bottleneck(world: World, tokenizer: Any) -> None:
    schedule = _schedule(world, tokenizer, bottleneck=0.5)
    rows = [
        bool((reach != EVERYWHERE).any())
        for step in range(len(schedule))
        for reach in schedule.batch(step).late_reach
    ]
    assert 0.42 < np.mean(rows) < 0.58


@pytest.mark.parametrize(
    ("bottleneck_layers", "hidden"),
    # Tokens of "<bos> Tom Cruise's mother is" that the last position does not see in one layer.
    [(0, {1}), (1, {1, 2})],
)
def test_the_model_does_not_see_what_the_bottleneck_hides(
    tokenizer: Any, bottleneck_layers: int, hidden: set[int]
) -> None:
    config = TrainConfig(n_layers=1, n_heads=2, d_model=16, d_mlp=32)
    model = build_model(config, len(tokenizer))
    ids = np.array([tokenizer("Tom Cruise's mother is").input_ids])
    end = len(ids[0]) - 1

    def last_logits(ids: np.ndarray[Any, Any]) -> torch.Tensor:
        reach = np.full_like(ids, EVERYWHERE)
        early, late = reach.copy(), reach.copy()
        early[0, 1:3] = 2
        late[0, 1] = 2
        with torch.no_grad():
            return logits(model, Batch(ids, early, late), bottleneck_layers)[0, end]

    before = last_logits(ids)
    unseen = set()
    for position in range(1, end):
        changed = ids.copy()
        changed[0, position] = tokenizer.convert_tokens_to_ids("Pfeiffer")
        if torch.equal(last_logits(changed), before):
            unseen.add(position)
    assert unseen == hidden


def test_weights_come_from_the_seed_alone() -> None:
    config = TrainConfig(n_layers=1, n_heads=2, d_model=16, d_mlp=32)
    state = torch.random.get_rng_state()
    first = build_model(config, 50).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    second = build_model(config, 50).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
