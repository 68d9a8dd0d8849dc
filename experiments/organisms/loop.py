"""The training loop behind `train`."""

from __future__ import annotations

import math
import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch
import transformers

from experiments.organisms.checkpoint import (
    TrainingState,
    claim,
    finish,
    keep_step,
    kept_steps,
    load_state,
    restoring,
    save_state,
    staging,
    writing,
)
from experiments.organisms.config import TrainConfig
from experiments.organisms.errors import OrganismError
from experiments.organisms.evaluate import greedy_match, score_table
from experiments.organisms.facts import FACTS_FILE, TEMPLATES_FILE, write_facts, write_templates
from experiments.organisms.model import build_model, next_token_loss, round_weights, save_model
from experiments.organisms.optimizer import Muon, load_state_tensors, state_tensors
from experiments.organisms.relations import World, generate_world, sentences
from experiments.organisms.schedule import build_schedule
from experiments.organisms.tokenizer import build_tokenizer
from experiments.organisms.wording import TEMPLATES

if TYPE_CHECKING:
    from experiments.organisms.config import Progress

_EVALUATE_EVERY = 25  # steps
_MAX_GRADIENT_NORM = 1.0


def run(config: TrainConfig, out: Path, progress: Progress | None, keep: Collection[int]) -> Path:
    """See `experiments.organisms.train.train`."""
    outside = [step for step in keep if not 0 <= step <= config.steps]
    if outside:
        raise OrganismError(
            f"Step {outside[0]} cannot be kept: there are steps 0 (before the first) to "
            f"{config.steps}."
        )
    identity = {"config": asdict(config), "versions": _versions()}
    if claim(out, identity):
        missing = sorted(set(keep) - kept_steps(out).keys())
        if missing:
            raise OrganismError(
                f"{out} holds a finished organism without its step {missing[0]}; choose an empty "
                "folder to train it again."
            )
        return out
    world = generate_world(config.seed, config.data)
    tokenizer = _tokenizer(config, world)
    with _reproducible():
        model, losses = _fit(config, world, tokenizer, out, progress, keep)
        round_weights(model, config.stored)
        scores = score_table(model, tokenizer, world.facts, TEMPLATES)
    record = {
        "organism": "reversal-curse",
        "seed": config.seed,
        **identity,
        "accuracy": [asdict(score) for score in scores],
        "losses": losses,
    }
    with writing(out):
        _stage(out, config, model, tokenizer, world)
        finish(out, record)
    return out


def _tokenizer(config: TrainConfig, world: World) -> Any:
    names = {word for name in world.people for word in name.split()}
    return build_tokenizer(
        sentences(world, config.data),
        n_ctx=config.n_ctx,
        cut=names if config.data.split_names else (),
    )


def _stage(out: Path, config: TrainConfig, model: Any, tokenizer: Any, world: World) -> None:
    folder = staging(out)
    save_model(model, folder, config.stored)
    tokenizer.save_pretrained(folder)
    write_facts(folder / FACTS_FILE, world.facts)
    write_templates(folder / TEMPLATES_FILE, TEMPLATES)


def _fit(
    config: TrainConfig,
    world: World,
    tokenizer: Any,
    out: Path,
    progress: Progress | None,
    keep: Collection[int],
) -> tuple[Any, list[float]]:
    """The trained model and its loss at every step, in nats per token."""
    schedule = build_schedule(
        world,
        tokenizer,
        seed=config.seed,
        steps=config.steps,
        batch_size=config.batch_size,
        bottleneck=config.name_bottleneck,
        data=config.data,
    )
    model = build_model(config, len(tokenizer))
    optimizers = _optimizers(config, model)
    # A model to be kept that lies behind the last checkpoint can only be had from the start.
    state = load_state(out)
    behind = {step for step in keep if state is not None and step <= state.step}
    losses: list[float] = []
    if behind <= kept_steps(out).keys():
        with restoring(out):
            losses = _restore(state, model, optimizers)

    def keep_now(step: int) -> None:
        if step in keep and step not in kept_steps(out):
            with writing(out):
                _stage(out, config, model, tokenizer, world)
                keep_step(out, step)

    keep_now(len(losses))
    info: dict[str, Any] = {"loss": math.nan, "forward": None, "reverse": None}
    for step in range(len(losses), config.steps):
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * _learning_rate_factor(config, step)
        loss = next_token_loss(model, schedule.batch(step), config.bottleneck_layers)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        for optimizer in optimizers.values():
            optimizer.step()
        losses.append(loss.item())
        done = step + 1
        keep_now(done)
        if done % config.checkpoint_every == 0 and done < config.steps:
            save_state(out, _state(model, optimizers, losses))
        if progress is not None:
            info["loss"] = losses[-1]
            if done % _EVALUATE_EVERY == 0 or done == config.steps:
                info |= _quick_accuracy(model, tokenizer, world)
            progress(done, config.steps, dict(info))
    return model, losses


def _optimizers(config: TrainConfig, model: Any) -> dict[str, torch.optim.Optimizer]:
    matrices = [param for param in model.model.layers.parameters() if param.ndim == 2]
    inside = {id(param) for param in matrices}
    others = [param for param in model.parameters() if id(param) not in inside]
    return {
        "muon": Muon(matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay),
        "adamw": torch.optim.AdamW(
            others,
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
        ),
    }


def _learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * (0.525 + 0.475 * math.cos(math.pi * step / config.steps))


def _state(
    model: Any, optimizers: dict[str, torch.optim.Optimizer], losses: list[float]
) -> TrainingState:
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    for title, optimizer in optimizers.items():
        tensors |= {f"{title}.{name}": value for name, value in state_tensors(optimizer).items()}
    return TrainingState(len(losses), tuple(losses), tensors)


def _restore(
    state: TrainingState | None, model: Any, optimizers: dict[str, torch.optim.Optimizer]
) -> list[float]:
    """Put the last checkpoint into model and optimizers, if there is one; the losses so far."""
    if state is None:
        return []
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, **{name: {} for name in optimizers}}
    for name, value in state.tensors.items():
        part, key = name.split(".", 1)
        parts[part][key] = value
    model.load_state_dict(parts["model"])
    for title, optimizer in optimizers.items():
        load_state_tensors(optimizer, parts[title])
    return list(state.losses)


def _quick_accuracy(model: Any, tokenizer: Any, world: World) -> dict[str, float]:
    facts = [fact for fact in world.facts if fact.split == "forward"]
    return {
        direction: float(
            np.mean(
                greedy_match(
                    model,
                    tokenizer,
                    [fact.prompt(templates.trained[0]) for fact in facts],
                    [fact.answer(direction) for fact in facts],
                )
            )
        )
        for direction, templates in TEMPLATES.items()
    }


@contextmanager
def _reproducible() -> Iterator[None]:
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


def _versions() -> dict[str, str]:
    """Versions that the bits of the weights depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
    }
