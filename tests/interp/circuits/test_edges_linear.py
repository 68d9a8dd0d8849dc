"""Where a model is linear, a gradient is what really happens.

Except for integrated activations, and behind the last layer even for these: the runs whose heads or
MLP are interpolated hold them fixed, so that what a reader below does through them is left out.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from interp import PromptPairs, load_model
from interp.circuits import attribute_edges
from interp.model.model import Model
from tests.interp.circuits.auroc import METHODS
from tests.interp.circuits.canvas import Canvas
from tests.interp.circuits.planted import BUILDERS
from tests.interp.tiny import N_SPECIAL, VOCABULARY, build_tokenizer

pytestmark = pytest.mark.slow

ESTIMATES = METHODS[:-1]
V = len(VOCABULARY)


def linear_model(family: Literal["gpt2", "llama"]) -> Model:
    """Random weights, but attention is uniform, MLPs have no activation, norms are harmless."""
    generator = torch.Generator().manual_seed(0)
    canvas = Canvas.blank(
        family, {"all": 64}, n_layers=3, n_key_value_heads=2, d_head=20, activation="linear"
    )
    d_model, d_head = canvas.d_model, canvas.d_head
    inside = torch.zeros(d_model)
    inside[canvas.spaces["all"]] = 1.0

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * shape[-2] ** -0.5

    # Small, because a norm's scale depends on the square of the stream.
    positions = 0.1 * normal(16, d_model) * inside if family == "gpt2" else None
    canvas.embed(0.1 * normal(V, d_model) * inside, positions)
    for layer in range(3):
        for head in range(4):
            nothing = torch.zeros(d_model, d_head)
            value, out = normal(d_model, d_head), normal(d_head, d_model) * inside
            canvas.head(layer, head, nothing, nothing, value, out)
        canvas.mlp(layer, normal(d_model, 16), normal(16, d_model) * inside)
    with torch.no_grad():
        canvas.hf.get_output_embeddings().weight += 10 * normal(d_model, V).T
    return load_model(canvas.hf, tokenizer=build_tokenizer())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradients_give_the_exact_edges_of_a_linear_model(family: Any) -> None:
    model = linear_model(family)
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(N_SPECIAL, V, shape, generator=generator)

    answers = draw(4)
    pairs = PromptPairs(model, draw(4, 7), draw(4, 7), answers, (answers + 1) % V)
    exact = attribute_edges(model, pairs, method="exact")["by_example"].values
    largest = np.nanmax(np.abs(exact))
    assert largest > 0.3
    # Values matter through all layers, queries and keys not at all.
    assert np.isfinite(exact).sum() > 500
    for method in ("eap", "eap-ig", "clean-corrupted"):
        found = attribute_edges(model, pairs, method=method)["by_example"].values
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-3 * largest, err_msg=method)


@pytest.mark.parametrize("name", BUILDERS)
def test_edges_into_the_logits_are_exact_where_the_final_norm_is_harmless(name: str) -> None:
    """A planted model is far from linear, but not behind its last reader."""
    planted = BUILDERS[name]()
    model = planted.load()
    pairs = planted.pairs(model)

    def into_logits(method: Any) -> Any:
        return attribute_edges(model, pairs, method=method)["by_example"].sel(destination="logits")

    exact = into_logits("exact")
    for method in ESTIMATES:
        np.testing.assert_allclose(into_logits(method), exact, rtol=0, atol=0.02, err_msg=method)
    assert float(abs(exact).max()) > 5
