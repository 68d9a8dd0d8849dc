"""Only one layer's writers and readers are in memory at a time."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from interp import PromptPairs, load_model
from interp.circuits import attribute_edges
from interp.model import memory
from tests.interp.tiny import VOCABULARY, build_tokenizer

pytestmark = pytest.mark.slow

N_HEADS, N_KEY_VALUE_HEADS, D_HEAD, LENGTH, N_PAIRS = 16, 16, 8, 64, 12
D_MODEL = N_HEADS * D_HEAD
STEPS = 3
READERS = N_HEADS + 2 * N_KEY_VALUE_HEADS
STREAM = N_PAIRS * LENGTH * D_MODEL
"""Numbers in one residual stream of all pairs."""


class Watched(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and of the largest.

    Attributes:
        largest, peak: in units of one residual stream of float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.largest, self.peak = 0.0, 0.0, 0.0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes() / (4 * STREAM)
        self._seen.add(key)
        self.alive += size
        self.largest, self.peak = max(self.largest, size), max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: float) -> None:
        self._seen.discard(key)
        self.alive -= size


def watched(n_layers: int, method: Any, steps: int = STEPS) -> Watched:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=D_MODEL,
        intermediate_size=D_MODEL,
        num_hidden_layers=n_layers,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KEY_VALUE_HEADS,
        max_position_embeddings=LENGTH,
        bos_token_id=1,
        eos_token_id=0,
    )
    model = load_model(LlamaForCausalLM(config).eval(), tokenizer=build_tokenizer())
    ids = torch.randint(3, 30, (2, N_PAIRS, LENGTH))
    pairs = PromptPairs(model, ids[0], ids[1], torch.full((N_PAIRS,), 3), torch.full((N_PAIRS,), 4))
    with Watched() as seen:
        attribute_edges(model, pairs, method=method, steps=steps)
    return seen


@pytest.mark.parametrize(("method", "rows"), [("eap", 1), ("eap-ig", STEPS)])
def test_memory_holds_one_layers_graph(
    method: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all layers there are only streams and what each layer wrote, not each head's part."""
    monkeypatch.setattr(memory, "memory_budget", lambda _model: 1 << 30)
    few, many = watched(3, method), watched(6, method)
    # The readers of one layer, for all rows that are run at once.
    assert many.largest == few.largest
    assert many.largest <= rows * READERS
    # Three sites of two runs, the rows' streams, the layer's scores and weights. Its heads' own
    # parts would be 16 more, and the gradients of its readers 48.
    per_layer = (many.peak - few.peak) / 3
    assert 6 < per_layer < 6 + rows + 6 < 6 + rows + N_HEADS


def test_the_budget_keeps_many_steps_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are computed side by side as far as they fit, and otherwise one after another."""
    monkeypatch.setattr(memory, "memory_budget", lambda _model: 1)
    seen = watched(2, "eap-ig", steps=8)
    # One row of one pair.
    assert seen.largest < READERS
