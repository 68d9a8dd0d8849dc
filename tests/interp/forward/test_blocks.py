"""What a block was called with is gathered for any batch of the recorded rows."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from interp.errors import ModelError
from interp.forward.blocks import block_call

STREAM = torch.zeros(3, 5, 2)
ROWS = torch.tensor([2, 0, 2, 1])


def by_example(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def test_each_row_gets_its_own_examples_part() -> None:
    mask = by_example(3, 1, 5, 5)
    args, kwargs = block_call("it", (STREAM, mask), {"pair": (mask, [mask])}, 3).at(ROWS, 3)
    torch.testing.assert_close(args, (mask[ROWS],))
    torch.testing.assert_close(kwargs["pair"], (mask[ROWS], (mask[ROWS],)))


def test_what_all_examples_share_serves_every_row() -> None:
    same = by_example(1, 1, 5, 5).expand(3, 1, 5, 5)
    broadcast, flat = by_example(1, 5, 4), by_example(5)
    call = block_call("it", (STREAM,), {"same": same, "one": broadcast, "flat": flat}, 3)
    _, kwargs = call.at(ROWS, 3)
    torch.testing.assert_close(kwargs["same"].expand(4, -1, -1, -1), same[:1].expand(4, -1, -1, -1))
    torch.testing.assert_close(kwargs["one"], broadcast)
    torch.testing.assert_close(kwargs["flat"], flat)


def test_a_recording_of_one_example_serves_many_rows() -> None:
    alone = by_example(1, 1, 5, 5)
    _, kwargs = block_call("it", (STREAM[:1],), {"mask": alone}, 1).at(torch.zeros(4, dtype=int), 1)
    assert kwargs["mask"].shape in ((4, 1, 5, 5), (1, 1, 5, 5))
    torch.testing.assert_close(kwargs["mask"].expand(4, 1, 5, 5), alone.expand(4, 1, 5, 5))


def test_an_axis_over_examples_and_heads_is_gathered_by_example() -> None:
    bias = by_example(12, 1, 5)  # 3 examples of 4 heads, as BLOOM has it
    _, kwargs = block_call("it", (STREAM,), {"alibi": bias}, 3).at(ROWS, 3)
    expected = bias.reshape(3, 4, 1, 5)[ROWS].reshape(16, 1, 5)
    torch.testing.assert_close(kwargs["alibi"], expected)


def test_caches_are_dropped_and_settings_kept() -> None:
    cache = DynamicCache()
    given = {"past_key_values": cache, "use_cache": True, "scale": 0.5, "name": "x", "none": None}
    args, kwargs = block_call("it", (STREAM, cache, False), given, 3).at(ROWS, 3)
    assert args == (None, False)
    assert kwargs == {
        "past_key_values": None,
        "use_cache": False,
        "scale": 0.5,
        "name": "x",
        "none": None,
    }


def test_what_was_taken_down_does_not_change_later() -> None:
    mask, same = by_example(3, 5), torch.ones(3, 5)
    call = block_call("it", (STREAM,), {"mask": mask, "same": same}, 3)
    mask.zero_()
    same.zero_()
    _, kwargs = call.at(ROWS, 3)
    torch.testing.assert_close(kwargs["mask"], by_example(3, 5)[ROWS])
    assert bool((kwargs["same"] == 1).all())


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"hidden_states": STREAM}, "by name"),
        ((STREAM, by_example(5, 4)), {}, "cannot be divided"),
        ((STREAM,), {"table": (by_example(4, 2),)}, "cannot be divided"),
    ],
)
def test_what_cannot_be_divided_among_examples_is_refused(
    args: tuple[object, ...], kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        block_call("it", args, kwargs, 3)
