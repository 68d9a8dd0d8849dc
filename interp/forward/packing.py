"""Recompute only what a change can have reached.

In a causal model a change at position p leaves everything before p as it was. Inside `packed`,
the matrix products of a block run on the positions from p on only, row by row; at earlier
positions keys and values are those of the recorded run, and everything else is never read. The
attention itself and the residual additions run as always, so no architecture is written again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.forward.hooks import passing

# Modules of a block that work position by position, and those whose output other positions read.
_POSITION_WISE = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp", "ln1", "ln2")
_READ_BY_OTHERS = ("attn.k", "attn.v")
_READS_OTHERS = "attn.q"

Kept = Mapping[str, Float[Tensor, "example position width"]]
"""Outputs of the modules that other positions read, as recorded, by the module's name."""


@dataclass(frozen=True)
class Active:
    """Positions that a batch computes, as indices of its rows and positions [active]."""

    row: Int[Tensor, " active"]
    position: Int[Tensor, " active"]

    @classmethod
    def between(cls, first: Int[Tensor, " row"], last: Int[Tensor, " row"], length: int) -> Active:
        """In each row the positions from `first` to `last`, both included."""
        index = torch.arange(length, device=first.device)
        inside = (index >= first[:, None]) & (index <= last[:, None])
        row, position = inside.nonzero(as_tuple=True)
        return cls(row, position)

    def gather(self, full: Float[Tensor, "row position width"]) -> Float[Tensor, "1 active width"]:
        flat = full.flatten(0, 1)
        return flat[None] if self._all(full) else flat.index_select(0, self._flat(full))[None]

    def scatter(self, values: Tensor, full: Tensor) -> Tensor:
        """Write what was computed into `full`, in place."""
        full[self.row, self.position] = values[0]
        return full

    def alone(self, values: Float[Tensor, "1 active width"], like: Tensor) -> Tensor:
        """What was computed [row, position, width], of as many rows and positions; 0 elsewhere."""
        shape = (*like.shape[:2], *values.shape[2:])
        if self._all(like):
            return values.reshape(shape)
        # One tensor that is no view of another: the gradient of writing into it is a mere choice.
        flat = values.new_zeros(shape[0] * shape[1], *shape[2:])
        return flat.index_copy_(0, self._flat(like), values[0]).view(shape)

    def _flat(self, full: Tensor) -> Int[Tensor, " active"]:
        return self.row * full.shape[1] + self.position

    def _all(self, full: Tensor) -> bool:
        return len(self.row) == full.shape[0] * full.shape[1]


def can_pack(block: Any) -> bool:
    """Whether the block has separate queries, keys, values, output matrix and MLP to run packed."""
    return all(find(block, name) is not None for name in _POSITION_WISE[:5])


def keep_for_others(
    block: Any, kept: dict[str, Tensor], *, queries: bool = False
) -> Iterator[Callable[[], None]]:
    """Hooks on the block that fill `kept` in a recorded run; yields what takes each away.

    What the attention as a whole returns is kept too, as "attn". With `queries`, a packed block
    also attends from positions that are not active, as they did in the recorded run, but to keys
    and values as they are now: `z` holds what these would get.
    """

    def attention(_module: Any, _args: Any, output: Any) -> None:
        kept["attn"] = (output[0] if isinstance(output, tuple) else output).detach().clone()

    yield block.attn.register_forward_hook(attention).remove
    for name in (*_READ_BY_OTHERS, *([_READS_OTHERS] if queries else [])):

        def hook(_module: Any, _args: Any, output: Tensor, name: str = name) -> None:
            kept[name] = output.detach().clone()

        yield find(block, name).register_forward_hook(hook).remove


