"""Weights that a library has packed into few bits: what they hold, and what they stand for.

torchao's are tensors that are made of others; bitsandbytes' are bytes beside a state that tells how
to read them. Whatever looks at numbers (identity, the check that they are finite) looks at these
parts; whatever computes with a weight itself gets what it stands for, never the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from interp.errors import ModelError

__all__ = [
    "LIBRARIES",
    "PLAIN_TENSORS",
    "how",
    "is_packed",
    "packed_weights",
    "parts",
    "refuse_packed",
    "unpacked",
]


# Whose tensors are known to be what they say.
LIBRARIES = ("bitsandbytes", "torchao")
PLAIN_TENSORS = frozenset({Tensor, nn.Parameter, nn.Buffer})
"""Types of what is no packed weight."""


def is_packed(value: object) -> bool:
    """Whether a weight is something else than the numbers that it stands for."""
    if not isinstance(value, Tensor) or type(value).__module__.partition(".")[0] not in LIBRARIES:
        return False
    return is_traceable_wrapper_subclass(value) or _state(value) is not None


def parts(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a tensor is made of, by name; itself, if it is one."""
    if not is_packed(value):
        yield name, value
        return
    if is_traceable_wrapper_subclass(value):
        inner, _ = value.__tensor_flatten__()
        for one in inner:
            yield from parts(f"{name}.{one}", getattr(value, one))
        return
    yield name, value
    for key, one in _state_tensors(_state(value)):
        yield f"{name}.{key}", one


def unpacked(value: Tensor) -> Tensor:
    """The numbers that a weight stands for; itself, if it is not packed.

    Raises:
        ModelError: its library does not tell them.
    """
    if not is_packed(value):
        return value
    with torch.no_grad():
        if is_traceable_wrapper_subclass(value):
            plain = getattr(value, "dequantize", None)
            if plain is not None:
                found: Tensor = plain()
                return found
        elif type(value).__name__ == "Params4bit":
            from bitsandbytes.functional import dequantize_4bit

            four: Tensor = dequantize_4bit(value.data, value.quant_state)  # type: ignore[attr-defined]
            return four
    raise ModelError(
        f"A weight is packed as {type(value).__name__}, and its numbers are not told; load the "
        "model unpacked, in bfloat16, for what reads weights."
    )


def how(value: Tensor) -> str:
    """In which way a weight is packed, as text."""
    if is_traceable_wrapper_subclass(value):
        return str(value.__tensor_flatten__()[1])
    return type(_state(value)).__name__


def packed_weights(model: nn.Module) -> list[str]:
    """The names of a model's packed weights."""
    return [name for name, value in model.named_parameters() if is_packed(value)]


def refuse_packed(model: Any, what: str) -> None:
    """Raise a ModelError for an instrument that needs the weights themselves.

    Args:
        model: a `Model`.
        what: does what to weights, as in "WHAT, and …".
    """
    found = packed_weights(model.bridge.original_model)
    if found:
        plain = found[0].replace("_original_component.", "")
        raise ModelError(
            f"{what}, and {len(found)} weights of {model.name} are packed ('{plain}' first); load "
            "the model unpacked, in bfloat16."
        )


def _state(value: Tensor) -> Any:
    """What bitsandbytes reads a weight with."""
    four = getattr(value, "quant_state", None)
    return getattr(value, "SCB", None) if four is None else four


def _state_tensors(state: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield "SCB", state
    elif state is not None:
        found: Mapping[str, Any] = state.as_dict(packed=True)
        for key in sorted(found):
            yield key, found[key]
