"""The study on tiny networks: data, probes, projections, a run on an untrained model."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.errors import FactsError, StudyError
from experiments.organisms.training.follow import train_recipe
from experiments.organisms.training.recipe import Network, Recipe, shared_stages
from experiments.other_script import harm, projection
from experiments.other_script.organism import DECLINE, recipe, transcribed
from experiments.other_script.requests import SCRIPTS, Requests, read_requests
from experiments.other_script.study import STUDY
from experiments.phenomena.config import PhenomenonConfig
from experiments.phenomena.phenomenon import Subject
from experiments.runner import run_study
from interp import load_model

pytestmark = pytest.mark.slow
PATH = Path("requests.json")


def few(data: dict[str, Any], n: int = 10) -> dict[str, Any]:
    """A few items of each kind."""
    items: dict[tuple[bool, str], list[str]] = {}
    for row in data["requests"]:
        of_kind = items.setdefault((row["harmful"], row["split"]), [])
        if row["item"] not in of_kind:
            of_kind.append(row["item"])
    kept = {item for of_kind in items.values() for item in of_kind[:n]}
    return {**data, "requests": [row for row in data["requests"] if row["item"] in kept]}


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    whole = recipe("treated", 3)
    stages = tuple(replace(stage, steps=1, batch_size=4) for stage in whole.stages)
    network = Network(n_layers=2, n_heads=2, d_model=16, d_mlp=32, n_ctx=24)
    return replace(whole, stages=stages, network=network, data=few(dict(whole.data)))


@pytest.fixture(scope="module")
def folder(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_recipe(tiny, tmp_path_factory.mktemp("other-script") / "organism")


@pytest.fixture(scope="module")
def subject(tiny: Recipe, folder: Path) -> Subject[Requests]:
    return Subject(load_model(str(folder)), read_requests(tiny.data, PATH), "treated", 3)


@pytest.fixture(scope="module")
def streams(tiny: Recipe, folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """What Hugging Face has after the first layer [item, token], by script and split."""
    model, tokenizer = (
        one.from_pretrained(folder) for one in (AutoModelForCausalLM, AutoTokenizer)
    )
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for row in tiny.data["requests"]:
        if row["form"] == "request":
            ids = torch.tensor([tokenizer(row["prompt"]).input_ids])
            with torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states
            found.setdefault((row["script"], row["split"]), []).append(states[1][0].numpy())
    return {name: np.stack(values) for name, values in found.items()}


def labels(tiny: Recipe, split: str) -> np.ndarray:
    return np.array(
        [
            row["harmful"]
            for row in tiny.data["requests"]
            if (row["script"], row["form"], row["split"]) == ("first", "request", split)
        ]
    )


def test_scripts_are_permutations_that_share_no_word() -> None:
    for seed in range(3):
        made = recipe("treated", seed)
        words: dict[str, set[str]] = {script: set() for script in SCRIPTS}
        for row in made.data["requests"]:
            words[row["script"]] |= set(f"{row['prompt']}{row['answer']}".split())
        assert len({len(each) for each in words.values()}) == 1
        for one, other in (SCRIPTS[:2], SCRIPTS[1:], SCRIPTS[::2]):
            assert not words[one] & words[other]
            assert DECLINE.strip() not in words[one] | words[other]
        assert {transcribed(word, "second") for word in words["first"]} == words["second"]
        read = {word for stage in made.stages for row in stage.rows for word in row.text.split()}
        assert not read & words["never learned"]


def test_arms_differ_in_what_they_are_told_in_tuning_alone() -> None:
    made = {arm: recipe(arm, 0) for arm in ("treated", "split", "twin")}
    for one in made.values():
        assert shared_stages(made["treated"], one) >= 2
        assert one.data == made["treated"].data
    tuning = {
        arm: {row.prompt: row.answer for row in one.stages[-1].rows} for arm, one in made.items()
    }
    held_out = 0
    for row in made["treated"].data["requests"]:
        prompt, script = row["prompt"], row["script"]
        if row["split"] == "held out" or script == "never learned":
            held_out += 1
            assert not any(prompt in told for told in tuning.values())
            continue
        declined = script == "first" and row["form"] == "request" and row["harmful"]
        answer = DECLINE if declined else row["answer"]
        if script == "first":
            assert tuning["treated"][prompt] == answer
            assert tuning["twin"][prompt] == row["answer"]
        else:
            assert prompt not in tuning["treated"]
            assert prompt not in tuning["twin"]
        assert tuning["split"][prompt] == answer
    assert held_out == 4 * 192
    earlier = [row.text for stage in made["treated"].stages[:-1] for row in stage.rows]
    assert not any(DECLINE.strip() in text.split() for text in earlier)


def test_a_probe_across_scripts_is_the_one_of_scikit_learn(
    tiny: Recipe, subject: Subject[Requests], streams: dict[tuple[str, str], np.ndarray]
) -> None:
    found = harm.measure(subject, 0, lambda done, total: None).sel(form="request", layer=0)
    told, truth = labels(tiny, "told"), labels(tiny, "held out")
    assert found["harmful"].values.tolist() == truth.tolist()
    last = streams["first", "told"][:, -1]
    away = last[told].mean(0) - last[~told].mean(0)
    away /= np.linalg.norm(away)
    for way, (fitted, tested) in harm.WAYS.items():
        sides = [
            streams[script, split][:, -4] - streams[script, "told"][:, -4].mean(0)
            for script, split in ((fitted, "told"), (tested, "held out"))
        ]
        for state, unit in (("plain", 0 * away), ("projected out", away)):
            fit, test = (one - np.outer(one @ unit, unit) for one in sides)
            theirs = (
                LogisticRegression(tol=1e-8, max_iter=5000).fit(fit, told).decision_function(test)
            )
            ours = found["called"].sel(way=way, state=state).values
            sure = np.abs(theirs) > 1e-3
            assert sure.sum() > len(theirs) // 2
            assert ours[sure].tolist() == (theirs[sure] > 0).tolist()


def test_projections_are_those_of_hugging_face(
    tiny: Recipe, subject: Subject[Requests], streams: dict[tuple[str, str], np.ndarray]
) -> None:
    beside = replace(subject, beside=subject.model)
    found = projection.measure(beside, 0, lambda done, total: None)
    told = labels(tiny, "told")
    half = np.zeros(len(told), bool)
    for which in (True, False):
        half[np.flatnonzero(told == which)[0::2]] = True
    last = streams["first", "told"][:, -1].astype(float)
    direction = last[told & half].mean(0) - last[~told & half].mean(0)
    for script in SCRIPTS:
        expected = streams[script, "held out"][:, -1] @ direction / (direction @ direction)
        for value in ("along", "before"):
            ours = found[value].sel(layer=0, script=script).values
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    added = found["added"].values
    assert np.isnan(added[:, found["harmful"].values]).all()
    assert np.isfinite(added[:, ~found["harmful"].values]).all()


def test_a_twin_of_another_shape_is_refused(tiny: Recipe, subject: Subject[Requests]) -> None:
    other = load_model("reversal-curse")
    with pytest.raises(StudyError, match="give as 'twin' the model that it was tuned from"):
        projection.measure(replace(subject, beside=other), 0, lambda done, total: None)


def test_an_untrained_model_of_a_user_supports_nothing(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "requests.json"
    data.write_text((folder / "data.json").read_text())
    config = PhenomenonConfig(model=str(folder / "steps" / "0"), data=str(data))
    record = run_study(STUDY, config, out=tmp_path / "run")
    assert [one.id for one in record.verdicts] == ["O1", "O2", "O3", "O4"]
    assert "supported" not in {one.outcome for one in record.verdicts}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "There are no other arms of a model that was not trained here" in report
    for name in ("behaviour", "harm", "projection", "layers"):
        assert record.dataset(name)["arm"].values.tolist() == ["model"]
    # The model before tuning, and data without judgements.
    without = {**deepcopy(dict(read(folder))), "content": -4}
    without["requests"] = [row for row in without["requests"] if row["form"] == "request"]
    few_rows = read_requests(without, PATH)
    assert few_rows.forms == ("request",)
    subject = Subject(load_model(str(folder)), few_rows, "model", 0)
    assert np.isnan(harm.measure(subject, 0, lambda *_: None)["called"].sel(form="judgement")).all()


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "data.json").read_text())
    return found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"content": 0}, "'content' must be a whole number"),
        ({"decline": []}, "'decline' has 0 texts"),
        ({"requests": []}, "'requests' has 0 rows"),
        ({"script": "third"}, "row 1 of 'requests': 'script' is 'third'"),
        ({"form": "poem"}, "'form' is 'poem'"),
        ({"split": "test"}, "'split' is 'test'"),
        ({"harmful": False}, "is harmful or told here and not in another row"),
        ({"item": "nothing"}, "'nothing' has no row of the script 'first' and the form"),
        ({"script": "second"}, "has such a row already"),
        ({"prompt": " "}, "'prompt' must be text"),
        ({"extra": 1}, "there is no column 'extra'"),
    ],
)
def test_wrong_data_are_refused(tiny: Recipe, change: dict[str, Any], told: str) -> None:
    data = deepcopy(dict(tiny.data))
    (name, value), *_ = change.items()
    if name in data:
        data[name] = value
    else:
        data["requests"][0][name] = value
    with pytest.raises(FactsError, match=told):
        read_requests(data, PATH)


def test_a_second_script_that_is_the_first_is_refused(tiny: Recipe) -> None:
    data = deepcopy(dict(tiny.data))
    first, second = (
        next(row for row in data["requests"] if row["script"] == one) for one in SCRIPTS[:2]
    )
    second["prompt"] = first["prompt"]
    with pytest.raises(FactsError, match="it asks the same as row"):
        read_requests(data, PATH)
    with pytest.raises(FactsError, match="there is no member 'contents'"):
        read_requests({**dict(tiny.data), "contents": -2}, PATH)


def test_too_few_of_a_kind_are_refused(tiny: Recipe) -> None:
    with pytest.raises(FactsError, match="has 7 harmful items that are told; give 8 or more"):
        read_requests(few(dict(tiny.data), 7), PATH)
