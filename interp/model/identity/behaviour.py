"""What a model answers to a short fixed input, at every block: the test of what nothing else names.

Two runs of the same model in one process, with the same settings, agree bit for bit. Between
settings, devices and library versions they agree but for rounding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Answers", "Behaviour", "agree", "answers", "fixed_input", "rounding"]

_TOKENS = 8
_STRIDE = 7919  # between token ids, so that they come from the whole vocabulary
_KNOWN = 8  # states of the weights whose answers are kept
_TRIES = 2
# Of float32, where sums are taken in another order; a softmax can amplify it so far.
_FLOOR = 1e-4
_FINE = 8  # the same with other threads, in units of the precision

Answers = tuple[Tensor, ...]
"""The stream into the first block and out of each [1, position, d_model], and logits at the end."""


def fixed_input(bridge: Any, device: torch.device) -> Tensor:
    """Token ids [1, position]."""
    length = max(1, min(_TOKENS, int(bridge.cfg.n_ctx)))
    ids = torch.arange(1, length + 1, device=device) * _STRIDE % int(bridge.cfg.d_vocab)
    return ids[None]


def answers(bridge: Any, *, everywhere: bool = False) -> Answers:
    """Run the fixed input; leaves no hook, no gradient and no random number behind.

    Args:
        everywhere: whether there are logits of all positions, and not of the last alone.
    """
    kept: list[Tensor] = []

    def entry(_module: Any, args: tuple[Any, ...]) -> None:
        kept.append(args[0].detach().clone())

    def exit_(_module: Any, _args: Any, output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        kept.append(stream.detach().clone())

    def last(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # The unembedding of every position can be a third of the work.
        return (args[0][:, -1:], *args[1:])

    blocks = list(bridge.blocks)
    # What a module computes once and keeps, such as a mask, must be fit for gradients later.
    with torch.inference_mode(False), torch.no_grad():
        device = next(bridge.original_model.parameters()).device
        handles = [blocks[0].register_forward_pre_hook(entry)]
        if not everywhere:
            handles.append(bridge.unembed.register_forward_pre_hook(last))
        try:
            handles += [block.register_forward_hook(exit_) for block in blocks]
            ids = fixed_input(bridge, device)
            logits = bridge(ids, use_cache=False, return_type="logits")
        finally:
            for handle in handles:
                handle.remove()
    return (*kept, logits.detach())


def rounding(dtype: torch.dtype, device: torch.device, depth: int) -> float:
    """The relative error that another order of summation makes after so many blocks, about."""
    fast = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    fast = fast or (device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32)
    precision = 2.0**-10 if fast and dtype == torch.float32 else torch.finfo(dtype).eps
    return float(max(_FLOOR, 4 * precision * (1 + depth) ** 0.5))


def agree(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> bool:
    """Whether all activations [1, position, …] agree at each position, but for rounding."""
    if [value.shape for value in ours] != [value.shape for value in theirs]:
        return False
    for mine, other in zip(ours, theirs, strict=True):
        wanted = other.float()
        size = wanted.norm(dim=-1).clamp(min=1e-6 * max(1.0, float(wanted.norm())))
        if not bool(((mine.float() - wanted).norm(dim=-1) <= tolerance * size).all()):
            return False
    return True


class Behaviour:
    """The answers that belong to each state of a model's weights, as far as it was asked.

    Args:
        steady: whether to see, by asking once more, that two runs agree bit for bit; where that
            takes too long they may differ by rounding.
    """

    def __init__(self, *, steady: bool = True) -> None:
        self._known: OrderedDict[object, dict[object, Answers]] = OrderedDict()
        self._steady = steady

    def is_same(self, state: object, settings: object, bridge: Any, now: Answers) -> bool:
        """Whether `now` is what the model answered before in this state of its weights.

        The first answers of a state are taken for its own.
        """
        known = self._known.setdefault(state, {})
        self._known.move_to_end(state)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        if not known:
            # Some kernels add in an order of their own at each run.
            self._steady = self._steady and _equal(answers(bridge), now)
            known[settings] = now
            return True
        before = known.get(settings)
        if before is not None and self._steady:
            if _equal(now, before) or any(_equal(answers(bridge), before) for _ in range(_TRIES)):
                return True
            # A busy machine may give fewer threads than were asked for.
            return agree(now, before, _FINE * torch.finfo(now[0].dtype).eps * len(now) ** 0.5)
        other = next(iter(known.values())) if before is None else before
        tolerance = rounding(now[0].dtype, now[0].device, len(now))
        if not agree(now, other, tolerance):
            return False
        known.setdefault(settings, now)
        return True


def _equal(ours: Answers, theirs: Answers) -> bool:
    """Bit for bit, so that NaN is what it was too."""
    return len(ours) == len(theirs) and all(
        mine.shape == other.shape
        and mine.dtype == other.dtype
        and torch.equal(mine.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
        for mine, other in zip(ours, theirs, strict=True)
    )
