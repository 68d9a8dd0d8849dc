"""Circuits are run as split forward passes of plain Hugging Face models say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.circuits import attribute_edges, measure, minimality, prune
from interp.components.graph import Graph
from interp.errors import ArgumentError, ModelError, SiteError
from interp.model import memory
from tests.interp.circuits import by_hand
from tests.interp.circuits.rewired import circuit_run
from tests.interp.circuits.split import Split
from tests.interp.pairs import CASES, prompt_pairs
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow

REFERENCE = ("we saw Ann near Rome", "so Fay is the friend of Gus")


def random_sets(graph: Graph, n: int = 4) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Dense and sparse sets of edges, the empty and the full one among them."""
    rng = np.random.default_rng(0)
    shares = np.array([0.0, 1.0, *np.linspace(0.1, 0.9, n)])
    return (rng.random((n + 2, *graph.real.shape)) < shares[:, None, None]) & graph.real


def means(tiny: Tiny, split: Split) -> dict[str, torch.Tensor]:
    """Of what each writer writes over all tokens of the reference prompts but BOS."""
    rows: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for text in REFERENCE:
            for name, value in split.run(split.embed(tiny.ids(text))).written.items():
                rows.setdefault(name, []).append(value[0, len(tiny.bos) :])
    return {name: torch.cat(values).mean(0) for name, values in rows.items()}


def by_split(
    tiny: Tiny, sets: np.ndarray[Any, Any], ablation: str, metric: str
) -> np.ndarray[Any, Any]:
    """[set, example]"""
    split = Split(tiny.hf)
    sources, destinations = split.sources(), split.destinations()
    out = np.zeros((len(sets), len(CASES)))
    for example, case in enumerate(CASES):
        for question in by_hand.questions(tiny, case, metric):
            clean, change = by_hand.changes(split, question)
            ablated = {name: clean[name] + change[name] for name in sources}
            if ablation != "patching":
                mean = means(tiny, split)
                ablated = {n: mean[n].expand_as(v) for n, v in ablated.items()}
            if ablation == "zero":
                ablated = {n: torch.zeros_like(v) for n, v in ablated.items()}
            circuits = [
                {(sources[s], destinations[d]) for s, d in np.argwhere(chosen)} for chosen in sets
            ]
            logits = circuit_run(split, split.embed(question.clean), circuits, ablated)
            out[:, example] += question.metric(logits).detach().numpy()
    return out


@pytest.mark.parametrize(
    ("ablation", "metric"),
    [
        ("patching", "logit_diff"),
        ("patching", "logprob_diff"),
        ("mean", "logit_diff"),
        ("zero", "logit_diff"),
    ],
)
def test_any_set_of_edges_is_run_exactly(tiny: Tiny, ablation: Any, metric: str) -> None:
    sets = random_sets(Graph.of(tiny.model))
    reference = list(REFERENCE) if ablation == "mean" else None
    found = measure(
        tiny.model, prompt_pairs(tiny), sets, metric, ablation=ablation, reference=reference
    )
    expected = by_split(tiny, sets, ablation, metric)
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_results_do_not_depend_on_what_is_run_together(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, sets = prompt_pairs(llama), random_sets(Graph.of(llama.model))
    together = measure(llama.model, pairs, sets)
    seen: list[tuple[int, int]] = []
    alone = measure(llama.model, pairs, sets, progress=lambda *a: seen.append(a))
    np.testing.assert_array_equal(together, alone)
    monkeypatch.setattr(memory, "memory_budget", lambda _: 1)
    one_by_one = measure(llama.model, pairs, sets)
    np.testing.assert_allclose(one_by_one, together, rtol=0, atol=1e-4)
    assert seen[-1] == (len(sets) * len(pairs), len(sets) * len(pairs))


def test_minimality_is_the_metric_without_the_edge(llama: Tiny) -> None:
    pairs = prompt_pairs(llama)
    circuit = prune(attribute_edges(llama.model, pairs, method="eap"), 25)
    found = minimality(llama.model, pairs, circuit)
    assert len(found["edge"]) == len(circuit) > 5
    for edge in (0, len(circuit) - 1):
        source, destination = circuit.edges[edge]
        assert (found["source"][edge], found["destination"][edge]) == (source, destination)
        graph, smaller = circuit.graph, circuit.included.copy()
        smaller[graph.sources.index(source), graph.destinations.index(destination)] = False
        whole, without = by_split(
            llama, np.stack([circuit.included, smaller]), "patching", "logit_diff"
        )
        np.testing.assert_allclose(found["whole"], whole, atol=2e-4)
        np.testing.assert_allclose(found["effect"][edge], whole - without, atol=2e-4)


def test_what_cannot_be_run_is_refused(llama: Tiny, gpt2: Tiny) -> None:
    pairs = prompt_pairs(llama)
    circuit = prune(attribute_edges(llama.model, pairs, method="eap"), 25)
    with pytest.raises(ModelError, match="are of the model 'llama', not of gpt2"):
        measure(gpt2.model, prompt_pairs(gpt2), circuit)
    with pytest.raises(ModelError, match="not of gpt2"):
        minimality(gpt2.model, prompt_pairs(gpt2), circuit)
    with pytest.raises(ArgumentError, match="Unknown ablation 'noise'"):
        measure(llama.model, pairs, circuit, ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="give them as reference"):
        measure(llama.model, pairs, circuit, ablation="mean")
    with pytest.raises(SiteError, match="booleans of shape"):
        measure(llama.model, pairs, np.ones((1, 3, 3), dtype=bool))
