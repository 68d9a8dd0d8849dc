"""Edges and circuits agree with the EAP-IG authors' code on stored models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import PromptPairs, load_model
from interp.circuits import attribute_edges
from interp.components.components import Components
from interp.components.contrast import contrasts
from interp.components.graph import Graph
from interp.components.wiring import Reference, run_circuits
from interp.metrics import logit_diff
from interp.model.model import Model
from tests.interp.circuits import by_hand
from tests.interp.circuits.by_hand import Question
from tests.interp.circuits.split import Split
from tests.interp.tiny import load_hugging_face

pytestmark = pytest.mark.shared
Table = np.ndarray[Any, Any]
STEPS = 5
# Our name: stored name.
METHODS = {
    "eap": "EAP",
    "eap-ig": "EAP-IG-inputs",
    "clean-corrupted": "clean-corrupted",
    "eap-ig-activations": "EAP-IG-activations",
    "exact": "exact",
}


@dataclass(frozen=True)
class Golden:
    name: str
    folder: Path
    model: Model
    answers: dict[str, Table]
    axes: dict[str, list[str]]

    @property
    def pairs(self) -> PromptPairs:
        def ids(name: str) -> torch.Tensor:
            return torch.from_numpy(self.answers[name]).long()

        return PromptPairs(
            self.model, ids("clean"), ids("corrupt"), answers=ids("answer"), foils=ids("wrong")
        )

    def expected(self, method: str) -> Table:
        """The stored scores in our scale: see the README beside them."""
        stored: Table = self.answers[f"edges_{METHODS[method]}"]
        # The reference divides by the number of examples once more; exact changes have the
        # opposite sign.
        scores = -stored if method == "exact" else len(self.answers["clean"]) * stored
        if (self.name, method) == ("llama", "eap-ig-activations"):
            scores = scores + self.left_out
        return scores

    @property
    def left_out(self) -> Table:
        """What the reference misses in Llama's first layer, for integrated activations.

        Where it interpolates the embedding, its hook returns a tensor that needs no gradient, and
        without position embeddings nothing before the first attention does. So the runs between
        corrupted and clean embedding do not count for the first queries, keys and values. Their
        mean over all 7 × 5 runs is computed here on Hugging Face's model.
        """
        split = Split(load_hugging_face(self.folder))
        table = np.zeros((len(self.axes["sources"]), len(self.axes["destinations"])))
        first = [i for i, name in enumerate(self.axes["destinations"]) if name.startswith("a0.")]
        for row, clean in enumerate(self.answers["clean"]):
            answer, wrong = (int(self.answers[name][row]) for name in ("answer", "wrong"))
            question = Question(
                clean.tolist(),
                self.answers["corrupt"][row].tolist(),
                [(i, i) for i in range(len(clean))],
                lambda logits, a=answer, w=wrong: logits[:, -1, a] - logits[:, -1, w],
            )
            written, change = by_hand.changes(split, question)
            for step in range(1, STEPS + 1):
                embedding = written["input"] + (1 - step / STEPS) * change["input"]
                found = by_hand.gradient(split, question, embedding, {})
                for column in first:
                    gradient = found[self.axes["destinations"][column]]
                    table[0, column] += float((change["input"] * gradient).sum())
        groups = 2 * split.n_layers + 1
        return table / (len(self.answers["clean"]) * groups * STEPS)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    folder = shared / "golden" / request.param
    with np.load(folder / "golden.npz", allow_pickle=False) as stored:
        answers = {name: stored[name] for name in stored.files}
    axes = json.loads((folder / "edge_axes.json").read_text())
    return Golden(request.param, folder, load_model(folder), answers, axes)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_edges_are_the_stored_ones(golden: Golden, method: Any) -> None:
    found = attribute_edges(golden.model, golden.pairs, method=method, steps=STEPS)
    assert found.source.values.tolist() == golden.axes["sources"]
    assert found.destination.values.tolist() == golden.axes["destinations"]
    real = golden.answers["real_edges"]
    np.testing.assert_array_equal(np.isfinite(found["score"]), real)
    expected = golden.expected(method)
    largest = np.abs(expected[real]).max()
    np.testing.assert_allclose(
        found["score"].values[real], expected[real], rtol=0, atol=1e-4 * largest
    )
    for run in ("clean", "corrupt"):
        np.testing.assert_allclose(found[run], golden.answers[f"ld_{run}"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_no_stored_edges_are_left_out(golden: Golden) -> None:
    stored = {n.removeprefix("edges_") for n in golden.answers if n.startswith("edges_")}
    assert stored == set(METHODS.values())


@pytest.mark.slow
def test_what_the_reference_leaves_out_is_not_small(golden: Golden) -> None:
    """Otherwise the correction would not be seen to be needed."""
    if golden.name == "llama":
        stored = golden.answers["edges_EAP-IG-activations"] * len(golden.answers["clean"])
        assert np.abs(golden.left_out).max() > 1e-2 * np.abs(stored).max()


def test_circuits_give_the_stored_values(golden: Golden) -> None:
    names = [n.removesuffix("_in") for n in golden.answers if n.startswith("circuit_")]
    names = sorted({n.removesuffix("_value") for n in names})
    assert len(names) == 8
    real = golden.answers["real_edges"]
    circuits = [golden.answers[f"{name}_in"] for name in names]
    circuits = np.stack([*circuits, real, np.zeros_like(real)])
    values = _run(golden, circuits)
    assert values.shape == (len(names) + 2, len(golden.answers["clean"]))
    for name, value in zip(names, values, strict=False):
        np.testing.assert_allclose(
            value, golden.answers[f"{name}_value"], rtol=0, atol=1e-4, err_msg=name
        )
    np.testing.assert_allclose(values[-2], golden.answers["ld_clean"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(values[-1], golden.answers["ld_corrupt"], rtol=0, atol=1e-4)


def _run(golden: Golden, circuits: Table) -> Table:
    pairs = golden.pairs
    parts = Components(golden.model, pairs.clean.ids)
    graph = Graph.of(golden.model)
    values = np.full((len(circuits), len(pairs)), np.nan)
    for contrast in contrasts(parts, pairs, logit_diff, "clean"):
        found = run_circuits(contrast, graph, Reference.other_run(contrast), circuits)
        values[:, contrast.examples.numpy()] = found
    return values
