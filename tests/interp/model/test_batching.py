"""Work is cut to fit, halved when memory runs out, and neither lost nor done twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp import sweep
from interp.errors import ObverseError
from interp.model.memory import MemoryExhausted, batches, memory_budget, rows_that_fit
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
CUDA = torch.cuda.OutOfMemoryError("CUDA out of memory.")


@given(st.integers(0, 50), st.integers(1, 60))
def test_pieces_cover_everything_once_and_in_order(n: int, size: int) -> None:
    pieces = list(batches(n, size, lambda start, stop: (start, stop)))
    assert [i for start, stop, _ in pieces for i in range(start, stop)] == list(range(n))
    assert all(result == (start, stop) for start, stop, result in pieces)
    assert all(stop - start <= size for start, stop, _ in pieces)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 20))
def test_pieces_that_do_not_fit_are_halved(n: int, size: int, limit: int) -> None:
    tried: list[int] = []
    done: list[int] = []

    def work(start: int, stop: int) -> list[int]:
        tried.append(stop - start)
        if stop - start > limit:
            raise RuntimeError(CPU)
        return list(range(start, stop))

    for start, stop, rows in batches(n, size, work):
        assert rows == list(range(start, stop))
        done += rows
    assert done == list(range(n))
    failed = [rows for rows in tried if rows > limit]
    # Each failure halves: never tried twice at a size that failed.
    assert len(set(failed)) == len(failed)
    assert len(failed) <= 7


@pytest.mark.parametrize("error", [RuntimeError(CPU), CUDA], ids=["cpu", "cuda"])
def test_a_single_row_that_does_not_fit_is_said_plainly(error: RuntimeError) -> None:
    def work(start: int, stop: int) -> None:
        raise error

    with pytest.raises(MemoryExhausted, match="single prompt") as caught:
        list(batches(8, 8, work))
    assert isinstance(caught.value, ObverseError)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), IndexError("no"), KeyError()],
)
def test_other_errors_pass_through_at_once(error: Exception) -> None:
    tried: list[int] = []

    def work(start: int, stop: int) -> None:
        tried.append(stop - start)
        raise error

    with pytest.raises(type(error)) as caught:
        list(batches(8, 8, work))
    assert caught.value is error
    assert tried == [8]


def test_no_work_is_done_ahead_of_the_reader() -> None:
    seen: list[int] = []
    pieces = batches(4, 1, lambda start, _stop: seen.append(start))
    next(pieces)
    assert seen == [0]


@pytest.mark.slow
def test_a_sweep_that_runs_out_of_memory_gives_the_same_numbers(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp import metrics

    whole = sweep(tiny.model, prompt_pairs(tiny), "z", by=("head", "position"))
    original, refusals = metrics.readout, []

    def small(model: object, hidden: torch.Tensor, *, grad: bool) -> torch.Tensor:
        if len(hidden) > 5:
            refusals.append(len(hidden))
            raise RuntimeError(CPU)
        return original(model, hidden, grad=grad)

    monkeypatch.setattr(metrics, "readout", small)
    again = sweep(tiny.model, prompt_pairs(tiny), "z", by=("head", "position"))
    assert refusals
    for name in ("patched", "clean", "corrupt"):
        np.testing.assert_allclose(again[name], whole[name], rtol=0, atol=1e-5)


def test_more_rows_fit_if_each_takes_less(llama: Tiny) -> None:
    budget = memory_budget(llama.model)
    assert budget >= 1 << 20
    assert rows_that_fit(llama.model, 1) == budget
    assert rows_that_fit(llama.model, budget // 3) == 3
    assert rows_that_fit(llama.model, 10 * budget) == 1  # at least one is tried
    assert rows_that_fit(llama.model, 0) == budget


def test_longer_rows_take_more_than_proportionally(llama: Tiny) -> None:
    """Attention scores grow with the square of the length."""
    short, long = llama.model.memory_per_row(100), llama.model.memory_per_row(1000)
    assert 10 < long / short < 100
