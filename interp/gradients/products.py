"""Inner products of the gradients of many prompts, without keeping any of the gradients.

A small step that raises the log-probability of one answer changes that of another by the inner
product of their gradients (Koh & Liang 2017 without the Hessian; Pruthi et al. 2020, TracIn). Their
cosine is the share that two steps have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from cache.arguments import typed
from cache.sizes import show_size
from interp.errors import ModelError, PromptError
from interp.gradients.factors import (
    Factor,
    check_factors,
    log_probability,
    mlp_matrices,
    traffic,
    trainable,
)
from interp.model.memory import batches, room_to_keep, rows_that_fit
from interp.model.model import Model
from interp.model.packed import refuse_packed
from interp.progress import Progress
from interp.prompts.targets import Answers, first_tokens
from interp.prompts.tokens import Prompts, TokenBatch, tokenise

__all__ = ["gradient_products"]

_BYTES_AT_ONCE = 64 << 20
_COLUMNS_AT_ONCE = 1 << 16


@typed
def gradient_products(
    model: Model,
    prompts: Prompts,
    answers: Answers,
    *,
    parameters: Literal["mlp", "all"] = "mlp",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Inner products of ∇ log p(first token of the answer | prompt), of every two prompts.

    Exact, whatever the number of weights: by matrices of MLPs from what each read and the gradient
    by what it put out, layers by layers as memory allows; by all parameters from the gradients
    themselves, some parameters at a time.

    Args:
        model: the model; its parameters stay as they are, `requires_grad` included.
        prompts: texts, or token ids [example, position].
        answers: what should follow each, one for each prompt; the first token counts.
        parameters: "mlp", the matrices of all MLPs, where facts are said to be kept; or "all".
        progress: called with (prompts done, in all).

    Returns:
        product(example, other) in nats² per squared unit of weight; cosine(example, other), NaN for
        a prompt whose gradient is zero.

    Raises:
        PromptError: answers are missing or do not fit the prompts.
        ModelError: the MLPs are not made of linear layers; or single parameters are so large that
            their gradients do not fit the memory.
    """
    refuse_packed(model, "Gradients here are those of weights")
    batch = tokenise(model, prompts)
    targets = first_tokens(model, batch, answers)
    if targets is None or targets.ndim > 1:
        raise PromptError("Give one answer for each prompt.")
    if parameters == "mlp":
        product = _by_factors(model, batch, targets, progress)
    else:
        product = _by_gradients(model, batch, targets, progress)
    size = product.diagonal().clamp(min=0.0).sqrt()
    cosine = product / (size[:, None] * size[None, :])
    cosine[(size == 0)[:, None] | (size == 0)[None, :]] = torch.nan
    return xr.Dataset(
        {
            "product": (("example", "other"), product.numpy()),
            "cosine": (("example", "other"), cosine.numpy()),
        },
        coords={
            "prompt": ("example", list(batch.texts)),
            "answer": ("example", model.token_strings(targets.tolist())),
        },
        attrs={"instrument": "gradient products", "parameters": parameters, **model.identity},
    )


def _by_factors(
    model: Model, batch: TokenBatch, targets: Int[Tensor, " example"], progress: Progress | None
) -> Float[Tensor, "example example"]:
    check_factors(model, batch.ids, batch.lengths, targets)
    n, length = batch.ids.shape
    total = torch.zeros(n, n, dtype=torch.float64)
    groups = list(_slices(model, n * length))
    # A backward pass keeps what every block computes, and the logits with their gradients.
    each = (1 + model.n_layers) * model.memory_per_row(length) + 12 * length * model.d_vocab
    for number, modules in enumerate(groups):
        found: list[list[Factor]] = []

        def work(start: int, stop: int, modules: list[nn.Module] = modules) -> list[Factor]:
            part = slice(start, stop)
            return traffic(model, modules, batch.ids[part], batch.lengths[part], targets[part])

        for _, stop, factors in batches(n, rows_that_fit(model, each), work):
            found.append(factors)
            if progress:
                progress(number * n + stop, len(groups) * n)
        for column in range(len(modules)):
            read = torch.cat([factors[column][0] for factors in found])
            by = torch.cat([factors[column][1] for factors in found])
            total += _products(read, by)
    return total


