"""The parts of a model that tests change, and how they are put back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from interp.model.model import Model

Modification = Callable[[Model], "contextlib.AbstractContextManager[None]"]

PARTS = {
    "gpt2": {
        "embed": "transformer.wte",
        "blocks": "transformer.h",
        "attention": "attn",
        "mlp": "mlp",
        "norm": "ln_1",
    },
    "llama": {
        "embed": "model.embed_tokens",
        "blocks": "model.layers",
        "attention": "self_attn",
        "mlp": "mlp",
        "norm": "input_layernorm",
    },
}


def architecture(model: Model) -> str:
    return str(model.bridge.original_model.config.model_type)


def plain(module: Any) -> Any:
    """Hugging Face's module, without what TransformerLens put around it."""
    while "_original_component" in module._modules:
        module = module._modules["_original_component"]
    return module


def part(model: Model, name: str, layer: int = 1) -> Any:
    parts = PARTS[architecture(model)]
    found = model.bridge.original_model
    path = parts["embed"] if name == "embed" else parts["blocks"]
    for step in path.split("."):
        found = plain(getattr(plain(found), step))
    if name == "embed":
        return found
    block = plain(found[layer])
    return block if name == "block" else plain(getattr(block, parts[name]))


def weight(model: Model) -> torch.Tensor:
    """A weight in the middle of the model that is used where it stands."""
    mlp = part(model, "mlp")
    found = plain(mlp.c_fc if architecture(model) == "gpt2" else mlp.up_proj).weight
    assert isinstance(found, torch.Tensor)
    return found


@contextlib.contextmanager
def restoring(*tensors: torch.Tensor) -> Iterator[None]:
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.data.copy_(value)


@contextlib.contextmanager
def attribute(holder: Any, name: str, value: Any) -> Iterator[None]:
    own = name in vars(holder)
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before) if own else delattr(holder, name)
