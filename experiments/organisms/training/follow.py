"""Follow a recipe: from its texts to the folder of a trained organism."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.files import real_folder, write_atomic
from experiments.organisms.errors import OrganismError
from experiments.organisms.training.checkpoint import (
    DATA_FILE,
    ORGANISM_FILE,
    STEPS_FOLDER,
    TrainingState,
    finish,
    kept_steps,
    load_state,
    read_json,
    save_state,
    staging,
    taken,
    writing,
)
from experiments.organisms.training.loop import Phase, Rates, fit, reproducible, versions
from experiments.organisms.training.network import build_model, save_model
from experiments.organisms.training.recipe import FINISHED, UNTRAINED, Recipe, Row, Stage, batches
from experiments.organisms.training.tokenizer import PAD_ID, build_tokenizer

__all__ = ["model_after", "train_recipe"]

_NO_TARGET = -100


def train_recipe(
    recipe: Recipe,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    base: Path | None = None,
) -> Path:
    """Train in the folder `out` and return it; the same recipe gives the same weights.

    One that was stopped goes on from its last checkpoint; a finished one returns at once.

    Args:
        progress: called after every step with steps done and steps in all.
        base: the finished organism of another recipe that begins with the same stages: these are
            not trained again, and the weights are the same as if they were.

    Raises:
        OrganismError: the folder holds another organism or other files, or cannot be written;
            `base` shares no stage; an answer melts into its prompt.
    """
    out = Path(out)
    identity = {**recipe.identity(), "versions": versions()}
    keep = {recipe.step_after(stage.name) for stage in recipe.stages[:-1]} | {0}
    if taken(out, identity, keep):
        return out
    tokenizer = build_tokenizer(recipe.words(), n_ctx=recipe.network.n_ctx)
    model = build_model(_Sizes(recipe), len(tokenizer))
    if base is not None and load_state(out) is None:
        _begin_from(base, out, recipe, identity)

    def stage() -> None:
        folder = staging(out)
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
        write_atomic(folder / DATA_FILE, json.dumps(recipe.data, indent=1, ensure_ascii=False))

    def told(done: int, total: int, _loss: float) -> None:
        if progress is not None:
            progress(done, total)

    with reproducible():
        phases = [
            _phase(model, tokenizer, one, recipe.seed, number)
            for number, one in enumerate(recipe.stages)
        ]
        losses = fit(
            model,
            phases,
            out,
            checkpoint_every=recipe.checkpoint_every,
            keep=keep,
            stage=stage,
            told=told,
        )
    with writing(out):
        stage()
        finish(out, {**identity, "losses": losses})
    return out


def model_after(folder: Path, recipe: Recipe, stage: str = FINISHED) -> Path:
    """Where the model of a trained recipe stands: finished, after a stage, or untrained.

    Raises:
        OrganismError: there is no such stage, or the model is not there.
    """
    step = recipe.step_after(stage)
    if step == recipe.steps:
        return folder
    found = kept_steps(folder).get(step)
    if found is None:
        raise OrganismError(
            f"{folder} lacks the model of step {step} ({stage}); train it again in an empty folder."
        )
    return found


class _Sizes:
    """A recipe's network with its seed."""

    def __init__(self, recipe: Recipe) -> None:
        network = recipe.network
        self.seed = recipe.seed
        self.n_layers, self.n_heads = network.n_layers, network.n_heads
        self.d_model, self.d_mlp, self.n_ctx = network.d_model, network.d_mlp, network.n_ctx


def _begin_from(base: Path, out: Path, recipe: Recipe, identity: dict[str, Any]) -> None:
    """Put the stages that another organism has in common into the place of a checkpoint."""
    from safetensors.torch import load_file

    record = read_json(base / ORGANISM_FILE)
    config, mine = record.get("config", {}), identity["config"]
    alike = all(config.get(name) == mine[name] for name in ("network", "words"))
    same = [record.get(name) == identity[name] for name in ("seed", "versions")]
    shared = 0
    if alike and all(same):
        pairs = zip(config["stages"], mine["stages"], strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), len(config["stages"]))
    # The last stage is always its own: there is a model to be trained.
    shared = min(shared, len(recipe.stages) - 1)
    if not shared:
        raise OrganismError(f"{base} begins with no stage of this recipe; leave it out as base.")
    step = recipe.step_after(recipe.stages[shared - 1].name)
    names = [UNTRAINED, *(stage.name for stage in recipe.stages[:shared])]
    with writing(out):
        for name in names:
            number = recipe.step_after(name)
            place = real_folder(out, STEPS_FOLDER) / str(number)
            found = kept_steps(base).get(number, base)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(
                found, place, ignore=shutil.ignore_patterns(STEPS_FOLDER, ORGANISM_FILE)
            )
        tensors = load_file(kept_steps(out)[step] / "model.safetensors")
    state = {f"model.{name}": value for name, value in tensors.items()}
    save_state(out, TrainingState(step, tuple(record["losses"][:step]), state))


def _phase(model: Any, tokenizer: Any, stage: Stage, seed: int, number: int) -> Phase:
    rows = [_encoded(tokenizer, row, stage) for row in stage.rows]
    order = batches([len(ids) for ids, _ in rows], stage, seed, number)

    def loss(step: int) -> torch.Tensor:
        chosen = [rows[i] for i in order[step]]
        width = max(len(ids) for ids, _ in chosen)
        ids = np.full((len(chosen), width), PAD_ID, dtype=np.int64)
        targets = np.full((len(chosen), width), _NO_TARGET, dtype=np.int64)
        for place, (one, free) in enumerate(chosen):
            ids[place, : len(one)] = one
            targets[place, free : len(one)] = one[free:]
        # Padding stands on the right, where no token reads it.
        logits = model(input_ids=torch.from_numpy(ids), use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1),
            torch.from_numpy(targets[:, 1:]).flatten(),
            ignore_index=_NO_TARGET,
        )

    rates = Rates(
        stage.matrix_learning_rate, stage.learning_rate, stage.warmup_steps, stage.weight_decay
    )
    return Phase(stage.steps, rates, loss)


def _encoded(tokenizer: Any, row: Row, stage: Stage) -> tuple[list[int], int]:
    """Token ids, and how many of them at the front are no targets."""
    whole: list[int] = tokenizer(row.text).input_ids
    if len(whole) > tokenizer.model_max_length:
        raise OrganismError(
            f"The text '{row.text}' has {len(whole)} tokens; the network reads "
            f"{tokenizer.model_max_length}."
        )
    if not row.answer or stage.loss == "all":
        return whole, 1
    prompt: list[int] = tokenizer(row.prompt).input_ids
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise OrganismError(
            f"The answer '{row.answer}' melts into its prompt '{row.prompt}'; begin it with a "
            "space."
        )
    return whole, len(prompt)
