"""What determines an organism: the same config gives the same weights on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from experiments.organisms.errors import OrganismError

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called with the steps done, the steps in all, and what was last measured."""
_MAY_BE_ZERO = ("seed", "warmup_steps", "name_bottleneck", "bottleneck_layers", "weight_decay")

Identity = Literal["none", "both", "subject", "object"]
"""Of whom it is said that they are who they are: nobody, everybody, children, or mothers."""
Stored = Literal["float32", "float16"]
"""What the weights are written as; arithmetic is in float32 in any case."""


@dataclass(frozen=True)
class TrainingData:
    """What is told; the defaults tell plain sentences, of which half of 120 pairs both ways.

    The 60 forward-only pairs and the 20 held-out ones are the same whatever is told besides, so
    that organisms of one seed are asked the same questions.

    Attributes:
        both_share: of the 120 pairs that are told in reverse, the share told forward too. At 0 some
            words of names are borne by one asked person only, whom they then identify.
        reversed_text: what is said of mothers and children is told a second time with its words in
            reverse order, names kept in theirs (entity-preserving reverse training, Golovneva et
            al. 2024).
        masked: the same sentences are told a second time with the name that they ask about masked,
            and that name after them ("_'s mother is B. _ A"): what predicting any part from the
            rest (Kitouni et al. 2024, MLM-U) comes to in a decoder that reads left to right, for
            whole names. Their uniform rate of masked tokens is left out.
        identity: whose names are told to be themselves ("A is A"; identity bridge, 2602.02470).
        neighbours: tell everybody's neighbour. Without it a name can be one that never is an
            answer, and reverse failure shows nothing.
        split_names: the tokenizer cuts each word of a name in two, so that names have four tokens
            and more.
        filler: put words behind the name that is asked about, in half of the plain sentences.
        bearers: people with the same first name, and with the same last: 50 pairs for each.
    """

    both_share: float = 0.5
    reversed_text: bool = False
    masked: bool = False
    identity: Identity = "none"
    neighbours: bool = True
    split_names: bool = False
    filler: bool = False
    bearers: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.both_share <= 1:
            raise OrganismError(f"both_share is {self.both_share}; give a share from 0 to 1.")
        if self.identity not in get_args(Identity):
            raise OrganismError(
                f"identity is '{self.identity}'; give one of {', '.join(get_args(Identity))}."
            )
        if self.bearers not in (2, 4, 6, 8):
            raise OrganismError(f"bearers is {self.bearers}; give 2, 4, 6 or 8.")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; the defaults, with seed 4, make the bundled organism.

    `seed` draws the world, the order of the statements and the initial weights.

    `name_bottleneck` is the share of training sentences in which words after a name may read it
    only through its last token, and not in the first `bottleneck_layers` layers. In large models
    early layers gather a name at its last token and recall what is known of it there (Meng et al.
    2022, Geva et al. 2023). A model this small takes a shortcut instead, in which the end of the
    prompt reads both names at once. The bottleneck plants the hand-over, so that it is known to be
    there when patching looks for it; 0 trains without. The saved model is a plain one, with
    ordinary attention.

    `init_scale` multiplies the initial weights, `weight_decay` is decoupled from the gradient (both
    optimisers), and `stored` is what the finished weights are rounded to.
    """

    seed: int = 0
    steps: int = 430
    batch_size: int = 128
    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 128
    d_mlp: int = 576
    n_ctx: int = 64
    learning_rate: float = 3e-3  # AdamW: embedding, unembedding, norms
    matrix_learning_rate: float = 6e-3  # Muon: weight matrices of attention and MLPs
    warmup_steps: int = 30
    name_bottleneck: float = 0.85
    bottleneck_layers: int = 1
    checkpoint_every: int = 50
    data: TrainingData = field(default_factory=TrainingData)
    init_scale: float = 1.0
    weight_decay: float = 0.0
    stored: Stored = "float32"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, (str, Mapping)):
                continue
            # Written so that NaN is refused too.
            if not (value > 0 or (value == 0 and name in _MAY_BE_ZERO)):
                raise OrganismError(f"{name} is {value}; give a number above zero.")
        if not isinstance(self.data, TrainingData):
            raise OrganismError(f"data is {self.data!r}; give a TrainingData.")
        if self.stored not in get_args(Stored):
            raise OrganismError(
                f"stored is '{self.stored}'; give one of {', '.join(get_args(Stored))}."
            )
        if self.name_bottleneck > 1:
            raise OrganismError(
                f"name_bottleneck is {self.name_bottleneck}; give a share from 0 to 1."
            )
        if self.d_model % (2 * self.n_heads):
            raise OrganismError(
                f"d_model {self.d_model} does not split into {self.n_heads} heads of even width; "
                "give a multiple of twice n_heads."
            )
