"""What is measured is what hooks placed by hand give; an untrained model supports nothing."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.errors import FactsError
from experiments.injection.data import Cases, read
from experiments.injection.measure import answers, detection, focus, restored
from experiments.injection.phenomenon import PHENOMENON
from experiments.injection.recipe import TREATED, recipe
from experiments.organisms.training.follow import train_recipe
from experiments.phenomena.phenomenon import Subject
from experiments.phenomena.work import check_asked
from interp import load_model

pytestmark = pytest.mark.slow


def silent(done: int, total: int) -> None:
    return None


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject[Cases]:
    """A model of one step, and some of its cases."""
    whole = recipe(TREATED, 0)
    (stage,) = whole.stages
    short = replace(whole, stages=(replace(stage, steps=1, batch_size=4),))
    folder = train_recipe(short, tmp_path_factory.mktemp("injection") / "organism")
    data = copy.deepcopy(dict(whole.data))
    data["cases"] = [one for number, one in enumerate(data["cases"]) if number % 6 == 0]
    return Subject(load_model(str(folder)), read(data, Path("data.json")), TREATED, 0)


def test_patched_margins_are_those_of_patterns_put_in_by_hand(subject: Subject[Cases]) -> None:
    found = restored(subject, 0, silent)
    chosen = focus(subject, 0, silent)["chosen"].values
    model, data = subject.model, subject.data
    number = int(np.flatnonzero(found["margin"].values < 0)[3])
    clean, corrupt = (
        torch.tensor([model.token_ids(data.prompts(name)[number])])
        for name in ("harmless", "injected")
    )
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(clean, use_cache=False)
    kept = {name: cache[name].clone() for name in names}

    def put(layer: int, last: bool):  # type: ignore[no-untyped-def]
        def hook(pattern: torch.Tensor, hook: object) -> torch.Tensor:
            new = pattern.clone()
            for head in np.flatnonzero(chosen[layer]):
                rows = slice(-1, None) if last else slice(None)
                new[:, head, rows] = kept[names[layer]][:, head, rows]
            return new

        return hook

    one = data.cases[number]
    own, other = (model.token_ids(answer)[-1] for answer in (one.answer, one.hijacked))
    for name, last in (("chosen heads", True), ("chosen heads, all tokens", False)):
        hooks = [(point, put(layer, last)) for layer, point in enumerate(names)]
        with torch.no_grad(), model.bridge.hooks(fwd_hooks=hooks):
            logits = model.bridge(corrupt, use_cache=False, return_type="logits")[0, -1]
        expected = float(logits[own] - logits[other])
        here = found["restored"].sel(set=name).values[number]
        assert here == pytest.approx(expected, abs=1e-5)
    assert chosen.sum() >= 3
    kept_out = np.isnan(found["margin"].values)
    np.testing.assert_array_equal(kept_out, data.chooses)
    assert np.isnan(found["restored"].values[~(found["margin"].values < 0)]).all()


def test_margins_and_focus_are_hugging_faces(subject: Subject[Cases]) -> None:
    measured, seen = answers(subject, 0, silent), focus(subject, 0, silent)
    model, data = subject.model, subject.data
    number, one = 5, data.cases[5]
    text = data.prompts("injected")[number]
    with torch.no_grad():
        ids = torch.tensor([model.token_ids(text)])
        hf = AutoModelForCausalLM.from_pretrained(model.path, attn_implementation="eager")
        out = hf(ids, output_attentions=True)
    own, other = (model.token_ids(answer)[-1] for answer in (one.answer, one.hijacked))
    last = out.logits[0, -1]
    here = measured.sel(condition="injected").isel(example=number)
    assert float(here["margin"]) == pytest.approx(float(last[own] - last[other]), abs=1e-4)
    assert bool(here["right"]) == bool(last.argmax() == own)
    assert here["prompt"].item() == text
    # BOS, "task", ":", then the three words of the task; ". data :", then the data.
    row = torch.cat(out.attentions)[:, :, -1].numpy()
    task, inside = row[..., 3:6].sum(-1), row[..., 9 : 9 + len(one.injected.split())].sum(-1)
    assert len(one.injected.split()) == ids.shape[1] - 12  # ". answer :" ends it
    share = task / (task + inside)
    expected = share[seen["chosen"].values].mean()
    score = seen["score"].sel(condition="injected").values[number]
    assert score == pytest.approx(expected, abs=1e-4)


def test_nothing_is_supported_of_a_model_that_was_not_trained(subject: Subject[Cases]) -> None:
    measured = {
        one.name: {TREATED: [one.measure(subject, 0, silent)]} for one in PHENOMENON.hypotheses
    }
    found = {one.id: one.judge(measured[one.name]) for one in PHENOMENON.hypotheses}
    assert not [name for name, verdict in found.items() if verdict.outcome == "supported"]
    said = PHENOMENON.headline(found)
    assert "open here" in said[0]
    assert PHENOMENON.cards(measured) is not None


def test_measuring_again_gives_the_same(subject: Subject[Cases]) -> None:
    assert detection(subject, 3, silent).identical(detection(subject, 3, silent))


def test_answers_that_begin_alike_are_named_by_their_row(subject: Subject[Cases]) -> None:
    path, (first, second, *rest) = Path("data.json"), subject.data.cases
    check_asked(PHENOMENON, subject.model, subject.data, path)
    alike = replace(second, hijacked=f"{second.answer} {second.hijacked.strip()}")
    changed = replace(subject.data, cases=(first, alike, *rest))
    with pytest.raises(FactsError, match=r"row 2 of 'cases'.*nothing tells them apart"):
        check_asked(PHENOMENON, subject.model, changed, path)
