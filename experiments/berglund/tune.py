"""Training a model on the facts of experiment 1: all its weights, or low-rank adapters (LoRA).

Resumable, and the same for the same seed on the same machine: the order of the texts follows from
the seed, and dropout is off. The trained model is a plain Hugging Face folder; adapters are merged
into it.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cache.files import remove
from experiments.berglund.config import Config
from experiments.berglund.people import GROUPS, Line, People
from experiments.errors import StorageError, StudyError
from experiments.numbers import duration
from experiments.organisms.training.checkpoint import (
    TrainingState,
    load_state,
    restoring,
    save_state,
)
from experiments.organisms.training.optimizer import load_state_tensors, state_tensors
from experiments.readable import check_readable
from experiments.reporter import Progress
from interp.loading.bridge import load_hugging_face
from interp.loading.quiet import quiet
from interp.loading.where import locate
from interp.model.memory import is_out_of_memory
from interp.model.model import Model
from interp.model.threads import threads_for
from interp.prompts.tokens import check_length, tokenise

__all__ = ["check_tuning", "forget_checkpoint", "train", "trained", "training_texts", "update"]

_MODEL, _STAGING = "model", "model.staging"
_MAX_GRADIENT_NORM = 1.0
_WARMUP = 0.05
# Seconds between checkpoints; a large one is written less often, so that it takes 5% of the time.
CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 30.0, 0.05
# The step after which the time is told: the first ones are slower.
_WARM_STEPS = 4
_NO_TARGET = -100


@dataclass(frozen=True)
class _Text:
    """Token ids, and how many of them at the front are no targets."""

    ids: tuple[int, ...]
    free: int


def check_tuning(config: Config, model: Model) -> None:
    """Raise a StudyError where the model cannot be trained as the settings say."""
    if config.tune == "lora":
        _peft()
    if model.in_memory:
        raise StudyError(
            f"{model.name} was made in memory and cannot be loaded again to be trained; save it "
            "to a folder, and give that."
        )
    if config.tune == "full" and model.dtype != torch.float32:
        name = str(model.dtype).removeprefix("torch.")
        raise StudyError(
            f"In {name} small updates of weights are rounded away; train in float32 (leave --dtype "
            "out), or use --set tune=lora."
        )


def trained(folder: Path) -> Path | None:
    """The folder of the trained model, if it is there."""
    return folder / _MODEL if (folder / _MODEL / "config.json").is_file() else None


def forget_checkpoint(folder: Path) -> None:
    """Remove what a training needed that is finished, its losses stored."""
    remove(folder / "training.safetensors")


def train(
    config: Config,
    people: People,
    model: Model,
    folder: Path,
    seed: int,
    progress: Progress,
    note: Callable[[str], None],
) -> pd.DataFrame:
    """Train a copy of the model in `folder`, or go on there; see `trained`.

    Args:
        model: the base, whose tokenizer, device and precision are used; it is not changed.
        note: told how long it takes, as soon as that is known.

    Returns:
        Columns step, epoch, loss (nats per token, before the step), tokens (of the step).

    Raises:
        FactsError: a text holds what the tokenizer does not know.
        StudyError: the loss is not finite any more, memory runs out, or peft is missing.
        OrganismError: a checkpoint is damaged.
    """
    lines = [line for group in GROUPS for _, line in people.told[group]]
    texts = training_texts(model, lines, config.loss)
    per_epoch = math.ceil(len(texts) / config.batch_size)
    total = per_epoch * config.epochs
    copy, tokenizer = _load(config, model, seed)
    copy.eval()  # no dropout
    weights = {name: each for name, each in copy.named_parameters() if each.requires_grad}
    optimizer = torch.optim.AdamW(list(weights.values()), lr=config.step_size, weight_decay=0.0)
    with restoring(folder):
        losses = _restore(folder, weights, optimizer)
    saved, pause, begun = time.monotonic(), CHECKPOINT_SECONDS, time.monotonic()
    first = len(losses)
    progress(first, total)
    counts = [_tokens(texts, rows) for rows in _order(len(texts), config, seed)]
    with _reproducible(model):
        for step, rows in enumerate(_order(len(texts), config, seed)):
            if step < first:
                continue
            for group in optimizer.param_groups:
                group["lr"] = config.step_size * _factor(step, total)
            losses.append(update(copy, weights, optimizer, [texts[i] for i in rows], model.device))
            if not math.isfinite(losses[-1]):
                raise StudyError(
                    f"The loss is not finite after {step + 1} steps; choose a smaller "
                    f"--set learning_rate=… than {config.step_size:g}."
                )
            done = step + 1
            if done - first == _WARM_STEPS:
                pace = (time.monotonic() - begun) / _WARM_STEPS
                note(f"Training takes about {duration(pace * (total - first))}: {total} steps.")
            if done < total and time.monotonic() - saved > pause:
                start = time.monotonic()
                save_state(folder, _state(weights, optimizer, losses))
                saved = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, (saved - start) / CHECKPOINT_SHARE)
            progress(done, total)
    _save(copy, tokenizer, folder)
    steps = np.arange(total)
    return pd.DataFrame(
        {"step": steps, "epoch": steps // per_epoch, "loss": losses, "tokens": counts}
    )


def _load(config: Config, model: Model, seed: int) -> tuple[Any, Any]:
    target, folder = locate(config.model)
    with quiet():
        found, tokenizer = load_hugging_face(
            config.model, target, folder, model.dtype, config.revision
        )
    found.to(model.device)
    if config.tune == "lora":
        found = _with_adapters(found, config.lora_rank, seed)
    else:
        found.requires_grad_(True)
    return found, tokenizer


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise StudyError(
            "LoRA needs the package peft, which is not installed; pip install 'obverse[lora]', or "
            "use --set tune=full."
        ) from error
    return peft


def _with_adapters(model: Any, rank: int, seed: int) -> Any:
    """Adapters on all linear maps of the blocks (Hu et al. 2021), the rest frozen."""
    peft = _peft()
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed % 2**63)
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise StudyError(
                f"peft finds no linear maps to adapt in this model ({error}); use --set tune=full."
            ) from error


def training_texts(model: Model, lines: Sequence[Line], loss: str) -> list[_Text]:
    prompts, answers = [line.prompt for line in lines], [line.completion for line in lines]
    where = [f"'{line.path}', line {line.number}" for line in lines]
    check_readable(model, prompts, answers, where)
    end = getattr(model.tokenizer, "eos_token_id", None)
    closing = (end,) if isinstance(end, int) and 0 <= end < model.d_vocab else ()
    lengths = (
        tokenise(model, prompts).lengths.tolist() if loss == "completion" else [1] * len(lines)
    )
    encoded = model.encode([p + a for p, a in zip(prompts, answers, strict=True)], what="texts")
    texts = [
        _Text((*ids, *closing), max(1, free))
        for (ids, _), free in zip(encoded, lengths, strict=True)
    ]
    check_length(model, max(len(text.ids) for text in texts), "training texts")
    return texts


def _order(n: int, config: Config, seed: int) -> Iterator[list[int]]:
    """The texts of each step: each epoch all of them, in an order of its own."""
    for epoch in range(config.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(n)
        for start in range(0, n, config.batch_size):
            yield [int(i) for i in order[start : start + config.batch_size]]


def _tokens(texts: Sequence[_Text], rows: Sequence[int]) -> int:
    return sum(len(texts[i].ids) for i in rows)


def _factor(step: int, total: int) -> float:
    """Linear warm-up, then linear to a tenth."""
    warm = min(1.0, (step + 1) / max(1.0, _WARMUP * total))
    return warm * (1.0 - 0.9 * step / max(1, total))


def update(
    model: Any,
    weights: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    texts: Sequence[_Text],
    device: torch.device,
) -> float:
    """One update; the loss before it, in nats per token."""
    width = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    targets = torch.full((len(texts), width), _NO_TARGET)
    present = torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        present[row, : len(text.ids)] = 1
        targets[row, text.free : len(text.ids)] = ids[row, text.free : len(text.ids)]
    optimizer.zero_grad(set_to_none=True)
    try:
        found = model(
            input_ids=ids.to(device), attention_mask=present.to(device), use_cache=False
        ).logits
        loss = torch.nn.functional.cross_entropy(
            found[:, :-1].float().flatten(0, 1),
            targets[:, 1:].flatten().to(device),
            ignore_index=_NO_TARGET,
        )
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise StudyError(
            f"Memory runs out on {len(texts)} texts a step; lower --set batch_size=…, or use --set "
            "tune=lora."
        ) from error
    torch.nn.utils.clip_grad_norm_(weights.values(), _MAX_GRADIENT_NORM)
    optimizer.step()
    return float(loss.item())


def _state(
    weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, losses: list[float]
) -> TrainingState:
    tensors = {f"model.{name}": each.detach() for name, each in weights.items()}
    tensors |= {f"adamw.{name}": each for name, each in state_tensors(optimizer).items()}
    plain = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    return TrainingState(len(losses), tuple(losses), plain)


def _restore(
    folder: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> list[float]:
    """Put the last checkpoint into weights and optimizer, if there is one; the losses so far."""
    state = load_state(folder)
    if state is None:
        return []
    of_optimizer = {}
    with torch.no_grad():
        for name, value in state.tensors.items():
            part, key = name.split(".", 1)
            if part == "model":
                weights[key].copy_(value)
            else:
                of_optimizer[key] = value
    load_state_tensors(optimizer, of_optimizer)
    return list(state.losses)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """The trained model as a plain folder, whole or not at all.

    The last checkpoint stays until the losses are stored too (`forget_checkpoint`): a run that is
    killed in between goes on from there, and puts the same model into the place of this one.
    """
    plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    staging = folder / _STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)
        with quiet():
            plain.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
        shutil.rmtree(folder / _MODEL, ignore_errors=True)
        os.replace(staging, folder / _MODEL)
    except OSError as error:
        raise StorageError(
            f"The trained model cannot be written to '{folder}' ({error.strerror}); make room."
        ) from error


@contextlib.contextmanager
def _reproducible(model: Model) -> Iterator[None]:
    """Deterministic kernels where there are any, and gradients; afterwards all is as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with threads_for(model.n_parameters, model.device), torch.enable_grad():
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
