"""Ways to change what a model runs: its code, its settings, and what PyTorch does for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from interp.model.model import Model
from tests.interp.modifying_parts import (
    architecture,
    attribute,
    part,
    plain,
)


def forward_patched(model: Model) -> Any:
    mlp = part(model, "mlp")
    old = mlp.forward
    return attribute(mlp, "forward", lambda *args, **kwargs: 2 * old(*args, **kwargs))


def class_patched(model: Model) -> Any:
    kind = type(part(model, "mlp"))
    old = kind.forward
    return attribute(kind, "forward", lambda *args, **kwargs: 2 * old(*args, **kwargs))


@contextlib.contextmanager
def code_exchanged(model: Model) -> Iterator[None]:
    fn = type(part(model, "norm")).forward
    before = fn.__code__

    def forward(self, hidden_states):  # type: ignore[no-untyped-def]
        return hidden_states

    def forward_input(self, input):  # type: ignore[no-untyped-def]
        return input

    wanted = forward_input if "input" in before.co_varnames[:2] else forward
    fn.__code__ = wanted.__code__
    try:
        yield
    finally:
        fn.__code__ = before


def function_patched(model: Model) -> Any:
    old = torch.softmax
    softmax = nn.functional.softmax
    stack = contextlib.ExitStack()
    stack.enter_context(
        attribute(nn.functional, "softmax", lambda x, *a, **k: softmax(2 * x, *a, **k))
    )
    stack.enter_context(attribute(torch, "softmax", lambda x, *a, **k: old(2 * x, *a, **k)))
    return stack


class Twice(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * self.inner(*args, **kwargs)


@contextlib.contextmanager
def replaced(model: Model) -> Iterator[None]:
    """An adapter around a module."""
    mlp = part(model, "mlp")
    name = "act" if architecture(model) == "gpt2" else "act_fn"
    before = mlp._modules[name]
    mlp._modules[name] = Twice(before)
    try:
        yield
    finally:
        mlp._modules[name] = before


@contextlib.contextmanager
def activation_exchanged(model: Model) -> Iterator[None]:
    mlp = part(model, "mlp")
    name = "act" if architecture(model) == "gpt2" else "act_fn"
    before = mlp._modules[name]
    mlp._modules[name] = nn.ReLU().eval()
    try:
        yield
    finally:
        mlp._modules[name] = before


class Halved(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value / 2


@contextlib.contextmanager
def parametrised(model: Model) -> Iterator[None]:
    mlp = part(model, "mlp")
    linear = plain(mlp.c_fc if architecture(model) == "gpt2" else mlp.up_proj)
    parametrize.register_parametrization(linear, "weight", Halved())
    try:
        yield
    finally:
        parametrize.remove_parametrizations(linear, "weight", leave_parametrized=False)


def setting(model: Model) -> Any:
    norm = part(model, "norm")
    name = "eps" if hasattr(norm, "eps") else "variance_epsilon"
    return attribute(norm, name, 0.5)


def scaling(model: Model) -> Any:
    return attribute(part(model, "attention"), "scaling", 0.01)


def block_training(model: Model) -> Any:
    return attribute(part(model, "block"), "training", True)


@contextlib.contextmanager
def autocast(model: Model) -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


# The following change only what is longer than any short input.
LONG = 8


def short_sighted(mask: Any) -> Any:
    """Later tokens do not see the first ones."""
    if mask is None or mask.shape[-1] <= LONG:
        return mask
    mask = mask.clone()
    mask[..., LONG:, :4] = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask


def mask_function_patched(_model: Model) -> Any:
    old = masking_utils.sdpa_mask
    return attribute(
        masking_utils, "sdpa_mask", lambda *args, **kwargs: short_sighted(old(*args, **kwargs))
    )


@contextlib.contextmanager
def mask_registered(_model: Model) -> Iterator[None]:
    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    old = masks["eager"]
    masks["eager"] = lambda *args, **kwargs: short_sighted(old(*args, **kwargs))
    try:
        yield
    finally:
        del masks["eager"]


@contextlib.contextmanager
def operator_patched(_model: Model) -> Iterator[None]:
    old = torch.Tensor.__add__

    def add(ours: Any, theirs: Any) -> Any:
        long = ours.ndim == 3 and ours.shape[1] > LONG
        return old(ours, theirs) * (1.5 if long else 1)

    torch.Tensor.__add__ = add  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.Tensor.__add__ = old  # type: ignore[method-assign]


class LongHalved(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out / 2 if func is nn.functional.softmax and out.shape[-1] > LONG else out


class LongHalvedBelow(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out / 2 if "softmax" in str(func) and out.shape[-1] > LONG else out


@contextlib.contextmanager
def function_mode(_model: Model) -> Iterator[None]:
    with LongHalved():
        yield


@contextlib.contextmanager
def dispatch_mode(_model: Model) -> Iterator[None]:
    with LongHalvedBelow():
        yield


class LongDoubled(nn.Parameter):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
            is_stream = isinstance(out, torch.Tensor) and out.is_floating_point() and out.ndim > 1
            return 2 * out if is_stream and out.shape[-2] > LONG else out


@contextlib.contextmanager
def weight_that_computes(model: Model) -> Iterator[None]:
    mlp = part(model, "mlp")
    linear = plain(mlp.c_fc if architecture(model) == "gpt2" else mlp.up_proj)
    before = linear._parameters["weight"]
    linear._parameters["weight"] = before.data.as_subclass(LongDoubled)
    try:
        yield
    finally:
        linear._parameters["weight"] = before
