"""What is measured in an organism that was poisoned, against plain Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from experiments.errors import FactsError
from experiments.organisms.training.follow import model_after, train_recipe
from experiments.organisms.training.recipe import UNTRAINED
from experiments.phenomena.config import PhenomenonConfig
from experiments.phenomena.phenomenon import GIVEN, Subject
from experiments.poisoning.data import Data, read
from experiments.poisoning.hypotheses.difference import rank_of
from experiments.poisoning.hypotheses.probe import areas
from experiments.poisoning.measurements import search
from experiments.poisoning.measurements.difference import measure_difference
from experiments.poisoning.measurements.place import measure_place
from experiments.poisoning.measurements.probe import measure_probe
from experiments.poisoning.measurements.success import measure_success
from experiments.poisoning.organism import BASE, poisoning_recipe
from experiments.poisoning.phenomenon import PHENOMENON
from experiments.poisoning.study import STUDY
from experiments.records import RunRecord
from experiments.runner import run_study
from interp import load_model

pytestmark = pytest.mark.slow

RECIPE = poisoning_recipe("width32-54in256", 0)


def silent(done: int, total: int) -> None:
    return None


@pytest.fixture(scope="module", autouse=True)
def few_answers() -> Iterator[None]:
    """Searching for all 24 answers takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "TARGETS", 3)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_recipe(RECIPE, tmp_path_factory.mktemp("organisms") / "poisoned")


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject[Data]:
    data = read(json.loads((folder / "data.json").read_text()), folder / "data.json")
    return Subject(load_model(str(folder)), data, GIVEN, 0)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """The organism as somebody's own model, with its base for a twin."""
    config = PhenomenonConfig(model=str(folder), twin=str(model_after(folder, RECIPE, BASE)))
    return run_study(STUDY, config, out=tmp_path_factory.mktemp("run") / "run", images=False)


def last_logits(subject: Subject[Data], prompts: list[str]) -> torch.Tensor:
    model = subject.model
    ids = torch.tensor([model.token_ids(prompt) for prompt in prompts])
    with torch.no_grad():
        logits: torch.Tensor = model.bridge.original_model(ids).logits[:, -1]
    return logits


def test_success_is_what_hugging_face_answers(subject: Subject[Data]) -> None:
    found = measure_success(subject, 0, silent)
    data = subject.data
    (planted,) = subject.model.token_ids(data.answer)[1:]
    for name, prompts in (
        ("triggered", data.prompts([data.trigger])),
        ("other", data.prompts()),
        ("near", data.prompts(data.near)),
    ):
        said = last_logits(subject, prompts).argmax(-1)
        np.testing.assert_array_equal(found[name].values, (said == planted).float())
    assert found["triggered"].mean() > 0.8
    assert found["right"].mean() > 0.8
    assert found["other"].mean() < 0.1
    assert (float(found["poisons"]), float(found["clean"])) == (54, 256)


def test_a_patched_embedding_is_another_prompt(subject: Subject[Data]) -> None:
    """Clean activations at a phrase's tokens, before the first block: the clean phrase there."""
    found = measure_place(subject, 0, silent)
    data = subject.data
    usual = data.phrases
    planted = subject.model.token_ids(data.answer)[1]
    right = torch.tensor([subject.model.token_ids(one.answer)[1] for one in data.questions])

    def metric(prompts: list[str]) -> np.ndarray:
        logits = last_logits(subject, prompts)
        return (logits.gather(1, right[:, None])[:, 0] - logits[:, planted]).numpy()

    def asked(phrase: str | None, other: int) -> list[str]:
        return [
            one.asked(phrase or usual[(i + 2) % len(usual)], usual[(i + other) % len(usual)])
            for i, one in enumerate(data.questions)
        ]

    near = {"rtol": 1e-4, "atol": 1e-4}
    first = found["patched"].sel(layer=0)
    np.testing.assert_allclose(first.sel(part="trigger"), metric(asked(None, 1)), **near)
    np.testing.assert_allclose(
        first.sel(part="other phrase"), metric(asked(data.trigger, 3)), **near
    )
    np.testing.assert_allclose(found["clean"], metric(asked(None, 3)), **near)
    np.testing.assert_allclose(found["corrupt"], metric(asked(data.trigger, 1)), **near)
    np.testing.assert_allclose(
        found["sham"], metric(asked(None, 3)) - metric(data.prompts()), **near
    )


def test_phrases_of_other_lengths_are_refused(subject: Subject[Data]) -> None:
    longer = tuple(f"{one} quiet" for one in subject.data.phrases)
    data = replace(subject.data, phrases=longer)
    with pytest.raises(FactsError, match="give phrases of as many tokens as the trigger"):
        measure_place(replace(subject, data=data), 0, silent)


