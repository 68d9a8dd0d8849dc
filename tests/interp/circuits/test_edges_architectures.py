"""Edges and circuits of every architecture whose blocks are sums of heads and MLPs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import PromptPairs, load_model
from interp.circuits import attribute_edges
from interp.components.components import Components
from interp.components.contrast import contrasts
from interp.components.graph import Graph
from interp.components.wiring import Reference, run_circuits
from interp.errors import ModelError
from interp.metrics import logit_diff
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import N_SPECIAL, VOCABULARY, build_tokenizer

pytestmark = pytest.mark.slow

NORMED_OR_SCALED = ("Gemma 2", "Gemma 3", "OLMo 2", "Granite")
# OPT has no module for its MLP; BLOOM's gets the stream besides what it reads.
MLP_APART = ("OPT", "BLOOM")
REFUSED = (*NORMED_OR_SCALED, *MLP_APART)
N = 3


def drawn() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)  # no answer is its own foil
    shapes = {"clean": (N, 7), "corrupt": (N, 7), "answers": (N,), "foils": (N,)}
    return {
        name: torch.randint(N_SPECIAL, len(VOCABULARY), shape, generator=generator)
        for name, shape in shapes.items()
    }


def read(logits: Tensor) -> Tensor:
    """The logit difference of each example."""
    given = drawn()
    last, row = logits[:, -1], torch.arange(N)
    return last[row, given["answers"]] - last[row, given["foils"]]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in REFUSED])
def test_edges_of_the_embedding_add_up_to_its_whole_effect(name: str) -> None:
    """The gradient by the embedding is the sum of those by what each reader reads of it."""
    hf: Any = ARCHITECTURES[name].build()
    given = drawn()
    table = hf.get_input_embeddings()
    embedded = table(given["clean"]).detach().requires_grad_()
    value = read(hf(inputs_embeds=embedded, use_cache=False).logits)
    (gradient,) = torch.autograd.grad(-value.sum(), embedded)
    change = table(given["corrupt"]) - embedded
    expected = (change * gradient).sum((1, 2)).detach()

    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    found = attribute_edges(model, PromptPairs(model, **given), method="eap")
    whole = found["by_example"].sel(source="input").sum("destination")
    largest = float(expected.abs().max())
    assert largest > 0.05
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-4 * largest)
    np.testing.assert_allclose(found["clean"], value.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in REFUSED])
def test_all_edges_give_the_clean_run_and_none_the_corrupted_one(name: str) -> None:
    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    given = drawn()
    pairs = PromptPairs(model, **given)
    graph = Graph.of(model)
    (contrast,) = contrasts(Components(model, given["clean"]), pairs, logit_diff, "clean")
    circuits = np.stack([graph.real, np.zeros_like(graph.real)])
    values = run_circuits(contrast, graph, Reference.other_run(contrast), circuits)
    hf: Any = ARCHITECTURES[name].build()
    with torch.no_grad():
        for run, found in zip(("clean", "corrupt"), values, strict=True):
            expected = read(hf(given[run], use_cache=False).logits)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["eap", "exact"])
def test_other_architectures_are_refused_in_one_sentence(name: str, method: Any) -> None:
    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    pairs = PromptPairs(model, **drawn())
    with pytest.raises(ModelError) as caught:
        attribute_edges(model, pairs, method=method)
    text = str(caught.value)
    assert ("sum of its heads and its MLP" in text) == (name in NORMED_OR_SCALED)
    assert text.endswith("sweep its sites instead.")
    assert "\n" not in text
    assert ". " not in text
