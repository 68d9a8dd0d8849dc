"""What is found out about norms, matrices and heads by trying them is what torch says they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from interp import sweep
from interp.components.heads import linear_in_heads
from interp.components.linear import affine
from interp.components.norms import Norm
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny, build


def layer_norm(width: int, epsilon: float, **options: Any) -> nn.Module:
    return nn.LayerNorm(width, eps=epsilon, **options)


def rms_norm(width: int, epsilon: float) -> nn.Module:
    return LlamaRMSNorm(width, eps=epsilon)


@pytest.mark.parametrize("width", [8, 33])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-6, 1e-5, 1e-2])
@pytest.mark.parametrize("kind", [layer_norm, rms_norm])
def test_a_norm_is_found_whole(kind: Any, width: int, epsilon: float) -> None:
    torch.manual_seed(0)
    module = kind(width, epsilon)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    found = Norm.found_in(module, width, torch.zeros(1))
    assert found.centred == (kind is layer_norm)
    for size in (1e-3, 1.0, 50.0):
        stream = size * (torch.randn(3, 5, width) + 0.7)
        with torch.no_grad():
            torch.testing.assert_close(found(stream), module(stream), rtol=2e-4, atol=2e-5)


def test_a_norm_without_weights_is_found() -> None:
    found = Norm.found_in(layer_norm(8, 1e-5, elementwise_affine=False), 8, torch.zeros(1))
    torch.testing.assert_close(found.gain, torch.ones(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.shift, torch.zeros(8))


class Hidden(nn.Module):
    """A linear map whose weight cannot be seen, or is another than the one it applies."""

    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.weight = None if weight is None else nn.Parameter(weight)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.inner(values)
        return out


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(6, 4),
        nn.Linear(6, 6, bias=False),
        Conv1D(6, 6),
        Conv1D(9, 6),
        Hidden(None),
        Hidden(torch.randn(6, 6)),
    ],
)
def test_matrix_and_bias_are_what_the_module_applies(module: Any) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 5, 6)
    matrix, bias = affine(module, 6, torch.zeros(1))
    with torch.no_grad():
        torch.testing.assert_close(values @ matrix + bias, module(values), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("by", [("head",), ("position", "head"), ("span",)])
def test_heads_patched_without_their_attention_are_the_same(
    tiny: Tiny, by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = prompt_pairs(tiny)
    assert linear_in_heads(tiny.model, pairs.corrupt.ids)
    short = sweep(tiny.model, pairs, "z", by=by)
    monkeypatch.setattr("interp.patching.values.linear_in_heads", lambda *_: False)
    long = sweep(tiny.model, pairs, "z", by=by)
    assert float(np.abs(short["patched"] - short["corrupt"]).max()) > 0.05
    np.testing.assert_allclose(short["patched"], long["patched"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_where_attention_bends_what_heads_put_out_it_is_run(tmp_path: Any) -> None:
    model = build("llama", tmp_path).model
    out = model.bridge.blocks[1].attn.o
    out.register_forward_hook(lambda _module, _args, value: value.tanh())
    assert not linear_in_heads(model, torch.tensor([[1, 5, 6, 7]]))
