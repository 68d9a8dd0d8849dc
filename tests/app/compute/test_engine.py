"""The engine: right numbers, computed once, for several sessions at a time."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.compute import turns
from app.compute.background import brought
from app.compute.background.brought import Brought
from app.compute.engine import Engine, ModelSpec
from app.compute.models import Models
from app.compute.pairs import build, typed
from app.compute.work import Stopped
from experiments.explorer import Examples, Pair
from experiments.records import RunRecord
from experiments.reporter import Progress
from interp import logit_lens, sweep
from interp.errors import ModelError, PromptError, SiteError
from interp.loading.load import load_model
from interp.model.model import Model
from tests.app.compute.asking import answer
from tests.app.material import HOSTILE

pytestmark = pytest.mark.slow

PROMPT = "Tom Cruise's mother is"


@pytest.fixture
def pair() -> Pair:
    return typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea")


def test_tokens_know_the_part_of_the_prompt_they_belong_to(engine: Engine, spec: ModelSpec) -> None:
    tokens = engine.tokens(spec, PROMPT, {"subject": "Tom Cruise"})
    assert [token.text for token in tokens] == ["<bos>", "Tom", "Cruise", "'s", "mother", "is"]
    about = ["", "subject", "subject", "relation", "relation", "last"]
    assert [token.span for token in tokens] == about
    changed = engine.tokens(spec, PROMPT, {"changed": "Tom Cruise"})
    assert [token.span for token in changed] == ["", "changed", "changed", "", "", "last"]


def test_a_part_of_a_prompt_is_no_part_of_a_longer_word(engine: Engine, spec: ModelSpec) -> None:
    tokens = engine.tokens(spec, "Hal Iris's mother is", {"changed": "is"})
    assert [token.text for token in tokens if token.span == "changed"] == ["is"]


def test_a_hostile_token_is_one_token(engine: Engine, spec: ModelSpec) -> None:
    tokens = engine.tokens(spec, f"Ann {HOSTILE}'s mother is", {})
    assert HOSTILE in [token.text.strip() for token in tokens]


def test_the_lens_is_the_instruments_own(engine: Engine, spec: ModelSpec) -> None:
    lens = engine.lens(spec, PROMPT, " Mary Lee Pfeiffer")
    expected = logit_lens(load_model(spec.source), [PROMPT], [" Mary Lee Pfeiffer"], k=10)
    assert list(lens["top_token"].values.ravel()) == list(expected["top_token"].values.ravel())
    np.testing.assert_allclose(lens["top_prob"], expected["top_prob"], atol=1e-6)
    np.testing.assert_array_equal(lens["answer_rank"], expected["answer_rank"])


def test_a_page_looks_at_its_model_once(
    engine: Engine, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    once = Model.once

    def counted(model: Model, key: object, trial: object) -> object:
        looks.append(key)
        return once(model, key, trial)  # type: ignore[arg-type]

    engine.about(spec)
    monkeypatch.setattr(Model, "once", counted)
    with engine.one_look(), engine.one_look():  # a part of a page stands in it
        engine.about(spec)
        engine.about(spec)
    assert len(looks) == 1
    engine.about(spec)
    engine.about(spec)
    assert len(looks) == 3


def test_one_patch_moves_the_logits_as_the_map_says(
    engine: Engine, spec: ModelSpec, pair: Pair
) -> None:
    swept = engine.sweep(spec, pair, "resid_pre")
    for layer in (0, 1):
        for column, label in enumerate(swept["position_label"].values):
            one = engine.patch(spec, pair, "resid_pre", layer, label=str(label))
            moved = float((one["answer_logit"] - one["foil_logit"]).sel(run="patched"))
            assert moved == pytest.approx(float(swept["patched"][0, layer, column]), abs=1e-4)


def test_an_unknown_place_is_refused(engine: Engine, spec: ModelSpec, pair: Pair) -> None:
    with pytest.raises(SiteError, match="no position 'nowhere'"):
        engine.patch(spec, pair, "resid_pre", 0, label="nowhere")


def test_aligned_tokens_name_those_without_a_counterpart(engine: Engine, spec: ModelSpec) -> None:
    longer = typed("Mary Lee Pfeiffer's son is", "Bea Stone's son is", "Tom", "Ann")
    aligned = engine.aligned(spec, longer)
    assert aligned.slots["changed -1"] == 3
    assert aligned.slots["end -1"] == 6
    assert [aligned.clean[i] for i in aligned.unmatched[0]] == ["Mary"]
    assert aligned.unmatched[1] == []
    turned = typed("Bea Stone's son is", "Mary Lee Pfeiffer's son is", "Tom", "Ann")
    aligned = engine.aligned(spec, turned)
    assert aligned.unmatched[0] == []
    assert [aligned.corrupt[i] for i in aligned.unmatched[1]] == ["Mary"]


def test_results_are_computed_once(model_folder: Path) -> None:
    model, calls = load_model(str(model_folder)), []

    def load(spec: ModelSpec) -> Model:
        calls.append(spec)
        return model

    engine = Engine(load)
    spec = ModelSpec("any")
    first = engine.lens(spec, PROMPT, None)
    assert engine.lens(spec, PROMPT, None) is first
    assert engine.lens(spec, PROMPT, " Mary") is not first
    assert len(calls) == 3


def test_another_checkpoint_in_the_same_place_is_computed_anew(
    model_folder: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight += 1.0
    other.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    current = [load_model(str(model_folder)), load_model(str(tmp_path))]
    engine = Engine(lambda spec: current[0])
    before = engine.lens(ModelSpec("any"), PROMPT, None)
    current.pop(0)
    after = engine.lens(ModelSpec("any"), PROMPT, None)
    assert not np.allclose(before["top_prob"], after["top_prob"], atol=1e-3)


def test_old_results_make_room(
    fresh: Engine, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "RESULTS", 2)
    prompts = ["Tom is", "Ann is", "Cy is"]
    kept = [fresh.lens(spec, prompt, None) for prompt in prompts]
    assert fresh.lens(spec, prompts[2], None) is kept[2]
    assert fresh.lens(spec, prompts[0], None) is not kept[0]


def test_sessions_at_the_same_time_get_the_numbers_of_one_after_the_other(
    spec: ModelSpec, fresh: Engine
) -> None:
    """Hooks are shared state: without the lock one session's patch lands in another's run."""
    pairs = [
        typed(f"{a}'s mother is", f"{b}'s mother is", "Mary", "Bea")
        for a, b in [
            ("Tom Cruise", "Cy Dale"),
            ("Dan Frost", "Finn Grove"),
            ("Hal Iris", "Cy Dale"),
        ]
    ]
    model = load_model(spec.source)
    expected = {
        (pair, site): sweep(model, build(model, [pair]), site)["patched"].values
        for pair in pairs
        for site in ("mlp_out", "z")
    }
    start = threading.Barrier(6)

    def work(key: tuple[Pair, str]) -> np.ndarray:
        start.wait(timeout=30)
        patched: np.ndarray = fresh.sweep(spec, *key)["patched"].values
        return patched

    with ThreadPoolExecutor(6) as pool:
        for key, patched in zip(expected, pool.map(work, expected), strict=True):
            np.testing.assert_allclose(patched, expected[key], atol=1e-5)


def test_a_session_that_is_stopped_leaves_the_engine_free(
    spec: ModelSpec, fresh: Engine, pair: Pair
) -> None:
    """Streamlit stops a script by raising out of whatever it calls, which progress bars do."""

    class Stopped(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        fresh.sweep(spec, pair, "attn_out", stop)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(fresh.sweep, spec, pair, "attn_out").result(timeout=60)
    assert np.isfinite(result["patched"]).all()


def test_the_facts_beside_a_model_are_those_of_a_run(
    engine: Engine, spec: ModelSpec, record: RunRecord, examples: Examples
) -> None:
    found = answer(engine, brought.request(spec, {"reversal-curse": examples}))
    mine, stored = found.table, record.table("facts")
    assert mine is not None
    assert found.study == "reversal-curse"
    shared = [name for name in mine.columns if name in stored]
    assert {"fact", "subject", "forward_prompt", "reverse_rank", "forward_correct"} <= set(shared)
    for name in shared:
        if name.endswith("logprob"):
            np.testing.assert_allclose(mine[name], stored[name], atol=1e-4)
        else:
            assert list(mine[name]) == list(stored[name]), name


def test_a_model_without_facts_has_none(
    model_folder: Path, tmp_path: Path, examples: Examples
) -> None:
    for path in model_folder.iterdir():
        if path.name != "facts.csv":
            (tmp_path / path.name).symlink_to(path)
    engine = Engine(lambda spec: load_model(spec.source))
    request = brought.request(ModelSpec(str(tmp_path)), {"reversal-curse": examples})
    assert answer(engine, request) == Brought()


def test_a_study_that_cannot_ask_is_told_and_the_next_one_is_asked(
    engine: Engine, spec: ModelSpec, examples: Examples
) -> None:
    def broken(model: Model, tell: Progress) -> None:
        raise SystemExit(3)

    def refused(model: Model, tell: Progress) -> None:
        raise PromptError("It is in French.")

    studies = {
        "broken": replace(examples, measure=broken),
        "refused": replace(examples, measure=refused),
        "whole": examples,
    }
    found = answer(engine, brought.request(spec, studies))
    assert found.study == "whole"
    first, second = found.problems
    assert "'broken' asks could not be asked (SystemExit)" in first
    assert second == "It is in French."


def test_asking_for_examples_can_be_cancelled(
    engine: Engine, spec: ModelSpec, examples: Examples
) -> None:
    def stop(done: int, total: int) -> None:
        raise Stopped

    request = brought.request(spec, {"reversal-curse": examples})
    with pytest.raises(Stopped):
        engine.compute(spec, ("stopped",), lambda model: list(request.work(model, stop)))


def test_small_models_compute_in_one_thread_and_give_the_others_back(
    fresh: Engine, spec: ModelSpec, pair: Pair
) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[int] = []
    fresh.sweep(spec, pair, "attn_out", lambda done, total: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_errors_say_what_to_do(engine: Engine, spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        engine.about(ModelSpec(str(tmp_path)))
    with pytest.raises(PromptError, match="tokens"):
        engine.lens(spec, "Tom " * 100, None)


def test_work_that_holds_the_model_while_it_gives_way_is_no_deadlock(
    fresh: Engine, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    held = threading.Event()

    def work(model: Model, tell: Progress) -> Iterator[str]:
        with model.lock:
            held.set()
            for done in range(4):
                time.sleep(0.06)  # long enough to give way
                tell(done, 4)
        yield "done"

    going = fresh.in_steps(spec, ("holds",), work, gives_way=True)
    assert held.wait(30)
    other = ThreadPoolExecutor(1).submit(fresh.about, spec)
    assert going.wait(30).result == "done"
    assert other.result(30).n_layers == 2


def test_what_is_kept_is_given_while_others_compute(model_folder: Path) -> None:
    models = Models(lambda spec: load_model(spec.source))
    engine, spec = Engine(models.get, models.there), ModelSpec(str(model_folder))
    kept = engine.lens(spec, PROMPT, None)
    held, go = threading.Event(), threading.Event()

    def work(model: Model) -> None:
        held.set()
        go.wait(30)

    pool = ThreadPoolExecutor(2)
    try:
        going = pool.submit(engine.compute, spec, ("holds",), work)
        assert held.wait(30)
        assert pool.submit(engine.lens, spec, PROMPT, None).result(20) is kept
        # What is not kept takes its turn.
        other = pool.submit(engine.lens, spec, PROMPT, " Mary")
        with pytest.raises(FutureTimeout):
            other.result(0.3)
    finally:
        go.set()
    going.result(30)
    assert "answer_rank" in other.result(30)
    # The result of work that gives None is kept as well.
    assert engine.compute(spec, ("holds",), lambda model: "again") is None


def test_a_folder_with_another_tokenizer_is_another_model(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(model_folder, folder)
    spec = ModelSpec(str(folder))
    models = Models(lambda spec: load_model(spec.source))
    engine = Engine(models.get)
    before, lens = models.get(spec), engine.lens(spec, PROMPT, None)
    assert models.get(spec) is before
    assert engine.lens(spec, PROMPT, None) is lens
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    words = tokenizer["model"]["vocab"]
    one, other = (next(w for w in words if w.strip("Ġ▁ ") == name) for name in ("Tom", "Mary"))
    words[one], words[other] = words[other], words[one]
    new = folder / "new.part"
    new.write_text(json.dumps(tokenizer), "utf-8")
    os.utime(new, (1.0, 1.0))  # older than all others, as what was unpacked may be
    new.replace(path)
    assert models.get(spec) is not before
    after = engine.lens(spec, PROMPT, None)
    assert np.abs(after["top_prob"].values - lens["top_prob"].values).max() > 1e-4
