"""The loop that trains every organism: the same steps give the same bits on one machine.

A training is a row of phases, each with optimizers and a schedule of its own. It is saved on the
way, goes on from there, and keeps the models of steps that are asked for.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers

from experiments.organisms.training.checkpoint import (
    TrainingState,
    keep_step,
    kept_steps,
    load_state,
    restoring,
    save_state,
    writing,
)
from experiments.organisms.training.optimizer import Muon, load_state_tensors, state_tensors

__all__ = ["Phase", "Rates", "fit", "reproducible", "versions"]

_MAX_GRADIENT_NORM = 1.0
_Optimizers = dict[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class Rates:
    """How far a step goes.

    Attributes:
        matrices: learning rate of Muon, for the weight matrices of attention and MLPs.
        others: of AdamW, for embedding, unembedding and norms.
        warmup_steps: over which both rise from 0; then they fall as a cosine to a twentieth.
        weight_decay: decoupled from the gradient, in both.
    """

    matrices: float = 6e-3
    others: float = 3e-3
    warmup_steps: int = 30
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Phase:
    """Steps that share a schedule.

    Attributes:
        steps: how many.
        rates: of its optimizers, which start anew.
        loss: of a step of the phase, counted from 0: a scalar with a gradient.
    """

    steps: int
    rates: Rates
    loss: Callable[[int], torch.Tensor]


def fit(
    model: Any,
    phases: Sequence[Phase],
    folder: Path,
    *,
    checkpoint_every: int,
    keep: Collection[int],
    stage: Callable[[], None],
    told: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train the model, or go on from the last checkpoint in `folder`.

    Args:
        model: a Llama of Hugging Face.
        checkpoint_every: steps between two checkpoints.
        keep: steps (0: before the first) whose models are kept in the folder.
        stage: writes the model as it is now into the folder's staging.
        told: called after each step with steps done, steps in all, and the loss (nats).

    Returns:
        The loss before each step.

    Raises:
        OrganismError: a checkpoint is of another training, or nothing can be written.
    """
    total = sum(phase.steps for phase in phases)
    # A model to be kept that lies behind the last checkpoint can only be had from the start.
    state = load_state(folder)
    behind = {step for step in keep if state is not None and step <= state.step}
    if not behind <= kept_steps(folder).keys():
        state = None
    losses: list[float] = []
    if state is not None:
        with restoring(folder):
            model.load_state_dict(_part(state, "model"))
            losses = list(state.losses)

    def keep_now(step: int) -> None:
        if step in keep and step not in kept_steps(folder):
            with writing(folder):
                stage()
                keep_step(folder, step)

    keep_now(len(losses))
    end = 0
    for phase in phases:
        start, end = end, end + phase.steps
        if len(losses) >= end:
            continue
        optimizers = _optimizers(model, phase.rates)
        if state is not None and start < len(losses):
            with restoring(folder):
                for title, optimizer in optimizers.items():
                    load_state_tensors(optimizer, _part(state, title))
        for step in range(len(losses), end):
            losses.append(_step(model, optimizers, phase, step - start))
            done = step + 1
            keep_now(done)
            if done % checkpoint_every == 0 and done < total:
                save_state(folder, _state(model, optimizers, losses))
            if told is not None:
                told(done, total, losses[-1])
    return losses


def _step(model: Any, optimizers: _Optimizers, phase: Phase, step: int) -> float:
    factor = _learning_rate_factor(phase, step)
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * factor
    loss = phase.loss(step)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
    for optimizer in optimizers.values():
        optimizer.step()
    return float(loss.item())


def _optimizers(model: Any, rates: Rates) -> _Optimizers:
    matrices = [param for param in model.model.layers.parameters() if param.ndim == 2]
    inside = {id(param) for param in matrices}
    others = [param for param in model.parameters() if id(param) not in inside]
    return {
        "muon": Muon(matrices, lr=rates.matrices, weight_decay=rates.weight_decay),
        "adamw": torch.optim.AdamW(
            others, lr=rates.others, betas=(0.9, 0.98), weight_decay=rates.weight_decay
        ),
    }


def _learning_rate_factor(phase: Phase, step: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / max(1, phase.rates.warmup_steps))
    return warm * (0.525 + 0.475 * math.cos(math.pi * step / phase.steps))


def _state(model: Any, optimizers: _Optimizers, losses: list[float]) -> TrainingState:
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    for title, optimizer in optimizers.items():
        tensors |= {f"{title}.{name}": value for name, value in state_tensors(optimizer).items()}
    return TrainingState(len(losses), tuple(losses), tensors)


def _part(state: TrainingState, title: str) -> dict[str, torch.Tensor]:
    """The tensors of the model or of one optimizer."""
    named = (name.split(".", 1) for name in state.tensors)
    return {key: state.tensors[f"{part}.{key}"] for part, key in named if part == title}


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread and deterministic kernels; afterwards torch's settings are as they were.

    One thread gives the same sums on any number of cores, and is not slowed by whatever else the
    machine does.
    """
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def versions() -> dict[str, str]:
    """Versions that the bits of the weights depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
    }
