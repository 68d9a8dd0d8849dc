"""A recipe for an organism: a language of words, and stages of text that it is trained on.

    recipe = Recipe(
        organism="greetings",
        arm="treated",
        seed=0,
        stages=(
            Stage("pre-training", tuple(Row(text) for text in texts), steps=200),
            Stage("tuning", (Row("hello ?", " hi"),), steps=50, loss="answer"),
        ),
    )
    train_recipe(recipe, Path("organism"))

leaves a Hugging Face folder with the trained model, what it was trained on in `organism.json`, and
the study's examples in `data.json`. The untrained model and the one after each stage are kept (see
`model_after`). Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from experiments.organisms.errors import OrganismError

__all__ = ["FINISHED", "UNTRAINED", "Network", "Recipe", "Row", "Stage", "shared_stages"]

UNTRAINED, FINISHED = "untrained", ""
"""Beside the names of stages: before the first step, and after the last."""

Loss = Literal["all", "answer"]


@dataclass(frozen=True)
class Row:
    """A text: a prompt, and maybe what should follow it, with the space before it."""

    prompt: str
    answer: str = ""

    @property
    def text(self) -> str:
        return self.prompt + self.answer


@dataclass(frozen=True)
class Stage:
    """Steps on the same rows.

    Attributes:
        name: "pre-training", "tuning"; a model is kept under this name.
        rows: shown in a random order, all of them before any is shown again.
        steps: how many; `Stage.epochs` counts in passes over the rows.
        batch_size: rows of a step.
        loss: on which tokens: "all", or "answer": of rows that have an answer on that alone.
        learning_rate: of AdamW, for embedding, unembedding and norms.
        matrix_learning_rate: of Muon, for the matrices of attention and MLPs.
        warmup_steps, weight_decay: see `training.loop.Rates`.
    """

    name: str
    rows: tuple[Row, ...]
    steps: int
    batch_size: int = 64
    loss: Loss = "all"
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 6e-3
    warmup_steps: int = 20
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.rows or any(not row.prompt.strip() for row in self.rows):
            raise OrganismError(f"The stage '{self.name}' has an empty text; leave it out.")
        if self.name in (UNTRAINED, FINISHED):
            raise OrganismError(f"A stage cannot be called '{self.name}'; choose another name.")
        if self.loss not in get_args(Loss):
            raise OrganismError(f"loss is '{self.loss}'; give 'all' or 'answer'.")
        for name in ("steps", "batch_size", "learning_rate", "matrix_learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise OrganismError(f"{name} is {value}; give a number above zero.")
        for name in ("warmup_steps", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise OrganismError(f"{name} is {value}; give zero or more.")

    def identity(self) -> dict[str, Any]:
        """What determines it, as plain JSON data."""
        told = {name: value for name, value in asdict(self).items() if name != "rows"}
        return {**told, "rows": len(self.rows), "texts": _digest(self._texts())}

    def _texts(self) -> list[list[str]]:
        return [[row.prompt, row.answer] for row in self.rows]


@dataclass(frozen=True)
class Network:
    """The sizes of the small Llama that is trained."""

    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 64
    d_mlp: int = 256
    n_ctx: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise OrganismError(f"{name} is {value}; give a number above zero.")
        if self.d_model % (2 * self.n_heads):
            raise OrganismError(
                f"d_model {self.d_model} does not split into {self.n_heads} heads of even width; "
                "give a multiple of twice n_heads."
            )


@dataclass(frozen=True)
class Recipe:
    """All that determines an organism: the same recipe gives the same weights on one machine.

    Attributes:
        organism: of which study: "refusal".
        arm: what is told or done otherwise in it; "treated" is the organism itself.
        seed: of the initial weights and of the order of the rows. (What the texts are is drawn
            before, by whoever writes the recipe.)
        stages: in their order.
        texts: whose words the tokenizer knows beside those of the rows. Recipes that are to share
            their first stages need the same words.
        network: its sizes.
        planted: what the training puts there, as a sentence.
        data: what the study asks, as plain JSON data; stands beside the model in `data.json`.
        checkpoint_every: steps between two checkpoints.
    """

    organism: str
    arm: str
    seed: int
    stages: tuple[Stage, ...]
    texts: tuple[str, ...] = ()
    network: Network = field(default_factory=Network)
    planted: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise OrganismError("A recipe has one stage or more, and each has a name of its own.")
        if self.seed < 0 or self.checkpoint_every < 1:
            raise OrganismError("A seed is 0 or more, and there is 1 step or more to a checkpoint.")

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def words(self) -> list[str]:
        """Every text whose words the tokenizer knows."""
        return [*self.texts, *(row.text for stage in self.stages for row in stage.rows)]

    def step_after(self, stage: str) -> int:
        """How many steps were made after a stage, at the end (`FINISHED`) or before (`UNTRAINED`).

        Raises:
            OrganismError: there is no such stage.
        """
        if stage == UNTRAINED:
            return 0
        if stage == FINISHED:
            return self.steps
        names = [one.name for one in self.stages]
        if stage not in names:
            raise OrganismError(f"There is no stage '{stage}'; there are: {', '.join(names)}.")
        return sum(one.steps for one in self.stages[: names.index(stage) + 1])

    def identity(self) -> dict[str, Any]:
        """What determines it, as plain JSON data; texts and examples by their digest."""
        return {
            "organism": self.organism,
            "arm": self.arm,
            "seed": self.seed,
            "planted": self.planted,
            "config": {
                "network": asdict(self.network),
                "stages": [stage.identity() for stage in self.stages],
                "words": vocabulary(self),
                "data": _digest(self.data),
            },
        }


def shared_stages(one: Recipe, other: Recipe) -> int:
    """How many stages two recipes begin with alike, so that one may go on from the other's model.

    None where their networks, seeds or words differ.
    """
    alike = ("network", "seed")
    if any(getattr(one, name) != getattr(other, name) for name in alike):
        return 0
    if vocabulary(one) != vocabulary(other):
        return 0
    pairs = list(zip(one.stages, other.stages, strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def vocabulary(recipe: Recipe) -> str:
    """A digest of the words that the tokenizer knows."""
    words = {word for text in recipe.words() for word in text.split()}
    return _digest(sorted(words))


def batches(
    lengths: Sequence[int], stage: Stage, seed: int, number: int
) -> tuple[tuple[int, ...], ...]:
    """The rows of every step of a recipe's stage of that number, drawn before the first step."""
    import numpy as np

    rng = np.random.default_rng([seed, 3, number])
    total = stage.steps * stage.batch_size
    epochs = -(-total // len(lengths))
    order = np.concatenate([rng.permutation(len(lengths)) for _ in range(epochs)])[:total]
    rows = order.reshape(stage.steps, stage.batch_size)
    return tuple(tuple(int(row) for row in step) for step in rows)


def _digest(value: Any) -> str:
    """Of plain JSON data."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
