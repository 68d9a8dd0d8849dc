"""Edges of circuits that are known, because their weights were written by hand."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from interp.circuits import attribute_edges
from interp.components.components import Components
from interp.components.contrast import contrasts
from interp.components.graph import Graph
from interp.components.wiring import Reference, run_circuits
from interp.metrics import logit_diff
from interp.model.model import Model
from tests.interp.circuits import by_hand
from tests.interp.circuits.auroc import METHODS, edge_auroc, table
from tests.interp.circuits.by_hand import Question
from tests.interp.circuits.canvas import ONE
from tests.interp.circuits.planted import BUILDERS, Planted
from tests.interp.circuits.split import Split

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=BUILDERS)
def planted(request: pytest.FixtureRequest) -> Planted:
    return BUILDERS[request.param]()


@pytest.fixture(scope="module")
def loaded() -> Callable[[Planted], Model]:
    """A copy of each model through `load_model`, so that the planted one itself stays unwrapped."""
    return functools.cache(lambda planted: BUILDERS[planted.name]().load())


def logits(planted: Planted, prompts: list[list[int]]) -> torch.Tensor:
    """Of the next token [example, vocabulary]."""
    with torch.no_grad():
        out: torch.Tensor = planted.hf(torch.tensor(prompts), use_cache=False).logits[:, -1]
    return out


def test_the_model_does_its_task(planted: Planted) -> None:
    rng = random.Random(7)
    clean, corrupt, answers, foils = (
        list(column) for column in zip(*(planted.draw(rng) for _ in range(300)), strict=True)
    )
    found = logits(planted, clean)
    assert (found.argmax(-1) == torch.tensor(answers)).all()
    # And for no other reason than what differs between the prompts.
    without = logits(planted, corrupt)
    wanted, unwanted = torch.tensor(answers)[:, None], torch.tensor(foils)[:, None]
    drop = (found - without).gather(1, wanted) - (found - without).gather(1, unwanted)
    assert (drop > 4).all()


def test_norms_are_harmless(planted: Planted) -> None:
    """Readers see the stream itself, a 1 in place of the constant, and nothing of the balance."""
    clean, *_ = planted.draw(random.Random(0))
    split = Split(planted.hf)
    with torch.no_grad():
        written = split.run(split.embed(clean)).written
        stream = torch.stack([value.expand(1, len(clean), -1) for value in written.values()]).sum(0)
        seen = split.blocks[-1].mlp_norm(stream)
    hidden = 3 if split.kind == "gpt2" else 1
    torch.testing.assert_close(seen[..., hidden:], stream[..., hidden:], rtol=5e-3, atol=1e-4)
    torch.testing.assert_close(seen[..., ONE], torch.ones(1, len(clean)), rtol=5e-3, atol=0)
    assert not seen[..., 1:hidden].any()


def test_idle_parts_are_not_silent(planted: Planted) -> None:
    """Each of them writes something else in the corrupted run; one writes more than the circuit."""
    split = Split(planted.hf)
    clean, corrupt, *_ = planted.draw(random.Random(0))
    where = [(i, i) for i in range(len(clean))]
    _, change = by_hand.changes(split, Question(clean, corrupt, where, lambda t: t[:, -1, 0]))
    busy = {source for source, _ in planted.edges}
    size = {name: float(value[..., 3:].norm()) for name, value in change.items()}
    idle = {name: value for name, value in size.items() if name not in busy}
    assert len(idle) > len(busy)
    assert min(idle.values()) > 0.005
    assert max(idle.values()) > max(size[name] for name in busy if name != "input")


def test_the_true_edges_are_all_that_matters(
    planted: Planted, loaded: Callable[[Planted], Model]
) -> None:
    """Alone they give the clean answer; without them nothing does."""
    model = loaded(planted)
    graph, pairs = Graph.of(model), planted.pairs(model)
    truth = planted.truth(graph)
    parts = Components(model, pairs.clean.ids)
    (contrast,) = contrasts(parts, pairs, logit_diff, "clean")
    circuits = np.stack([truth, graph.real & ~truth])
    reference = Reference.other_run(contrast)
    alone, without = run_circuits(contrast, graph, reference, circuits)
    clean, corrupt = contrast.base_value.numpy(), contrast.other_value.numpy()
    whole = clean - corrupt
    assert (whole > 4).all()
    assert np.mean(np.abs(alone - clean) / whole) < 0.2
    assert np.mean(np.abs(without - corrupt) / whole) < 0.2


@pytest.mark.parametrize("method", ["eap-ig", "exact"])
def test_true_edges_are_found(
    planted: Planted, loaded: Callable[[Planted], Model], method: Any
) -> None:
    model = loaded(planted)
    graph = Graph.of(model)
    found = attribute_edges(model, planted.pairs(model), method=method)
    auroc = edge_auroc(found, planted.truth(graph), graph.real)
    assert auroc >= (1.0 if method == "exact" else 0.95)


def test_each_true_edge_is_needed(planted: Planted, loaded: Callable[[Planted], Model]) -> None:
    """Corrupting any one of them costs a good part of the answer."""
    model = loaded(planted)
    found = attribute_edges(model, planted.pairs(model), method="exact")
    whole = float((found["clean"] - found["corrupt"]).mean())
    for source, destination in planted.edges:
        drop = float(found["score"].sel(source=source, destination=destination))
        assert drop > 0.3 * whole, (source, destination)


def test_the_table_names_all_methods() -> None:
    planted = BUILDERS["two-hop look-up"]()
    head, _, line = table([planted]).splitlines()
    assert head.split(" | ")[1:] == [*METHODS[:-1], METHODS[-1] + " |"]
    assert line.startswith("| two-hop look-up | ")
    assert line.endswith(" 1.000 |")
