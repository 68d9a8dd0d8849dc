"""Gradients by the matrices of a model's MLPs, as the thin factors that they are products of.

Of one prompt the gradient by a linear layer's matrix is a sum over tokens, of what the layer read
times the gradient by what it put out. So products of two prompts' gradients need those two factors
and never the gradients themselves, which have a number for each weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import ModelError
from interp.forward.passes import TOLERANCE
from interp.model.model import Model

__all__ = ["Factor", "check_factors", "log_probability", "mlp_matrices", "traffic", "trainable"]

Factor = tuple[Float[Tensor, "example token d_in"], Float[Tensor, "example token d_out"]]
"""What a linear layer read, and the gradient by what it put out."""

_MOST_TRIED = 12


def mlp_matrices(model: Model) -> list[Any]:
    """The linear layers of all MLPs.

    Raises:
        ModelError: an MLP keeps matrices in another way (fused experts), or has none.
    """
    with model.unread():
        return _mlp_matrices(model)


def _mlp_matrices(model: Model) -> list[Any]:
    found: dict[int, Any] = {}
    for block in model.bridge.blocks:
        mlp = getattr(block, "mlp", None)
        if mlp is None:
            raise _unreadable(model)
        # Where a block has no module for its MLP alone, what stands for it holds the attention too.
        attention = getattr(block, "attn", nn.Module())
        others = {id(module) for module in attention.modules()}
        linear = [m for m in mlp.modules() if _is_linear(m) and id(m) not in others]
        covered = {id(module.weight) for module in linear}
        covered |= {id(parameter) for parameter in attention.parameters()}
        for parameter in mlp.parameters():
            if parameter.ndim > 1 and id(parameter) not in covered:
                raise _unreadable(model)
        if not linear:
            raise _unreadable(model)
        found.update({id(module): module for module in linear})
    return list(found.values())


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def log_probability(
    model: Model,
    ids: Int[Tensor, "example position"],
    lengths: Int[Tensor, " example"],
    targets: Int[Tensor, " example"],
) -> Float[Tensor, " example"]:
    """Of each target after its prompt, in nats; for gradients, so that gradients are recorded."""
    logits: Tensor = model.bridge(ids.to(model.device), use_cache=False, return_type="logits")
    rows = torch.arange(len(ids), device=logits.device)
    last = logits[rows, lengths.to(logits.device) - 1].float()
    return last.log_softmax(-1)[rows, targets.to(logits.device)]


def traffic(
    model: Model,
    modules: Sequence[Any],
    ids: Int[Tensor, "example position"],
    lengths: Int[Tensor, " example"],
    targets: Int[Tensor, " example"],
) -> list[Factor]:
    """The factors of the gradient of each prompt's log-probability, by each of the modules.

    No parameter's `requires_grad` is touched: what the modules put out is the leaf.

    Raises:
        ModelError: a module is not run, or not on one row for each token.
    """
    read: dict[int, list[Tensor]] = {id(module): [] for module in modules}
    leaves: dict[int, list[Tensor]] = {id(module): [] for module in modules}

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        leaf = torch.zeros_like(output, requires_grad=True)
        read[id(module)].append(args[0].detach())
        leaves[id(module)].append(leaf)
        return output + leaf

    with model.lock, torch.enable_grad(), contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        value = log_probability(model, ids, lengths, targets).sum()
        if not all(read.values()):
            raise _unreadable(model)
        flat = [leaf for module in modules for leaf in leaves[id(module)]]
        gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
    found = []
    for module in modules:
        pieces = [(x, next(gradients)) for x in read[id(module)]]
        if any(x.numel() // x.shape[-1] % len(ids) for x, _ in pieces):
            raise _unreadable(model)
        # A layer that is run several times has the sum of its gradients: more tokens.
        rows = [
            (_by_example(x, len(ids)), _by_example(by, len(ids)))
            for x, by in pieces
            if by is not None
        ]
        if not rows:
            raise _unreadable(model)
        found.append((torch.cat([x for x, _ in rows], 1), torch.cat([by for _, by in rows], 1)))
    return found


def _by_example(values: Tensor, n: int) -> Float[Tensor, "example token d"]:
    return values.reshape(n, -1, values.shape[-1])


@contextlib.contextmanager
def trainable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, gradients by these parameters are recorded; afterwards all is as it was."""
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, was in zip(parameters, before, strict=True):
            parameter.requires_grad_(was)


def check_factors(
    model: Model,
    ids: Int[Tensor, "example position"],
    lengths: Int[Tensor, " example"],
    targets: Int[Tensor, " example"],
) -> None:
    """See on the first prompt, once, that the factors make the gradient that autograd finds.

    Raises:
        ModelError: they do not.
    """

    def trial() -> None:
        modules = mlp_matrices(model)
        one = slice(0, 1)
        # Of a deep model some, from the first layer to the last: each takes two passes.
        apart = max(1, len(modules) // _MOST_TRIED)
        for module in modules[::apart]:
            ((x, by),) = traffic(model, [module], ids[one], lengths[one], targets[one])
            with model.lock, torch.enable_grad(), trainable([module.weight]):
                value = log_probability(model, ids[one], lengths[one], targets[one]).sum()
                (theirs,) = torch.autograd.grad(value, [module.weight])
            ours = torch.einsum("eti,eto->io", x.float(), by.float())
            whole = theirs.float().T if isinstance(module, nn.Linear) else theirs.float()
            # Of a saturated answer there is nothing but rounding to compare.
            size = float(whole.norm())
            if size and not float((ours - whole).norm()) <= 10 * TOLERANCE[model.dtype] * size:
                raise _unreadable(model)

    model.once("gradient factors", trial)


def _unreadable(model: Model) -> ModelError:
    return ModelError(
        f"The MLPs of {model.name} are not made of linear layers that read one row for each token, "
        "so gradients by their matrices have no such factors; use parameters='all'."
    )
