"""Edges and circuits of every architecture."""

from __future__ import annotations

import functools
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
from interp.metrics import logit_diff
from interp.model.model import Model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import N_SPECIAL, VOCABULARY, build_tokenizer

pytestmark = pytest.mark.slow

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


@functools.cache
def built(name: str) -> tuple[Any, Model]:
    """An architecture as Hugging Face has it, and through `load_model`."""
    architecture = ARCHITECTURES[name]
    return architecture.build(), load_model(architecture.build(), tokenizer=build_tokenizer())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_edges_of_the_embedding_add_up_to_its_whole_effect(name: str) -> None:
    """The gradient by the embedding is the sum of those by what each reader reads of it."""
    hf, model = built(name)
    given = drawn()
    entered: list[Tensor] = []

    def enter(_module: Any, args: Any) -> Any:
        entered.append(args[0].detach().requires_grad_())
        return (entered[-1], *args[1:])

    block = hf.get_submodule(ARCHITECTURES[name].layout.blocks)[0]
    with_streams = block.register_forward_pre_hook(enter)
    value = read(hf(given["clean"], use_cache=False).logits)
    hf(given["corrupt"], use_cache=False)
    with_streams.remove()
    (gradient,) = torch.autograd.grad(-value.sum(), entered[0])
    change = entered[1] - entered[0]
    expected = (change * gradient).sum((1, 2)).detach()

    found = attribute_edges(model, PromptPairs(model, **given), method="eap")
    whole = found["by_example"].sel(source="input").sum("destination")
    largest = float(expected.abs().max())
    assert largest > 0.05
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-4 * largest)
    np.testing.assert_allclose(found["clean"], value.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_edges_give_the_clean_run_and_none_the_corrupted_one(name: str) -> None:
    hf, model = built(name)
    given = drawn()
    pairs = PromptPairs(model, **given)
    graph = Graph.of(model)
    (contrast,) = contrasts(Components(model, given["clean"]), pairs, logit_diff, "clean")
    circuits = np.stack([graph.real, np.zeros_like(graph.real)])
    values = run_circuits(contrast, graph, Reference.other_run(contrast), circuits)
    with torch.no_grad():
        for run, found in zip(("clean", "corrupt"), values, strict=True):
            expected = read(hf(given[run], use_cache=False).logits)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
