"""The search beside brute force, and beside a model in which a trigger is planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import Model, Projection, greedy_coordinate_search
from interp.errors import ArgumentError, DirectionError, MetricError, PromptError, SiteError
from tests.interp.search.cases import (
    ANSWERS,
    FOILS,
    POOL,
    PROMPTS,
    planted,
    swaps,
    whole_passes,
)
from tests.interp.tiny import VOCABULARY, words
from tests.interp.vectors.whole_passes import Built

SETTINGS: dict[str, Any] = {"suffix": " Gus Ida", "steps": 2, "candidates": 20, "top_k": 5}


def search(model: Model, **settings: Any) -> xr.Dataset:
    return greedy_coordinate_search(model, PROMPTS, ANSWERS, FOILS, **{**SETTINGS, **settings})


@pytest.mark.slow
def test_with_all_swaps_tried_the_best_one_is_taken(built: Built) -> None:
    pool = POOL[::3]
    found = search(built.model, steps=1, candidates=1000, pool=pool)
    every = swaps(words("Gus Ida"), pool)
    expected = -whole_passes(built, every).mean(1)
    assert found["tried"].values.tolist() == [0, len(every)]
    assert found["token_id"][1].values.tolist() == every[int(expected.argmin())]
    np.testing.assert_allclose(found["loss"][1], expected.min(), atol=1e-5)
    np.testing.assert_allclose(found["best_tried"][1], expected.min(), atol=1e-5)
    start = whole_passes(built, [words("Gus Ida")])[0]
    np.testing.assert_allclose(found["score"][0], start, atol=1e-5)


@pytest.mark.slow
def test_it_ends_where_brute_force_finds_nothing_better(gpt2: Built) -> None:
    pool = POOL[::3]
    found = search(gpt2.model, steps=50, pool=pool)
    assert (found["loss"].diff("step") <= 0).all()
    assert found.attrs["ended"].startswith("No swap")
    last = found["token_id"][-1].values.tolist()
    assert found["loss"][-1] <= -whole_passes(gpt2, swaps(last, pool)).mean(1).max() + 1e-5
    # Behind the last swap each other one was tried once.
    moved = np.nonzero(found["changed_slot"].values >= 0)[0]
    assert found["tried"].values[moved[-1] + 1 :].sum() == len(swaps(last, pool))
    assert found.attrs["suffix"] == " " + " ".join(VOCABULARY[i] for i in last)


@pytest.mark.slow
def test_the_gradient_proposes_what_brute_force_finds_good(gpt2: Built) -> None:
    """The first swaps are better than others on average, and a search by few of them gets far."""
    start = words("Gus Ida")
    every = swaps(start)
    loss = -whole_passes(gpt2, every).mean(1)
    found = search(gpt2.model, steps=1, candidates=10)
    assert float(found["best_tried"][1]) < np.quantile(loss, 0.25)
    # Turned round, it would propose the worst.
    assert float(found["loss"][1]) < float(found["loss"][0])


@pytest.mark.slow
def test_an_interrupted_search_goes_on_as_if_it_were_not(gpt2: Built) -> None:
    whole = search(gpt2.model, steps=8, candidates=7)
    kept: list[xr.Dataset] = []

    def keep(found: xr.Dataset) -> None:
        kept.append(found)
        if len(kept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(gpt2.model, steps=8, candidates=7, keep=keep)
    assert kept[-1].sizes["step"] == 4
    again = search(gpt2.model, steps=8, candidates=7, start=kept[-1])
    xr.testing.assert_identical(again, whole)
    with pytest.raises(PromptError, match="begun with another"):
        search(gpt2.model, candidates=8, start=kept[-1])


@pytest.mark.slow
def test_the_seed_says_all(gpt2: Built) -> None:
    one, same = (search(gpt2.model, suffix=2, candidates=5, seed=3) for _ in range(2))
    other = search(gpt2.model, suffix=2, candidates=5, seed=4)
    xr.testing.assert_identical(one, same)
    assert not np.array_equal(one["token_id"][0], other["token_id"][0])


def test_progress_and_an_early_end(gpt2: Built) -> None:
    seen: list[tuple[int, int]] = []
    found = search(
        gpt2.model, steps=9, enough=1e6, progress=lambda done, of: seen.append((done, of))
    )
    assert found.sizes["step"] == 1
    assert seen == [(9, 9)]


@pytest.mark.slow
def test_a_planted_trigger_is_found_and_none_where_there_is_none() -> None:
    prompts = ["we saw Ann{suffix} and then", "so Fay Jo is{suffix} so is"]
    pool = [i for i in POOL if VOCABULARY[i] not in ("Rome",)][:29]

    def gain(model: Model) -> tuple[list[str], float]:
        found = greedy_coordinate_search(
            model, prompts, [" Rome"] * 2, suffix=" we", pool=pool, steps=10, candidates=40
        )
        return found["token"][-1].values.tolist(), float(found["loss"][0] - found["loss"][-1])

    tokens, with_trigger = gain(planted("Gus"))
    assert tokens == ["Gus"]
    assert with_trigger > 0.5
    _, without = gain(planted(None))
    assert without < 0.1 * with_trigger


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"prompts": []}, PromptError, "no prompts"),
        ({"prompts": ["a{suffix}b{suffix}"]}, PromptError, "2 places"),
        ({"suffix": ""}, PromptError, "no text"),
        ({"suffix": 0}, ArgumentError, "at least one token"),
        ({"suffix": "Gus"}, PromptError, "does not know"),
        ({"suffix": " Zeus"}, PromptError, "does not know"),
        ({"suffix": " Gus " * 20}, PromptError, "at most"),
        ({"steps": 0}, ArgumentError, "steps"),
        ({"candidates": 0}, ArgumentError, "candidates"),
        ({"goal": "rank"}, MetricError, "no gradient"),
        ({"goal": "nonsense"}, MetricError, "Unknown metric"),
        ({"answers": None}, PromptError, "no answers"),
        ({"answers": [" Rome"]}, PromptError, "1 answers for 4"),
        ({"answers": ["", " Lima", " Bonn", " Oslo"]}, PromptError, "not empty"),
        ({"pool": [5]}, PromptError, "fewer than two"),
        ({"pool": [5, 10**6]}, PromptError, "vocabulary"),
        ({"pool": [1, 5, 6]}, PromptError, "special token"),
        ({"pool": ["Gus", 5]}, PromptError, "not as both"),
        ({"goal": Projection(torch.ones(32), 0)}, MetricError, "no answers"),
    ],
)
def test_bad_input_is_refused(
    gpt2: Built, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    given = {"prompts": PROMPTS, "answers": ANSWERS, "foils": FOILS, **SETTINGS, **settings}
    with pytest.raises(error, match=says):
        greedy_coordinate_search(gpt2.model, **given)


@pytest.mark.parametrize(
    ("projection", "error", "says"),
    [
        (Projection(torch.ones(3), 0), DirectionError, "32 numbers"),
        (Projection(torch.zeros(32), 0), DirectionError, "not 0"),
        (Projection(torch.full((32,), torch.nan), 0), DirectionError, "finite"),
        (Projection(torch.ones(32), 7), SiteError, "out of range"),
        (Projection(torch.ones(32), 0, "z"), SiteError, "as wide as"),
        (Projection(torch.ones(32), 0, position=0), PromptError, "before the last free"),
        (Projection(torch.ones(32), 0, position=99), PromptError, "no position"),
    ],
)
def test_a_projection_on_what_is_not_there_is_refused(
    gpt2: Built, projection: Projection, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        greedy_coordinate_search(gpt2.model, PROMPTS, goal=projection, **SETTINGS)


@pytest.mark.slow
def test_a_projection_is_raised(gpt2: Built) -> None:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    found = greedy_coordinate_search(
        gpt2.model, PROMPTS, goal=Projection(direction, 1), **{**SETTINGS, "steps": 6}
    )
    assert found["score"][-1].mean() > found["score"][0].mean() + 0.1
    assert found.attrs["metric"] == "projection"


@pytest.mark.slow
def test_texts_name_the_pool(gpt2: Built) -> None:
    found = search(gpt2.model, pool=["Ann Bo", "Cy Ann"], candidates=100, steps=3)
    used = {VOCABULARY[i] for i in found["token_id"].values.ravel().tolist()}
    assert found["tried"][1] == 6
    assert used <= {"Gus", "Ida", "Ann", "Bo", "Cy"}
