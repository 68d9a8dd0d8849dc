"""Circuits on the screen: what is measured, and with what it is compared."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from app.compute import circuits
from app.compute.background import requests
from app.compute.circuits import Measured
from app.compute.engine import Engine, ModelSpec
from app.compute.pairs import build, typed
from experiments.explorer import Pair
from interp import load_model
from interp.circuits import measure, prune
from interp.errors import ModelError
from interp.stats import effect
from tests.app.compute import asking

PAIRS = (
    typed("Tom Cruise's mother is", "Cy Dale's mother is", "Mary", "Bea"),
    typed("Dan Frost's mother is", "Hal Iris's mother is", "Eva", "Ida"),
)


def logit_difference(folder: Path, prompt: str, answer: str, foil: str) -> float:
    """Read from the plain Hugging Face model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    words = [tokenizer(prompt + text)["input_ids"] for text in ("", answer, foil)]
    if words[0][0] != tokenizer.bos_token_id:
        words = [[tokenizer.bos_token_id, *ids] for ids in words]
    with torch.no_grad():
        logits = model(torch.tensor([words[0]])).logits[0, -1]
    at = len(words[0])
    return float(logits[words[1][at]] - logits[words[2][at]])


@pytest.mark.slow
def test_whole_and_empty_are_the_two_runs(
    engine: Engine, spec: ModelSpec, model_folder: Path
) -> None:
    found = asking.circuit(engine, spec, PAIRS, 20)
    for run, value in (("clean", found.whole), ("corrupt", found.empty)):
        expected = [
            logit_difference(model_folder, getattr(pair, run), pair.answer, pair.foil)
            for pair in PAIRS
        ]
        assert value == pytest.approx(np.mean(expected), abs=1e-4)
    assert found.n_pairs == 2


@pytest.mark.slow
def test_the_circuit_is_run_and_so_is_all_that_it_leaves_out(
    engine: Engine, spec: ModelSpec
) -> None:
    found = asking.circuit(engine, spec, PAIRS, 20)
    model = load_model(spec.source)
    pairs = build(model, PAIRS)
    circuit = prune(asking.answer(engine, requests.edges(spec, PAIRS)), 20, choice="greedy")
    np.testing.assert_array_equal(found.circuit.included, circuit.included)
    rest = circuit.graph.real & ~circuit.included
    alone, others = measure(model, pairs, np.stack([circuit.included, rest])).mean(1)
    assert found.alone == pytest.approx(float(alone), abs=1e-4)
    assert found.rest == pytest.approx(float(others), abs=1e-4)
    assert len(found.random) == 5
    assert len(set(found.random)) > 1
    assert asking.circuit(engine, spec, PAIRS, 20) is found


@pytest.mark.slow
def test_shares_count_from_no_edge_to_the_whole_model(engine: Engine, spec: ModelSpec) -> None:
    circuit = asking.circuit(engine, spec, PAIRS, 20).circuit

    def measured(full: list[float]) -> Measured:
        whole, ends = effect(full, [1.0] * len(full)), (0.5, 0.9)
        return Measured(
            circuit, len(full), True, whole, 5.0, 1.0, 4.0, 0.0, (1.0, 2.0), *[ends] * 3
        )

    one = measured([4.0, 5.0, 6.0, 5.0, 4.0, 6.0])
    assert one.share(one.alone) == 0.75
    assert one.share(one.rest) == -0.25
    # A single pair, an effect that could be none, and one of the wrong sign have no shares.
    for full in ([5.0], [9.0, -7.0, 6.0, 0.0, 5.0, 2.0], [-4.0, -5.0, -6.0, -5.0, -4.0, -6.0]):
        nothing = measured(full)
        assert np.isnan(nothing.share(nothing.alone))
        assert nothing.effect.reason.startswith("No share can be told")


@pytest.mark.slow
def test_places_are_called_by_the_tokens_that_all_prompts_have(
    engine: Engine, spec: ModelSpec
) -> None:
    found = asking.circuit(engine, spec, PAIRS, 20)
    told: dict[str, set[str]] = {}
    for pair in PAIRS:
        aligned = engine.aligned(spec, pair)
        for label, (clean, corrupt) in aligned.places.items():
            told.setdefault(label, set()).update((aligned.clean[clean], aligned.corrupt[corrupt]))
    assert found.tokens == {label: one.pop() for label, one in told.items() if len(one) == 1}
    assert 0 < len(found.tokens) < len(told)
    alone, aligned = asking.circuit(engine, spec, PAIRS[:1], 20), engine.aligned(spec, PAIRS[0])
    assert alone.tokens == {label: aligned.clean[at] for label, at in aligned.slots.items()}


def test_a_single_pair_has_no_share(engine: Engine, spec: ModelSpec) -> None:
    found = asking.circuit(engine, spec, PAIRS[:1], 20)
    assert not found.effect.clear
    assert not found.unseen
    assert np.isnan(found.share(found.alone))


@pytest.mark.slow
def test_enough_pairs_are_measured_on_others_than_they_were_found_on(
    engine: Engine, spec: ModelSpec
) -> None:
    names = ["Tom Cruise", "Cy Dale", "Dan Frost", "Finn Grove", "Hal Iris"]
    pairs = tuple(
        typed(f"{a}'s mother is", f"{b}'s mother is", "Mary", "Bea")
        for a, b in itertools.permutations(names, 2)
    )[:12]
    scored, run = circuits.halves(pairs)
    assert set(scored).isdisjoint(run)
    assert {*scored, *run} == set(pairs)
    found = asking.circuit(engine, spec, run + scored, 20)
    assert found.n_pairs == 6
    prompts = {pair.clean for pair in circuits.halves(run + scored)[1]}
    assert found.unseen == prompts.isdisjoint(found.circuit.found_on)
    assert circuits.halves(PAIRS) == (PAIRS, PAIRS)


def test_sizes_fit_the_model() -> None:
    assert circuits.sizes(262)[-1] == 200
    assert circuits.sizes(3) == [3]
    assert circuits.nearest(999_999, circuits.sizes(262)) == 200
    assert circuits.nearest(42, circuits.sizes(262)) == 40


@pytest.mark.slow
def test_several_pairs_are_one_set_of_prompts(engine: Engine, spec: ModelSpec) -> None:
    built = build(load_model(spec.source), PAIRS)
    assert built.clean.texts == tuple(pair.clean for pair in PAIRS)
    assert set(built.alignment.spans) >= {"changed", "end"}
    assert isinstance(PAIRS[0], Pair)


def test_a_model_that_is_no_sum_is_refused_in_a_sentence(
    fresh: Engine, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise ModelError("Its blocks are no sums.")

    monkeypatch.setattr("interp.circuits.attribute_edges", refuse)
    with pytest.raises(ModelError, match="no sums"):
        asking.circuit(fresh, spec, PAIRS, 20)


def test_enough_is_the_size_that_was_asked_for() -> None:
    """Of which a few edges lead nowhere; the next smaller size may do too little."""
    curve = xr.Dataset(
        {
            "f": ("fraction", [0.2, 0.79, 0.9, 1.0]),
            "n_edges": ("fraction", [5, 14, 17, 50]),
        },
        coords={"fraction": [0.1, 0.3, 0.4, 1.0]},
    )
    assert circuits.enough(curve) == 20
    assert circuits.enough(curve.assign(f=("fraction", [np.nan] * 4))) is None
