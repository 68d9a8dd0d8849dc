"""What a sweep takes is estimated before, kept within the budget, and let go afterwards."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils import _pytree as pytree

from interp import PromptPairs, capture, load_model, record, sweep
from interp.model import memory
from interp.model.memory import MemoryExhausted
from interp.model.model import Model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import VOCABULARY, build_tokenizer
from tests.interp.tracking import PeakMemory

pytestmark = pytest.mark.slow

LENGTH, BUDGET = 48, 8 << 20
# Wide enough that activations outweigh what is taken once.
WIDE = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": LENGTH,
    "head_dim": 16,
    "initializer_range": 0.1,
}
# The streams run packed, heads whole.
SWEEPS: dict[str, Any] = {
    "resid_pre": {"layers": [0, 1], "positions": range(0, 24, 3)},
    "z": {"layers": [1, 2]},
}


@pytest.fixture(scope="module", params=["GPT-2", "Llama", "Mixtral", "BLOOM"])
def wide(request: pytest.FixtureRequest) -> Model:
    """A wider model of the architecture, after its first use."""
    small = ARCHITECTURES[request.param]
    settings = {**small.settings, **WIDE}
    if request.param == "BLOOM":
        settings |= {"n_layer": 4, "n_head": 8}
    built = dataclasses.replace(small, settings=settings).build()
    model = load_model(built, tokenizer=build_tokenizer())
    sweep(model, one_pair(model), "z", layers=[3])
    return model


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory, "memory_budget", lambda _model: BUDGET)
    return BUDGET


def token_ids(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(3, len(VOCABULARY), (n, LENGTH), generator=generator)


def one_pair(model: Model) -> PromptPairs:
    clean, corrupt = token_ids(2)[:, None]
    return PromptPairs(model, clean, corrupt, torch.tensor([5]), torch.tensor([6]))


def swept(model: Model, site: str, memory: PeakMemory, **options: Any) -> xr.Dataset:
    pair = one_pair(model)
    with memory:
        return sweep(model, pair, site, **SWEEPS[site], **options)


@functools.cache
def within_budget(model: Model, site: str) -> tuple[xr.Dataset, PeakMemory]:
    """The sweep and what it took; read only. The budget is that of the tests."""
    memory = PeakMemory()
    return swept(model, site, memory), memory


@pytest.mark.parametrize("site", SWEEPS)
def test_a_sweep_keeps_to_its_budget_and_leaves_nothing(
    wide: Model, budget: int, site: str
) -> None:
    """A budget for what is recorded of the prompts, and one for the batch."""
    _, memory = within_budget(wide, site)
    assert budget / 4 < memory.peak < 2 * budget
    assert memory.now < budget / 100
    alone = PeakMemory()
    swept(wide, site, alone, batch_size=1)
    assert alone.peak < memory.peak / 2


def test_blocks_that_are_given_the_same_mask_share_one_copy(wide: Model) -> None:
    recording = record(wide, token_ids(3), [])
    taken = [
        value
        for call in recording.calls
        for value in pytree.tree_leaves([call.args, dict(call.kwargs)])
    ]
    masks = [getattr(value, "row", value) for value in taken]
    large = [m for m in masks if isinstance(m, torch.Tensor) and m.numel() >= LENGTH**2]
    assert len(large) == wide.n_layers
    assert len({mask.data_ptr() for mask in large}) == 1


def test_prompts_are_captured_within_the_budget(wide: Model, budget: int) -> None:
    with PeakMemory() as memory:
        found = capture(wide, token_ids(24), "resid_post", positions="last")
    assert budget / 4 < memory.peak < budget + sum(value.nbytes for value in found.values())


class SmallMachine(PeakMemory):
    """Beyond `limit` bytes allocating fails as torch's does on a CPU."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.failures = 0

    def __torch_dispatch__(self, *args: Any, **kwargs: Any) -> Any:
        out = super().__torch_dispatch__(*args, **kwargs)
        if self.now > self.limit:
            self.failures += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return out


@pytest.mark.parametrize("site", SWEEPS)
def test_a_sweep_goes_on_with_less_where_memory_runs_out(
    wide: Model, budget: int, site: str
) -> None:
    expected, memory = within_budget(wide, site)
    machine = SmallMachine(limit=memory.peak // 2)
    found = swept(wide, site, machine)
    assert 0 < machine.failures < 5
    assert machine.now < budget / 100
    for name in ("patched", "clean", "corrupt"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)


def test_a_machine_that_holds_not_one_prompt_says_so(wide: Model, budget: int) -> None:
    with pytest.raises(MemoryExhausted, match="single prompt"):
        swept(wide, "z", SmallMachine(limit=1 << 17))
