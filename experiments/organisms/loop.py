"""The training of the reversal curse's organism, behind `train`."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.organisms.config import TrainConfig
from experiments.organisms.errors import OrganismError
from experiments.organisms.evaluate import greedy_match, score_table
from experiments.organisms.facts import FACTS_FILE, TEMPLATES_FILE, write_facts, write_templates
from experiments.organisms.model import next_token_loss
from experiments.organisms.relations import World, generate_world, sentences
from experiments.organisms.schedule import build_schedule
from experiments.organisms.training.checkpoint import finish, staging, taken, writing
from experiments.organisms.training.loop import Phase, Rates, fit, reproducible, versions
from experiments.organisms.training.network import build_model, round_weights, save_model
from experiments.organisms.training.tokenizer import build_tokenizer
from experiments.organisms.wording import TEMPLATES

if TYPE_CHECKING:
    from experiments.organisms.config import Progress

_EVALUATE_EVERY = 25  # steps


def run(config: TrainConfig, out: Path, progress: Progress | None, keep: Collection[int]) -> Path:
    """See `experiments.organisms.train.train`."""
    outside = [step for step in keep if not 0 <= step <= config.steps]
    if outside:
        raise OrganismError(
            f"Step {outside[0]} cannot be kept: there are steps 0 (before the first) to "
            f"{config.steps}."
        )
    identity = {"config": asdict(config), "versions": versions()}
    if taken(out, identity, keep):
        return out
    world = generate_world(config.seed, config.data)
    tokenizer = _tokenizer(config, world)
    with reproducible():
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
    model = build_model(config, len(tokenizer), init_scale=config.init_scale)
    rates = Rates(
        config.matrix_learning_rate, config.learning_rate, config.warmup_steps, config.weight_decay
    )
    info: dict[str, Any] = {"loss": math.nan, "forward": None, "reverse": None}

    def told(done: int, total: int, loss: float) -> None:
        if progress is not None:
            info["loss"] = loss
            if done % _EVALUATE_EVERY == 0 or done == total:
                info.update(_quick_accuracy(model, tokenizer, world))
            progress(done, total, dict(info))

    losses = fit(
        model,
        [
            Phase(
                config.steps,
                rates,
                lambda step: next_token_loss(model, schedule.batch(step), config.bottleneck_layers),
            )
        ],
        out,
        checkpoint_every=config.checkpoint_every,
        keep=keep,
        stage=lambda: _stage(out, config, model, tokenizer, world),
        told=told,
    )
    return model, losses


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
