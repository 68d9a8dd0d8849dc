"""Jacobians by blocks in closed form are those of gradients, and where they would not be, gradients
are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from interp import Intervention, fit_jacobian_lens, load_model
from interp.forward.interventions import applied
from interp.lens.jacobian.carrying import carrying
from interp.lens.jacobian.closed import ClosedBlock
from interp.lens.jacobian.gradients import Summed, work_for
from interp.model.model import Model
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import VOCABULARY, Tiny, build_tokenizer, load_hugging_face

SKIP = 2
# What has norms elsewhere, or attention that does not show what it compares, is left to gradients.
CLOSED = {
    "GPT-2",
    "Llama",
    "Mistral",
    "Qwen2",
    "Granite",
    "Cohere",
    "Phi",
}


def rows_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(3, len(VOCABULARY), (n,), generator=generator).tolist()
        for n in sorted(lengths)
    ]


ROWS = rows_of(6, 9, 9, 9, 12, 20)


def by_gradients(model: Model, layers: list[int], rows: list[list[int]]) -> Summed:
    work = work_for(model, layers, SKIP, len(rows), max(map(len, rows)))
    found = [work([row], lambda _: None) for row in rows]
    total = torch.stack([one.total for one in found]).sum(0)
    return Summed(total, torch.stack([one.squares for one in found]).sum(0))


def assert_same(ours: Summed, theirs: Summed) -> None:
    size = float(theirs.total.abs().max())
    torch.testing.assert_close(ours.total, theirs.total, rtol=0, atol=1e-5 * max(1.0, size))
    torch.testing.assert_close(ours.squares, theirs.squares, rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sums_are_those_of_gradients(name: str) -> None:
    """Also of squares, below some layers only, and where most tokens of a batch are of one row."""
    model = load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer())
    layers = list(range(model.n_layers))
    found = carrying(model, layers, SKIP, ROWS)
    assert (found is not None) == (name in CLOSED)
    if found is None:
        return
    told: list[int] = []
    theirs = by_gradients(model, layers, ROWS)
    assert_same(found(ROWS, told.append), theirs)
    assert told == sorted(told)
    assert told[-1] == model.d_model
    last = carrying(model, layers[-1:], SKIP, ROWS[:1])
    assert last is not None
    assert_same(last(ROWS[:1], told.append), by_gradients(model, layers[-1:], ROWS[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_parts_and_threads_change_nothing(
    llama: Tiny, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [0, 2]
    found = carrying(llama.model, layers, SKIP, ROWS)
    assert found is not None
    monkeypatch.setattr("interp.lens.jacobian.carrying.PART_BYTES", 5000)
    monkeypatch.setattr("interp.lens.jacobian.products.WEIGHT_BYTES", 1)
    before = torch.get_num_threads()
    few = replace(found, threads=threads)
    assert_same(few(ROWS, lambda _: None), by_gradients(llama.model, layers, ROWS))
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_interrupted_work_leaves_the_threads_as_they_were(llama: Tiny) -> None:
    found = carrying(llama.model, [0], SKIP, ROWS)
    assert found is not None

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        found(ROWS, stop)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_hooks_and_other_types_are_left_to_gradients(llama: Tiny) -> None:
    push = Intervention.add(torch.ones(llama.model.d_model), "mlp_out.1")
    with applied(llama.model, push):
        assert carrying(llama.model, [0], SKIP, ROWS) is None
    assert carrying(llama.model, [0], SKIP, ROWS) is not None
    for dtype in (torch.float64, torch.bfloat16):
        model = load_model(load_hugging_face(llama.folder).to(dtype), tokenizer=build_tokenizer())
        assert carrying(model, [0], SKIP, ROWS) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        lambda block: replace(block, scale=1.01 * block.scale),
        lambda block: replace(block, mlp_writes=1.01 * block.mlp_writes),
        lambda block: replace(block, turn_k=block.turn_k.flip(0)),
        lambda block: replace(block, attention_norm=replace(block.attention_norm, centred=True)),
    ],
)
def test_blocks_that_are_read_wrongly_are_found_out(
    llama: Tiny, wrong: Callable[[ClosedBlock], ClosedBlock], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ClosedBlock.of

    def of(*given: Any) -> ClosedBlock | None:
        block = read(*given)
        return block and wrong(block)

    ids = torch.tensor(ROWS[-1:])
    expected = fit_jacobian_lens(llama.model, ids, skip_first=SKIP)
    monkeypatch.setattr(ClosedBlock, "of", of)
    assert carrying(llama.model, [0, 1], SKIP, ROWS) is None
    found = fit_jacobian_lens(llama.model, ids, skip_first=SKIP)
    torch.testing.assert_close(found.J[0], expected.J[0], rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_left_to_gradients(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.lens.jacobian.carrying.available_memory", lambda: 1 << 16)
    assert carrying(llama.model, [0], SKIP, ROWS) is None
