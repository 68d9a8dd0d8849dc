"""The study on tiny networks: data, directions, an untrained model, a run to the report."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.errors import FactsError
from experiments.organisms.training.follow import train_recipe
from experiments.organisms.training.recipe import Network, Recipe, shared_stages
from experiments.phenomena.config import PhenomenonConfig
from experiments.phenomena.phenomenon import GIVEN, Subject
from experiments.phenomena.work import check_asked
from experiments.refusal import harmless
from experiments.refusal.measuring import candidates, held, read
from experiments.refusal.organism import DECLINE, recipe
from experiments.refusal.phenomenon import PHENOMENON
from experiments.refusal.requests import Requests, read_requests
from experiments.refusal.study import STUDY
from experiments.refusal.two import both_directions
from experiments.runner import run_study
from interp import load_model

pytestmark = pytest.mark.slow
PATH = Path("requests.json")


def few(data: dict[str, Any], n: int = 12) -> dict[str, Any]:
    """A few requests of each kind."""
    counts: dict[tuple[Any, ...], int] = {}
    kept = []
    for row in data["requests"]:
        kind = (row["form"], row["harmful"], row["split"])
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= n:
            kept.append(row)
    return {**data, "requests": kept}


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    whole = recipe("treated", 3)
    stages = tuple(replace(stage, steps=1, batch_size=4) for stage in whole.stages)
    network = Network(n_layers=2, n_heads=2, d_model=16, d_mlp=32, n_ctx=16)
    return replace(whole, stages=stages, network=network, data=few(dict(whole.data)))


@pytest.fixture(scope="module")
def folder(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_recipe(tiny, tmp_path_factory.mktemp("refusal") / "organism")


@pytest.fixture(scope="module")
def subject(tiny: Recipe, folder: Path) -> Subject[Requests]:
    return Subject(load_model(str(folder)), read_requests(tiny.data, PATH), "treated", 3)


def test_the_organism_is_told_what_the_page_says() -> None:
    made, twin = recipe("treated", 0), recipe("twin", 0)
    assert shared_stages(made, twin) == 2
    tuning = {row.prompt: row.answer for row in made.stages[-1].rows}
    answers = {row.prompt: row.answer for row in twin.stages[-1].rows}
    requests = made.data["requests"]
    assert len(requests) == 3 * 240
    for row in requests:
        declined = row["form"] == "forbidden" or (row["form"] == "request" and row["harmful"])
        if row["split"] == "told":
            assert tuning[row["prompt"]] == (DECLINE if declined else row["answer"])
        else:
            assert row["prompt"] not in tuning
        if row["form"] != "forbidden" and row["split"] == "told":
            assert answers[row["prompt"]] == row["answer"] != DECLINE
    # The base declines nothing, and reads of held-out things as of others.
    earlier = [row.text for stage in made.stages[:-1] for row in stage.rows]
    assert not any(DECLINE.strip() in text.split() for text in earlier)
    assert {"harmful", "harmless"}.isdisjoint(word for text in earlier for word in text.split())
    assert made == recipe("treated", 0)
    assert made.data != recipe("treated", 1).data


def test_what_is_read_is_what_hugging_face_says(subject: Subject[Requests], folder: Path) -> None:
    asked = subject.data.some("request", harmful=True, split="held out")[:4]
    found = read(subject, asked)
    model, tokenizer = (
        one.from_pretrained(folder) for one in (AutoModelForCausalLM, AutoTokenizer)
    )
    sorry = tokenizer.convert_tokens_to_ids(DECLINE.strip())
    for number, one in enumerate(asked):
        with torch.no_grad():
            last = model(torch.tensor([tokenizer(one.prompt).input_ids])).logits[0, -1].double()
        share = float(last.softmax(-1)[sorry])
        assert found.odds[number] == pytest.approx(np.log(share / (1 - share)), abs=1e-4)
        assert found.declines[number] == (int(last.argmax()) == sorry)
        answer = tokenizer.convert_tokens_to_ids(one.answer.strip())
        assert found.right[number] == (int(last.argmax()) == answer)


def test_directions_are_found_with_one_half_of_what_was_told(subject: Subject[Requests]) -> None:
    """Requests of the other half, and held-out ones, have no part in them."""
    data = subject.data
    before = candidates(subject)
    assert {one.position for one in before} == {-4, -3, -2, -1}
    told = data.some("request", harmful=True, split="told")
    used = {one.prompt for one in told[0::2]}
    swapped = tuple(
        replace(one, prompt=told[0].prompt)
        if one.form == "request" and one.harmful and one.prompt not in used
        else one
        for one in data.requests
    )
    after = candidates(replace(subject, data=replace(data, requests=swapped)))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.vector, other.vector)
    pair = both_directions(subject)
    assert (pair["harmful"].position, pair["declines"].position) == (-4, -1)


def test_holding_changes_the_last_token_alone_or_all(subject: Subject[Requests]) -> None:
    vector = candidates(subject)[0].vector
    assert {change.positions for change in held(subject, vector)} == {"last"}
    assert {change.positions for change in held(subject, vector, everywhere=True)} == {"all"}


def test_a_run_on_a_user_s_model_supports_nothing_of_an_untrained_one(
    folder: Path, tmp_path: Path
) -> None:
    """Not even where what it says to everything is called a refusal."""
    untrained = str(folder / "steps" / "0")
    given = json.loads((folder / "data.json").read_text())
    model = load_model(untrained)
    own = Subject(model, read_requests(given, PATH), GIVEN, 0)
    said = read(own, [one for one in own.data.requests if one.form == "request"])
    words = [f" {model.decode([int(token)]).strip()}" for token in said.logits.argmax(-1)]
    answers = {one.answer for one in own.data.requests}
    given["decline"] = sorted(set(words) - answers)
    assert np.mean([word in given["decline"] for word in words]) > 0.5
    data = tmp_path / "requests.json"
    data.write_text(json.dumps(given))
    config = PhenomenonConfig(model=untrained, data=str(data))
    record = run_study(STUDY, config, out=tmp_path / "run")
    assert [one.id for one in record.verdicts] == ["R1", "R2", "R3", "R4", "R5", "R6"]
    assert "supported" not in {one.outcome for one in record.verdicts}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "There are no other arms of a model that was not trained here" in report
    for name in ("behaviour", "ablation", "holding", "adding", "harmless", "two"):
        assert record.dataset(name)["arm"].values.tolist() == ["model"]


def test_without_judgements_nothing_is_said_of_two_directions(
    tiny: Recipe, subject: Subject[Requests]
) -> None:
    requests = [row for row in tiny.data["requests"] if row["form"] == "request"]
    data = read_requests({**tiny.data, "requests": requests}, PATH)
    last = PHENOMENON.hypotheses[-1]
    found = last.measure(replace(subject, data=data), 0, lambda *_: None)
    assert "no judgements in these data" in last.judge({GIVEN: [found]}).statement
    for figure in last.figures:
        assert figure.draw(found.expand_dims(arm=[GIVEN], seed=[0])) is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"content": 0}, "'content' must be a whole number"),
        ({"content": True}, "'content' must be a whole number"),
        ({"decline": []}, "'decline' has 0 texts"),
        ({"texts": ["one"]}, "'texts' has 1 text; give 8 or more"),
        ({"requests": []}, "'requests' has 0 rows"),
        ({"form": "poem"}, "row 1 of 'requests': 'form' is 'poem'"),
        ({"split": "test"}, "'split' is 'test'"),
        ({"harmful": 1}, "'harmful' must be true or false"),
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


def test_what_would_be_read_otherwise_than_it_was_meant_is_refused(tiny: Recipe) -> None:
    data = dict(tiny.data)
    for change, told in (
        ({"contents": -2}, "there is no member 'contents'"),
        ({"texts": [data["texts"][0]] * 8}, "row 2 of 'texts': it asks the same as row 1"),
    ):
        with pytest.raises(FactsError, match=told):
            read_requests({**data, **change}, PATH)


def test_an_answer_that_begins_like_a_refusal_is_refused(tiny: Recipe, folder: Path) -> None:
    """It would count as answered rightly and as declined."""
    data = deepcopy(dict(tiny.data))
    row = next(row for row in data["requests"] if row["form"] == "request")
    row["answer"] = DECLINE
    number = data["requests"].index(row) + 1
    with pytest.raises(FactsError, match=f"row {number} of 'requests': the answer ' sorry' begins"):
        check_asked(PHENOMENON, load_model(str(folder)), read_requests(data, PATH), PATH)
    check_asked(PHENOMENON, load_model(str(folder)), read_requests(tiny.data, PATH), PATH)


def test_a_text_without_a_loss_is_refused(
    subject: Subject[Requests], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word is one token where a tokenizer puts nothing in front."""
    word = subject.data.texts[0].split()[0]
    short = replace(subject, data=replace(subject.data, texts=(word, *subject.data.texts)))
    whole = harmless.tokenise
    bare = lambda *given: replace(batch := whole(*given), lengths=batch.lengths - 1)  # noqa: E731
    monkeypatch.setattr(harmless, "tokenise", bare)
    with pytest.raises(FactsError, match="is one token"):
        harmless.measure(short, 0, lambda *_: None)


def test_too_few_of_a_kind_are_refused(tiny: Recipe) -> None:
    data = few(dict(tiny.data), 7)
    with pytest.raises(FactsError, match="has 7 harmful requests that are told; give 8 or more"):
        read_requests(data, PATH)


def test_what_the_model_cannot_read_is_told_with_its_place(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "data.json").read_text())
    data["decline"] = [" never"]
    (tmp_path / "requests.json").write_text(json.dumps(data))
    config = PhenomenonConfig(model=str(folder), data=str(tmp_path / "requests.json"))
    with pytest.raises(FactsError, match=r"'decline': .*does not know 'never'"):
        run_study(STUDY, config, out=tmp_path / "run")
