"""Edge scores against plain Hugging Face models: by autograd, and one edge at a time.

All methods, on prompts of unequal length aligned by spans, several at once, with answers of several
tokens, on GPT-2, Llama with grouped queries, and GPT-NeoX with parallel blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from interp.circuits import attribute_edges
from interp.components.graph import Graph
from interp.model import memory
from tests.interp import brute_force
from tests.interp.circuits import by_hand
from tests.interp.circuits.split import Split
from tests.interp.pairs import CASES, prompt_pairs, slots
from tests.interp.tiny import BUILDERS, Tiny

pytestmark = pytest.mark.slow

GRADIENTS = ("eap", "eap-ig", "clean-corrupted", "eap-ig-activations")
METHODS = (*GRADIENTS, "exact")
STEPS = 3


def close(found: Any, expected: Any) -> None:
    """Equal to 1e-4 of the largest score, and NaN at the same places."""
    expected = np.asarray(expected)
    largest = np.nanmax(np.abs(expected))
    assert largest > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * largest)


def by_example(tiny: Tiny, method: str, metric: str) -> np.ndarray[Any, Any]:
    """[example, source, destination]"""
    split = Split(tiny.hf)
    tables = []
    for number, case in enumerate(CASES):
        if method == "exact":
            asked = by_hand.questions(tiny, case, metric)
            tables.append(sum(by_hand.exact(split, question) for question in asked))
        else:
            tables.append(sum(found.sum(0) for found in estimated(tiny, number, method, metric)))
    return np.stack(tables)


@functools.cache
def estimated(tiny: Tiny, example: int, method: str, metric: str) -> list[by_hand.Table]:
    """[position, source, destination] of each sequence that the metric reads; read only."""
    asked = by_hand.questions(tiny, CASES[example], metric)
    return [by_hand.estimated(Split(tiny.hf), question, method, STEPS) for question in asked]


def test_graph_has_the_readers_and_writers_of_the_model(tiny: Tiny) -> None:
    split, graph = Split(tiny.hf), Graph.of(tiny.model)
    assert list(graph.sources) == split.sources()
    assert list(graph.destinations) == split.destinations()
    for column, destination in enumerate(graph.destinations):
        writers = [graph.sources[row] for row in np.flatnonzero(graph.real[:, column])]
        assert writers == split.reads(destination), destination


# That a metric reads several sequences is alike on all architectures.
@pytest.mark.parametrize(
    ("tiny", "metric"),
    [*((name, "logit_diff") for name in BUILDERS), ("llama", "logprob_diff")],
    indirect=["tiny"],
)
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_by_hand(tiny: Tiny, method: Any, metric: str) -> None:
    found = attribute_edges(tiny.model, prompt_pairs(tiny), metric, method=method, steps=STEPS)
    expected = by_example(tiny, method, metric)
    close(found["by_example"], expected)
    close(found["score"], expected.mean(0))
    for run in ("clean", "corrupt"):
        expected_value = brute_force.unpatched(tiny, run, metric)
        np.testing.assert_allclose(found[run], expected_value, rtol=0, atol=1e-4)


def test_gradient_scores_are_the_slope_of_corrupting_an_edge_a_little(tiny: Tiny) -> None:
    """Finite differences, in double precision: no autograd involved."""
    found = attribute_edges(tiny.model, prompt_pairs(tiny), method="eap")["by_example"].values
    hf = type(tiny.hf)(tiny.hf.config).double().eval()
    hf.load_state_dict(tiny.hf.state_dict())
    split, step = Split(hf), 1e-5
    for example, case in enumerate(CASES):
        (question,) = by_hand.questions(tiny, case)
        _, change = by_hand.changes(split, question)
        embedding = split.embed(question.clean)
        expected = np.full(found.shape[1:], np.nan)
        for column, destination in enumerate(split.destinations()):
            writers = split.reads(destination)
            little = step * torch.cat([change[name] for name in writers])
            with torch.no_grad():
                up, down = (
                    question.metric(split.run(embedding, added={destination: sign * little}).logits)
                    for sign in (1, -1)
                )
            rows = [split.sources().index(name) for name in writers]
            expected[rows, column] = ((down - up) / (2 * step)).numpy()
        close(found[example], expected)


@pytest.mark.parametrize("method", GRADIENTS)
def test_scores_by_position_are_those_by_hand_and_add_up(tiny: Tiny, method: Any) -> None:
    pairs = prompt_pairs(tiny)
    found = attribute_edges(tiny.model, pairs, method=method, steps=STEPS, by="position")
    tables = [estimated(tiny, example, method, "logit_diff")[0] for example in range(len(CASES))]
    axis = slots(tiny)
    assert found.position_label.values.tolist() == [label for label, _ in axis]
    expected = np.zeros(found["position_score"].shape)
    for slot, (_, at) in enumerate(axis):
        for table, pair in zip(tables, at, strict=True):
            if pair is not None:
                expected[slot] += table[pair[0]] / len(CASES)
    expected[:, np.isnan(tables[0][0])] = np.nan
    close(found["position_score"], expected)
    close(found["position_score"].sum("position", skipna=False), found["score"])


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_the_batch(
    llama: Tiny, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = prompt_pairs(llama, CASES[:2])

    def scores() -> Any:
        return attribute_edges(llama.model, pairs, "logprob_diff", method=method, steps=STEPS)

    whole = scores()
    asked: list[Any] = []

    def little(model: Any) -> int:
        asked.append(model)
        # One row at a time, or a few where there are hundreds.
        return 1 << 18 if method == "exact" else 1

    monkeypatch.setattr(memory, "memory_budget", little)
    apart = scores()
    assert asked
    close(apart["by_example"], whole["by_example"])


def test_progress_tells_how_much_is_done(gpt2: Tiny) -> None:
    for method, cases, total in (
        ("eap", CASES, len(CASES)),
        ("exact", CASES[:1], Graph.of(gpt2.model).n_edges),
    ):
        told: list[tuple[int, int]] = []
        attribute_edges(
            gpt2.model,
            prompt_pairs(gpt2, cases),
            method=method,  # type: ignore[arg-type]
            progress=lambda done, of: told.append((done, of)),  # noqa: B023
        )
        assert told[-1] == (total, total)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
