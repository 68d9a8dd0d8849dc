"""Edges of a trained model, whose circuit is told by where its heads attend."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from interp.circuits import attribute_edges
from interp.components.graph import Graph
from interp.model.model import Model
from tests.interp.circuits import train_induction
from tests.interp.circuits.auroc import METHODS, edge_auroc
from tests.interp.circuits.planted import Planted
from tests.interp.circuits.trained import attention_shares, known_heads, trained_induction


@pytest.fixture(scope="module")
def trained() -> Planted:
    return trained_induction()


@pytest.fixture(scope="module")
def model() -> Model:
    """A copy that is wrapped, so that the other one stays as Hugging Face has it."""
    return trained_induction().load()


def accuracy(hf: Any, planted: Planted) -> float:
    rng = random.Random(7)
    clean, _, answers, _ = zip(*(planted.draw(rng) for _ in range(500)), strict=True)
    with torch.no_grad():
        logits = hf(torch.tensor(clean), use_cache=False).logits[:, -1]
    return float((logits.argmax(-1) == torch.tensor(answers)).float().mean())


def silenced(heads: Iterable[str], *, mlps: bool = False) -> Any:
    """The model without what these heads, and perhaps all MLPs, write."""
    hf = train_induction.load()
    with torch.no_grad():
        for name in heads:
            layer, head = (int(part[1:]) for part in name.split("."))
            out = hf.model.layers[layer].self_attn.o_proj.weight
            out.unflatten(1, (train_induction.N_HEADS, -1))[:, head] = 0.0
        for block in hf.model.layers:
            block.mlp.down_proj.weight *= 1.0 - mlps
    return hf


@pytest.mark.slow
def test_training_gives_the_same_weights_again_and_lowers_the_loss() -> None:
    first, losses = train_induction.train(steps=30)
    second, _ = train_induction.train(steps=30)
    for (name, ours), theirs in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert losses[-1] < 0.9 * losses[0]
    assert first.state_dict().keys() == train_induction.load().state_dict().keys()


def test_the_stored_model_continues_repetitions(trained: Planted) -> None:
    ids = train_induction.sequences(500, torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert float(train_induction.loss(trained.hf, ids)) < 0.005
    # And where a pair comes again after other distances than in training.
    assert accuracy(trained.hf, trained) > 0.99


def test_its_heads_are_known_by_their_attention_beyond_doubt(trained: Planted) -> None:
    before, after = attention_shares(trained.hf)
    previous, inducing = known_heads(trained.hf)
    assert len(previous) == 1
    assert len(inducing) == 2
    assert float(before[0].max()) > 0.9
    assert all(float(after[1, int(head[-1])]) > 0.9 for head in inducing)
    assert float(after[0].max()) < 0.1


@pytest.mark.slow
def test_its_known_heads_are_its_circuit(trained: Planted) -> None:
    """Plain Hugging Face: without them the task is lost, and without all else it is not."""
    previous, inducing = known_heads(trained.hf)
    assert accuracy(silenced(previous), trained) < 0.2
    assert accuracy(silenced(inducing), trained) < 0.2
    others = {f"a{layer}.h{head}" for layer in range(2) for head in range(4)}
    others -= {*previous, *inducing}
    assert accuracy(silenced(others, mlps=True), trained) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_its_edges_are_found(trained: Planted, model: Model, method: Any) -> None:
    graph = Graph.of(model)
    found = attribute_edges(model, trained.pairs(model), method=method)
    assert len(trained.edges) == 9
    auroc = edge_auroc(found, trained.truth(graph), graph.real)
    assert auroc >= (1.0 if method == "exact" else 0.95)
