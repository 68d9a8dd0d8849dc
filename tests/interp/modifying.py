"""Ways in which somebody may change a model that is loaded, each with a way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules import module as torch_modules

from interp.model.model import Model
from tests.interp.modifying_code import (
    activation_exchanged,
    autocast,
    block_training,
    class_patched,
    code_exchanged,
    dispatch_mode,
    forward_patched,
    function_mode,
    function_patched,
    mask_function_patched,
    mask_registered,
    operator_patched,
    parametrised,
    replaced,
    scaling,
    setting,
    weight_that_computes,
)
from tests.interp.modifying_parts import (
    Modification,
    architecture,
    part,
    plain,
    restoring,
    weight,
)

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
