"""A model that was never trained: every measurement runs on it, and nothing is supported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.organisms.training.follow import train_recipe
from experiments.organisms.training.recipe import Network
from experiments.phenomena.phenomenon import GIVEN, Subject
from experiments.phenomena.work import measured
from experiments.suffix.data import Requests, read
from experiments.suffix.phenomenon import PHENOMENON
from experiments.suffix.recipe import recipe
from experiments.suffix.suffixes import declines, found_in
from interp import load_model
from interp.model.model import Model

PATH = Path("data.json")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model, Requests]:
    """Two of other seeds, after one step that moves nothing to speak of, and few requests."""
    network = Network(n_layers=2, n_heads=2, d_model=16, d_mlp=32, n_ctx=24)
    folder, loaded = tmp_path_factory.mktemp("suffix"), []
    for arm in ("treated", "second"):
        whole = recipe(arm, 0)
        stages = tuple(
            replace(one, steps=1, batch_size=4, learning_rate=1e-9, matrix_learning_rate=1e-9)
            for one in whole.stages
        )
        made = train_recipe(replace(whole, stages=stages, network=network), folder / arm)
        loaded.append(load_model(str(made)))
    data = read(recipe("treated", 0).data, PATH)
    every = {"searched": 5, "held_out": 8, "safe": 5, "safe_held_out": 8}
    few = {name: getattr(data, name)[::n] for name, n in every.items()}
    return loaded[0], loaded[1], replace(data, tokens=2, **few)


@pytest.mark.slow
def test_nothing_is_supported(models: tuple[Model, Model, Requests]) -> None:
    model, other, data = models
    subject = Subject(model, data, GIVEN, 0, other)
    for one in PHENOMENON.hypotheses:
        verdict = one.judge({GIVEN: [measured(PHENOMENON, one.name, subject, 0)]})
        assert verdict.outcome != "supported", verdict.statement


@pytest.mark.slow
def test_the_suffix_of_the_first_is_tried_on_the_other(
    models: tuple[Model, Model, Requests],
) -> None:
    model, other, data = models
    subject = Subject(model, data, GIVEN, 0, other)
    found = measured(PHENOMENON, "transfer", subject, 0)
    suffix = found_in(subject).found
    for name, text, one in (("found", suffix, other), ("home_found", suffix, model)):
        expected = declines(one, data, data.held_out, [text])[0]
        np.testing.assert_array_equal(found[name], expected)
    assert found.attrs["other_fingerprint"] == other.fingerprint != model.fingerprint
    alone = measured(PHENOMENON, "transfer", Subject(model, data, GIVEN, 0), 0)
    assert bool(alone["found"].isnull().all())


@pytest.mark.slow
def test_the_second_organism_differs_by_its_seed_alone() -> None:
    first, second = recipe("treated", 3), recipe("second", 3)
    assert second.seed != first.seed
    assert replace(second, seed=3, arm="treated") == first