@contextlib.contextmanager
def packed(
    block: Any, kept: Kept, rows: Int[Tensor, " row"], active: Active, read: Active | None = None
) -> Iterator[None]:
    """Inside, a call of `block` computes only the `active` positions.

    Args:
        block: a block for which `can_pack` holds.
        kept: recorded outputs of `keep_for_others` for this block; none where the keys and values
            of other positions are told otherwise.
        rows: for each row of the batch the recorded example it belongs to.
        active: the positions that may have changed.
        read: the positions of the block's output that will be used; all active ones if left out.
            Only in the last block are there fewer.
    """
    made = _Made()
    with contextlib.ExitStack() as stack:
        for name in _POSITION_WISE:
            module = find(block, name)
            if module is None:
                continue
            if name in kept:
                wrapped = _with_others(module.forward, kept[name], rows, active, made)
            else:
                # The first norm feeds keys and values too.
                others = name == "ln1" or name in _READ_BY_OTHERS
                chosen = active if others or not read else read
                wrapped = _alone(_in_one_kernel(module), chosen, made)
            stack.enter_context(runs_as(module, wrapped))
        yield


@contextlib.contextmanager
def heard(block: Any) -> Iterator[list[Float[Tensor, "row position width"]]]:
    """Inside, the result is filled with what the block's output matrix is given, packed or not.

    It holds all positions; hook points inside of a packed module see the active ones alone.
    """
    kept: list[Tensor] = []

    def hook(_module: Any, args: tuple[Any, ...]) -> None:
        kept.append(args[0].detach())

    handle = find(block, "attn.o").register_forward_pre_hook(passing(hook))
    try:
        yield kept
    finally:
        handle.remove()


@contextlib.contextmanager
def runs_as(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, a module computes what `forward` does; hooks on the module still fire."""
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]


def attention_adds(
    block: Any, output: Float[Tensor, "row position d_model"]
) -> contextlib.AbstractContextManager[None]:
    """Inside, the block's attention is not run: this is what it returns, without its weights."""
    return runs_as(block.attn, lambda *_args, **_kwargs: (output, None))


class _Made:
    """What a module has just made, packed, so that the next one need not gather it again."""

    def __init__(self) -> None:
        self.full: Tensor | None = None
        self.version = 0
        self.active: Active | None = None
        self.values: Tensor | None = None

    def keep(self, full: Tensor, active: Active, values: Tensor) -> Tensor:
        # Whether it is edited in place before the next module reads it, an inference tensor does
        # not tell.
        if not full.is_inference():
            self.full, self.version, self.active, self.values = full, full._version, active, values
        return full

    def gather(self, full: Tensor, active: Active) -> Tensor:
        same = full is self.full and active is self.active
        if same and full._version == self.version and self.values is not None:
            return self.values
        return active.gather(full)


def _alone(forward: Callable[..., Tensor], active: Active, made: _Made) -> Callable[..., Tensor]:
    def wrapped(full: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        values = forward(made.gather(full, active), *args, **kwargs)
        return made.keep(active.alone(values, full), active, values)

    return wrapped


def _with_others(
    forward: Callable[..., Tensor], kept: Tensor, rows: Tensor, active: Active, made: _Made
) -> Callable[..., Tensor]:
    def wrapped(full: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        values = forward(made.gather(full, active), *args, **kwargs)
        return active.scatter(values, kept.index_select(0, rows))

    return wrapped


def _in_one_kernel(module: Any) -> Callable[..., Tensor]:
    """A norm without TransformerLens' steps, where nobody listens to them."""
    norm = getattr(module, "original_component", None)
    listened = any(getattr(point, "fwd_hooks", None) for point in module.children())
    if isinstance(norm, torch.nn.LayerNorm) and not listened:
        return norm.forward
    # Then TransformerLens returns what the model's own module does.
    if getattr(module, "use_native_layernorm_autograd", False) and norm and not listened:
        return lambda full: norm(full).to(full.dtype)
    forward: Callable[..., Tensor] = module.forward
    return forward


def find(block: Any, name: str) -> Any:
    """A part of a block by its name, such as "attn.q"; None where the block lacks it."""
    for part in name.split("."):
        block = getattr(block, part, None)
        if block is None:
            return None
    return block