def _slices(model: Model, rows: int) -> Iterator[list[nn.Module]]:
    """The MLPs' linear layers, as many at a time as memory can hold the factors of."""
    room, size = room_to_keep(model), 0
    kept: list[nn.Module] = []
    for module in mlp_matrices(model):
        with model.unread():
            each = rows * sum(module.weight.shape) * model.dtype.itemsize
        if kept and size + each > room:
            yield kept
            kept, size = [], 0
        kept.append(module)
        size += each
    yield kept


def _products(
    read: Float[Tensor, "example token d_in"], by: Float[Tensor, "example token d_out"]
) -> Float[Tensor, "example example"]:
    """Σ over pairs of tokens of (read · read) (by · by)."""
    n, length, _ = read.shape
    # Gradients of a saturated answer are tiny, and their products would be nothing in float32.
    size = by.float().abs().amax((1, 2)).clamp(min=1e-38)
    wide = read.dtype if read.dtype == torch.float64 else torch.float32
    flat = read.to(wide).reshape(n * length, -1)
    scaled = (by.to(wide) / size[:, None, None].to(wide)).reshape(n * length, -1)
    step = max(1, _BYTES_AT_ONCE // (2 * flat.element_size() * n * length * length))
    rows = []
    for start in range(0, n, step):
        part = slice(start * length, min(n, start + step) * length)
        both = (flat[part] @ flat.T) * (scaled[part] @ scaled.T)
        rows.append(both.reshape(-1, length, n, length).sum((1, 3)).double().cpu())
    scale = size.double().cpu()
    return torch.cat(rows) * scale[:, None] * scale[None, :]


def _by_gradients(
    model: Model, batch: TokenBatch, targets: Int[Tensor, " example"], progress: Progress | None
) -> Float[Tensor, "example example"]:
    n = len(batch)
    total = torch.zeros(n, n, dtype=torch.float64)
    groups = _parameter_groups(model, n)
    for number, empty in enumerate(groups):
        group = [model.brought(parameter) for parameter in empty]
        width = sum(parameter.numel() for parameter in group)
        kept = torch.empty(n, width, dtype=model.dtype, device=model.device)
        for row in range(n):
            one = slice(row, row + 1)
            with model.lock, torch.enable_grad(), trainable(group):
                ids = batch.ids[one, : int(batch.lengths[row])]
                value = log_probability(model, ids, batch.lengths[one], targets[one]).sum()
                found = torch.autograd.grad(value, group, allow_unused=True)
            pieces = [
                torch.zeros_like(parameter) if by is None else by
                for parameter, by in zip(group, found, strict=True)
            ]
            kept[row] = torch.cat([piece.reshape(-1) for piece in pieces])
            if progress:
                progress(number * n + row + 1, len(groups) * n)
        for start in range(0, width, _COLUMNS_AT_ONCE):
            part = kept[:, start : start + _COLUMNS_AT_ONCE].cpu().double()
            total += part @ part.T
    return total


def _parameter_groups(model: Model, n: int) -> list[list[nn.Parameter]]:
    """All parameters, as many at a time as memory can hold the gradients of n prompts by.

    Those that lie elsewhere have no numbers yet.
    """
    room = room_to_keep(model)
    groups: list[list[nn.Parameter]] = [[]]
    size = 0
    with model.unread():
        named = list(model.bridge.original_model.named_parameters())
    for name, parameter in named:
        each = n * parameter.numel() * parameter.element_size()
        if each > room:
            raise ModelError(
                f"The gradients of {n} prompts by {name} of {model.name} take {show_size(each)} of "
                f"memory, and {show_size(room)} may be used; give fewer prompts, or use "
                "parameters='mlp'."
            )
        if groups[-1] and size + each > room:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += each
    return groups
