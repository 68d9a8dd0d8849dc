"""Ways in which somebody may change a model that is loaded, each with a way back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

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


# -- weights --------------------------------------------------------------------------------------


@contextlib.contextmanager
def data_added(model: Model) -> Iterator[None]:
    with restoring(weight(model)):
        weight(model).data.add_(0.5)
        yield


@contextlib.contextmanager
def numpy_view(model: Model) -> Iterator[None]:
    with restoring(weight(model)):
        weight(model).detach().numpy()[...] += 0.5
        yield


@contextlib.contextmanager
def no_grad(model: Model) -> Iterator[None]:
    with restoring(weight(model)):
        with torch.no_grad():
            weight(model).mul_(1.5)
        yield


@contextlib.contextmanager
def data_assigned(model: Model) -> Iterator[None]:
    before = weight(model).data
    weight(model).data = before + 0.5
    yield
    weight(model).data = before


@contextlib.contextmanager
def storage_set(model: Model) -> Iterator[None]:
    before = weight(model).data
    with torch.no_grad():
        weight(model).set_(before + 0.5)  # type: ignore[call-overload]
        yield
        weight(model).set_(before)  # type: ignore[call-overload]


@contextlib.contextmanager
def one_row(model: Model) -> Iterator[None]:
    """The embedding of one token that no fixed input holds."""
    table = part(model, "embed").weight
    with restoring(table):
        table.data[WORD] += 0.5
        yield


@contextlib.contextmanager
def one_number(model: Model) -> Iterator[None]:
    table = part(model, "embed").weight
    with restoring(table):
        table.data[WORD, 3] += 4
        yield


@contextlib.contextmanager
def positions(model: Model) -> Iterator[None]:
    """Positions beyond a short input: a row of a table, or the frequencies of rotations."""
    original = model.bridge.original_model
    if architecture(model) == "gpt2":
        table = plain(plain(original.transformer).wpe).weight
        with restoring(table):
            table.data[9] += 0.5
            yield
    else:
        rotary = plain(plain(original.model).rotary_emb)
        with restoring(rotary.inv_freq):
            rotary.inv_freq.mul_(3.0)
            yield


@contextlib.contextmanager
def split_copy(model: Model) -> Iterator[None]:
    """The queries' matrix as TransformerLens uses it, cut out of a fused one for GPT-2."""
    query = plain(model.bridge.blocks[1].attn.q).weight
    with restoring(query):
        query.data.mul_(3)
        yield


# -- hooks ----------------------------------------------------------------------------------------


def double(*given: Any) -> Any:
    output = given[-1]
    return (
        tuple(2 * v if i == 0 else v for i, v in enumerate(output))
        if isinstance(output, tuple)
        else 2 * output
    )


def on_word(_module: Any, args: Any, output: Any) -> Any:
    """Changes nothing unless one token is there."""
    return output + (args[0] == WORD)[..., None] * 3.0


@contextlib.contextmanager
def removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def forward_hook(model: Model) -> Any:
    return removed(part(model, "mlp").register_forward_hook(double))


def wrapper_hook(model: Model) -> Any:
    return removed(model.bridge.blocks[1].register_forward_hook(double))


def pre_hook(model: Model) -> Any:
    return removed(part(model, "mlp").register_forward_pre_hook(lambda _, args: (2 * args[0],)))


def rare_hook(model: Model) -> Any:
    return removed(part(model, "embed").register_forward_hook(on_word))


def global_hook(model: Model) -> Any:
    def hook(module: Any, _args: Any, output: Any) -> Any:
        return 2 * output if module is part(model, "mlp") else None

    return removed(torch_modules.register_module_forward_hook(hook))


@contextlib.contextmanager
def lens_hook(model: Model) -> Iterator[None]:
    point = model.bridge.hook_dict["blocks.0.hook_resid_post"]
    point.add_hook(lambda value, hook: 2 * value)
    try:
        yield
    finally:
        point.remove_hooks()


def torch_hook_on_point(model: Model) -> Any:
    point = model.bridge.hook_dict["blocks.0.hook_resid_post"]
    return removed(point.register_forward_hook(double))


# -- code and settings ----------------------------------------------------------------------------


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


WORD = 9

WEIGHTS: list[Modification] = [
    data_added,
    numpy_view,
    no_grad,
    data_assigned,
    storage_set,
    one_row,
    one_number,
    positions,
    split_copy,
]
HOOKS: list[Modification] = [
    forward_hook,
    wrapper_hook,
    pre_hook,
    rare_hook,
    global_hook,
    lens_hook,
    torch_hook_on_point,
]
CODE: list[Modification] = [
    forward_patched,
    class_patched,
    code_exchanged,
    function_patched,
    replaced,
    activation_exchanged,
    parametrised,
    setting,
    scaling,
    block_training,
    autocast,
    mask_function_patched,
    mask_registered,
    operator_patched,
    function_mode,
    dispatch_mode,
    weight_that_computes,
]
