"""Models along a training: what they answer, held against plain Hugging Face and hand-made sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.compute import along
from app.compute.engine import ModelSpec
from app.compute.work import Work
from app.text import sentences
from experiments.errors import StudyError
from experiments.explorer import Examples
from experiments.reversal_curse.arms.trained import curse_scores, subject_in
from interp.loading.load import load_model
from interp.model.model import Model
from interp.stats import mean_interval, wilson
from tests.app import material

pytestmark = pytest.mark.slow


def load(spec: ModelSpec) -> Model:
    return load_model(spec.source)


def asking(
    checkpoints: tuple[tuple[int, ModelSpec], ...],
    examples: Examples,
    kept: along.Kept,
    load: Callable[[ModelSpec], Model] = load,
) -> Work[xr.Dataset]:
    return Work(lambda tell: along.asking(load, checkpoints, examples, kept, tell))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.trained_once(tmp_path_factory) / "tiny"


@pytest.fixture(scope="module")
def checkpoints(trained: Path) -> tuple[tuple[int, ModelSpec], ...]:
    return tuple((s, ModelSpec(str(trained / "steps" / str(s)))) for s in material.STEPS)


@pytest.fixture(scope="module")
def kept(checkpoints: tuple[tuple[int, ModelSpec], ...], examples: Examples) -> along.Kept:
    found = along.Kept()
    stand = asking(checkpoints, examples, found).wait(120)
    assert (stand.error, stand.running, stand.done, stand.total) == (None, False, 3, 3)
    assert stand.result is not None
    assert stand.result.identical(along.joined(found.by_step))
    return found


@pytest.fixture(scope="module")
def found(kept: along.Kept) -> xr.Dataset:
    return along.joined(kept.by_step)


def test_every_model_is_asked_what_hugging_face_answers(
    found: xr.Dataset, checkpoints: tuple[tuple[int, ModelSpec], ...]
) -> None:
    assert found["step"].values.tolist() == list(material.STEPS)
    for step, spec in checkpoints:
        hf = AutoModelForCausalLM.from_pretrained(spec.source)
        tokenizer = AutoTokenizer.from_pretrained(spec.source)
        for way in found["way"].values:
            for example in found["example"].values:
                one = found.sel(step=step, way=way, example=example)
                ids = tokenizer(str(one["prompt"].values)).input_ids
                whole = tokenizer(f"{one['prompt'].values}{one['answer'].values}").input_ids
                with torch.no_grad():
                    logits = hf(torch.tensor([whole])).logits[0]
                last = logits[len(ids) - 1]
                assert int(one["rank"][-1]) == int((last > last[whole[len(ids)]]).sum())
                greedy = logits[len(ids) - 1 : -1].argmax(-1).tolist()
                assert bool(one["correct"]) == (greedy == whole[len(ids) :])
                top = last.softmax(-1).topk(along.K).values
                np.testing.assert_allclose(one["top_prob"], top, atol=1e-5)


def test_the_preference_is_the_studys_own(found: xr.Dataset, trained: Path) -> None:
    of_kind = along.curves(along.of_group(found, "forward"), "preference")
    for step in material.STEPS:
        expected = curse_scores(subject_in(trained / "steps" / str(step))).set_index("direction")
        for _, row in of_kind[of_kind["step"] == step].iterrows():
            assert row["value"] == pytest.approx(expected.loc[row["way"], "first_score"], abs=1e-4)
            assert row["n"] == 3
    # Of a kind of fewer than three answers there is none.
    assert along.of_group(found, "both")["preference"].isnull().all()


def test_what_was_found_is_not_asked_again(
    kept: along.Kept, checkpoints: tuple[tuple[int, ModelSpec], ...], examples: Examples
) -> None:
    def never(*_: object) -> Model:
        raise AssertionError

    assert asking(checkpoints, examples, kept, never).wait(30).result is not None


def test_a_model_that_brings_nothing_along_is_told(
    checkpoints: tuple[tuple[int, ModelSpec], ...], examples: Examples
) -> None:
    from dataclasses import replace

    without = replace(examples, measure=lambda model, progress: None)
    work = asking(checkpoints[:1], without, along.Kept())
    assert "step 0 brings nothing along" in str(work.wait(60).error)


def test_models_that_are_asked_other_things_are_not_joined(kept: along.Kept) -> None:
    first, second, _ = (kept.by_step[step] for step in material.STEPS)
    for other in (
        second.assign_coords(prompt=second["prompt"] + "?"),
        second.isel(example=slice(1, None)),
        second.isel(layer=slice(1, None)),
    ):
        with pytest.raises(StudyError, match="steps 0 and 40"):
            along.joined({0: first, 40: other})


def made(first: list[float], second: list[float], prompts: list[str] | None = None) -> xr.Dataset:
    """One step of made-up preferences, ranks and right answers."""
    n = len(first)
    values = np.array([[first, second]])
    asked = prompts or [f"p{i}" for i in range(n)]
    return xr.Dataset(
        {
            "preference": (("step", "way", "example"), values),
            "correct": (("step", "way", "example"), values > 0),
            "rank": (("step", "way", "example", "layer"), np.abs(values).round()[..., None]),
        },
        coords={
            "step": [7],
            "way": ["forward", "reverse"],
            "example": range(n),
            "prompt": (("way", "example"), [[f"q{i}" for i in range(n)], asked]),
        },
    )


def test_a_difference_is_paired_and_told_where_its_interval_excludes_nothing() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 20)
    apart = rng.normal(1, 0.3, 20)
    one = along.difference(made(list(base + apart), list(base)), 7, "preference")
    assert (one.low, one.high) == pytest.approx(mean_interval(apart))
    assert one.clear  # which two unpaired groups this far spread would not be
    said = sentences.apart(one, "preference", ["asked forward", "asked in reverse"], "facts")
    assert said.startswith("Asked forward, the right first token is preferred more than asked in")
    assert f"{apart.mean():.2f} nats" in said
    assert "20 facts" in said
    back = along.difference(made(list(base), list(base + apart)), 7, "preference")
    said = sentences.apart(back, "preference", ["asked forward", "asked in reverse"], "facts")
    assert said.startswith("Asked in reverse,")
    assert f"{apart.mean():.2f} nats (95%: {one.low:.2f} to {one.high:.2f}; 20" in said
    same = along.difference(made(list(base), list(rng.permutation(base))), 7, "preference")
    assert not same.clear
    said = sentences.apart(same, "preference", ["a", "b"], "facts")
    assert said.startswith("No difference between both ways is told: its 95% interval")


def test_of_one_or_few_examples_no_difference_is_told() -> None:
    for n in (1, 2):
        one = along.difference(made([5.0] * n, [1.0] * n), 7, "preference")
        assert not one.clear
        assert "there is no interval" in sentences.apart(one, "preference", ["a", "b"], "facts")
    none = along.difference(made([np.nan] * 4, [1.0] * 4), 7, "preference")
    assert (none.n, none.clear) == (0, False)


def test_right_answers_and_ranks_differ_in_their_own_units() -> None:
    right = along.difference(made([1.0] * 12, [-1.0] * 12), 7, "correct")
    assert (right.mean, right.high) == (1.0, 1.0)
    assert right.low == pytest.approx(2 * wilson(12, 12)[0] - 1)
    assert "by 100.0 points" in sentences.apart(right, "correct", ["a", "b"], "facts")
    ranks = along.difference(made([0.0, 1, 0, 1, 0, 1], [7.0, 15, 7, 15, 7, 17]), 7, "rank")
    assert ranks.mean < 0
    said = sentences.apart(ranks, "rank", ["asked forward", "asked in reverse"], "facts")
    assert said.startswith("Asked forward, the right first token stands higher")
    assert "a factor of 8" in said


def test_examples_that_share_a_prompt_are_no_independent_pairs() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.5]
    free = along.difference(made(values, [0.0] * 6), 7, "preference")
    shared = along.difference(made(values, [0.0] * 6, ["s"] * 6), 7, "preference")
    assert free.clear
    assert not shared.clear


def test_curves_have_the_interval_of_their_kind() -> None:
    one = made([1.0, -1, 1, 1, -1, 1, 1, 1], [-1.0] * 8)
    rows: pd.DataFrame = along.curves(one, "correct").set_index("way")
    assert rows.loc["forward", "value"] == 6 / 8
    assert tuple(rows.loc["forward", ["low", "high"]]) == pytest.approx(wilson(6, 8))
    ranks = along.curves(made([3.0, 1, 2, 9, 4, 5], [0.0] * 6), "rank").set_index("way")
    assert ranks.loc["forward", "value"] == 3.5
    assert tuple(ranks.loc["forward", ["low", "high"]]) == (1.0, 9.0)
