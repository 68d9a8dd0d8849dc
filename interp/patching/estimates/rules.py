"""Relevance-style derivatives (RelP; Jafari et al. 2025), and what they take for constant.

Where a layer bends, its local slope tells little of what a large change does. The rules of
layer-wise relevance propagation put in its place the line from zero through what it computes: a
norm's scale, attention patterns, and the ratio of each neuron to its input are held at what they
are; where two factors are multiplied (a gated MLP), each gets half. What the model computes stays
what it is; only the derivatives are others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.components.linear import position_wise
from interp.components.norms import Norm
from interp.errors import ModelError, SiteError
from interp.forward.access import Change
from interp.forward.packing import find, runs_as
from interp.forward.passes import TOLERANCE, relative_error
from interp.forward.trials import editable
from interp.kinds import site_kind
from interp.model.model import Model
from interp.sites import Site

_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")
# An input so small has no line through it; what it moves is as small.
_LEAST = 1e-6


@contextlib.contextmanager
def relevance(model: Model, layer: int) -> Iterator[Sequence[tuple[Site, Change]]]:
    """A `BlockRule`: the derivatives of a block by these rules.

    Raises:
        SiteError: its MLP hides its neurons (mixtures of experts).
        ModelError: a norm of it is none that is known.
    """
    block = model.bridge.blocks[layer]
    with contextlib.ExitStack() as stack:
        for name in _NORMS:
            norm = find(block, name)
            if norm is not None:
                stack.enter_context(frozen(model, norm))
        inputs: dict[str, Tensor] = {}
        for name in ("mlp.in", "mlp.gate"):
            module = find(block, name)
            if module is not None:
                stack.enter_context(runs_as(module, _remembered(module.forward, inputs, name)))

        def neurons(value: Tensor) -> Tensor:
            return _through_lines(model, value, [*inputs.values()])

        frozen_patterns = [(Site(name, layer), torch.detach) for name in ("q", "k")]
        yield [*frozen_patterns, (Site("mlp_act", layer), neurons)]


@contextlib.contextmanager
def frozen_readout(model: Model) -> Iterator[None]:
    """Inside, the final norm is differentiated with its scale held."""
    with frozen(model, model.bridge.ln_final):
        yield


@contextlib.contextmanager
def frozen(model: Model, module: Any) -> Iterator[None]:
    """Inside, a norm computes what it does, and its derivative holds what it divides by."""
    forward: Callable[..., Tensor] = module.forward
    weight = next(iter(model.bridge.original_model.parameters()))
    # Here, where nobody listens yet to what passes the norm.
    with model.lock:
        norm = Norm.found_in(lambda s: position_wise(forward, s), model.d_model, weight)

    def wrapped(stream: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            value = forward(stream, *args, **kwargs)
        if not stream.requires_grad:
            return value
        mean, inverse_scale = norm.moments(stream)
        line = (stream.float() - mean) * inverse_scale.detach() * norm.gain
        if (
            not relative_error((line + norm.shift).detach(), value.detach())
            <= TOLERANCE[model.dtype]
        ):
            raise ModelError(
                f"A norm of {model.name} is neither a layer norm nor an RMS norm, so RelP has no "
                "rule for it; choose another method."
            )
        return value + (line - line.detach()).to(value.dtype)

    with runs_as(module, wrapped):
        yield


def check(model: Model, site: str) -> None:
    """
    Raises:
        SiteError: the rules say nothing of this site or model.
    """
    if site_kind(site).makes_pattern:
        raise SiteError(
            f"RelP holds attention patterns fixed, so it gives '{site}' no effect; choose another "
            "method."
        )
    try:
        editable(model, [Site("mlp_act", layer) for layer in range(model.n_layers)])
    except SiteError as error:
        raise SiteError(
            f"{model.name} does not show the neurons of its MLPs, so RelP has no rule for them; "
            "choose another method."
        ) from error


def _remembered(
    forward: Callable[..., Tensor], inputs: dict[str, Tensor], name: str
) -> Callable[..., Tensor]:
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        inputs[name] = forward(*args, **kwargs)
        return inputs[name]

    return wrapped


def _through_lines(model: Model, value: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """What neurons are, with the derivative of the line from zero through it."""
    if not inputs or any(one.numel() != value.numel() for one in inputs):
        raise ModelError(
            f"{model.name} does not show what goes into its MLPs' neurons, so RelP has no rule for "
            "them; choose another method."
        )
    inputs = [one.reshape(value.shape) for one in inputs]  # some run all tokens as one batch
    held = value.detach()
    line = torch.zeros_like(held)
    for one in inputs:
        small = one.detach().abs() < _LEAST
        ratio = held / torch.where(small, torch.ones_like(one), one.detach())
        line = line + one * torch.where(small, torch.zeros_like(one), ratio) / len(inputs)
    return held + (line - line.detach())