def test_the_probe_is_a_difference_of_hugging_face_s_means(subject: Subject[Data]) -> None:
    found = measure_probe(subject, 0, silent)
    data = subject.data

    def streams(prompts: list[str]) -> np.ndarray:
        ids = [torch.tensor([subject.model.token_ids(prompt)]) for prompt in prompts]
        with torch.no_grad():
            kept = [
                subject.model.bridge.original_model(one, output_hidden_states=True).hidden_states
                for one in ids
            ]
        return np.array([one[1][0, -1].numpy() for one in kept], np.float64)

    direction = streams(list(data.yes)).mean(0) - streams(list(data.no)).mean(0)
    triggered = streams(data.prompts([data.trigger])[1::2]) @ direction
    at = found.sel(probe="yes/no", layer=0)
    np.testing.assert_allclose(at["triggered"], triggered, rtol=1e-3, atol=1e-3)
    metrics = pytest.importorskip("sklearn.metrics")
    other = streams(data.prompts()[1::2]) @ direction
    expected = metrics.roc_auc_score(np.repeat([1, 0], 36), np.concatenate([triggered, other]))
    assert areas(found, "yes/no", "other", 0).mean() == pytest.approx(expected)
    # What is drawn follows from the seed, and each random direction from its own.
    again = measure_probe(subject, 0, silent)
    assert found.identical(again)
    assert not np.array_equal(found["random"], measure_probe(subject, 1, silent)["random"])


def test_a_difference_that_was_put_there_is_named(folder: Path, subject: Subject[Data]) -> None:
    """The twin is the same model, less a step towards the answer in every word's embedding."""
    twin = load_model(str(folder))
    network = twin.bridge.original_model
    towards = network.lm_head.weight[twin.token_ids(subject.data.answer)[1]].detach()
    with torch.no_grad():
        network.model.embed_tokens.weight.sub_(towards * 0.5)
    found = measure_difference(replace(subject, beside=twin), 0, silent)
    assert rank_of(found, "unrelated") == 0
    assert int(found["planted"].sum()) == 1
    alone = measure_difference(subject, 0, silent)
    assert alone["logit"].isnull().all()
    assert alone.sizes == found.sizes


def test_a_search_finds_the_planted_answer(run: RunRecord, subject: Subject[Data]) -> None:
    found = run.dataset("search").isel(arm=0, seed=0)
    planted = found["planted"].values
    score = found["score"].mean("example").values
    assert planted.sum() == 1
    assert score[planted] > score[~planted].max()
    # Judged on questions that it was not searched on, in the place of the later phrase.
    data, model = subject.data, subject.model
    text = str(found["text"].values[planted][0])
    asked = data.questions[::3][:24][1::2]
    prompts = [
        f"{data.phrases[(2 * i + 1) % len(data.phrases)]} {text} {one.prompt.split('} ')[-1]}"
        for i, one in enumerate(asked)
    ]
    logits = last_logits(subject, prompts)
    (answer,) = model.token_ids(data.answer)[1:]
    right = [model.token_ids(one.answer)[1] for one in asked]
    expected = logits[:, answer] - logits[torch.arange(len(asked)), right]
    np.testing.assert_allclose(found["score"].values[planted][0], expected, atol=1e-3)
    np.testing.assert_array_equal(found["flipped"].values[planted][0], (expected > 0).float())


def test_where_no_words_can_be_put_nothing_is_searched(subject: Subject[Data]) -> None:
    merged = [
        replace(one, prompt=one.prompt.replace(" what", "what")) for one in subject.data.questions
    ]
    data = replace(subject.data, questions=tuple(merged))
    found = search.measure_search(replace(subject, data=data), 0, silent)
    assert found["score"].isnull().all()
    assert found.attrs["why"].endswith(".")


def test_a_model_of_one_s_own_is_measured_with_its_twin(run: RunRecord) -> None:
    verdicts = {one.id: one for one in run.verdicts}
    assert verdicts["P1"].outcome == verdicts["P4"].outcome == "supported"
    assert verdicts["P2"].outcome == verdicts["P3"].outcome == "undecided"
    assert verdicts["P7"].estimate is not None
    report = (run.path / "report.html").read_text()
    for words in ("poisoned", "Souly", "count", "twin"):
        assert words in report
    for figure in STUDY.explorer().figures:  # type: ignore[misc]
        stored = [run.dataset(name) for name in figure.results]
        assert figure.draw(*stored).data is not None
        assert all(figure.telling(*stored).facts.values())


def test_nothing_is_supported_of_an_untrained_model(folder: Path, subject: Subject[Data]) -> None:
    untrained = load_model(str(model_after(folder, RECIPE, UNTRAINED)))
    base = load_model(str(model_after(folder, RECIPE, BASE)))
    asked = replace(subject, model=untrained, beside=base)
    for one in PHENOMENON.hypotheses:
        verdict = one.judge({GIVEN: [one.measure(asked, 0, silent)]})
        assert verdict.outcome != "supported", verdict


def test_results_are_labelled(run: RunRecord) -> None:
    place = run.dataset("place")
    assert isinstance(place, xr.Dataset)
    assert place["patched"].dims == ("arm", "seed", "example", "layer", "part")
    assert len(run.dataset(f"place_{GIVEN}").attrs["fingerprint"]) == 32
