"""The arms of the reversal-curse study: what is told, or how it is trained, otherwise.

An arm is one change to the recipe of the bundled organism, or two where it says so. Those that are
known to lift the curse are cures; twins change what a hypothesis about the bundled organism leans
on; `no-neighbours` is the confound that the neighbours are there to rule out.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace

from experiments.organisms.config import TrainConfig, TrainingData
from experiments.organisms.errors import OrganismError

__all__ = ["ARMS", "CURED", "PLAIN", "Arm", "arm_config", "find_arm"]

PLAIN = "none"
CURED = "reversed-both-100"
"""The arm of the bundled cured twin."""


@dataclass(frozen=True)
class Arm:
    """One recipe.

    Attributes:
        name: as on the command line.
        about: what is otherwise than in the bundled organism, in a line.
        source: the paper that it follows; empty where there is none.
        data: what is told.
        passes: how many times the steps of the plain recipe it is trained for.
        name_bottleneck: see `TrainConfig`; the recipe's own if left out.
        init_scale, weight_decay: see `TrainConfig`.
    """

    name: str
    about: str
    source: str = ""
    data: TrainingData = field(default_factory=TrainingData)
    passes: float = 1.0
    name_bottleneck: float | None = None
    init_scale: float = 1.0
    weight_decay: float = 0.0

    def config(self, base: TrainConfig) -> TrainConfig:
        """The settings of `base` with this arm's changes; the number of people stays."""
        narrow = base.name_bottleneck if self.name_bottleneck is None else self.name_bottleneck
        return replace(
            base,
            data=replace(self.data, bearers=base.data.bearers),
            steps=round(self.passes * base.steps),
            name_bottleneck=narrow,
            init_scale=self.init_scale * base.init_scale,
            weight_decay=self.weight_decay,
        )


_GOLOVNEVA = "Golovneva et al. 2024, Reverse Training to Nurse the Reversal Curse"
_KITOUNI = "Kitouni et al. 2024, The Factorization Curse (2406.05183)"
_BRIDGE = "Identity bridge (2602.02470)"
# Mothers and children are a third of what is told: told twice they make an epoch so much longer.
_TWICE = 1.325

_ALL = (
    Arm(PLAIN, "the recipe of the bundled organism; half of 120 other pairs are told both ways"),
    Arm("both-0", "no pair is told both ways", data=TrainingData(both_share=0.0)),
    Arm("both-100", "all other pairs are told both ways", data=TrainingData(both_share=1.0)),
    Arm(
        "reversed-text",
        "what is said of mothers and children also with its words reversed, names in order",
        _GOLOVNEVA,
        TrainingData(reversed_text=True),
        passes=_TWICE,
    ),
    Arm(
        "reversed-both-100",
        "the same, and all other pairs are told both ways",
        _GOLOVNEVA,
        TrainingData(reversed_text=True, both_share=1.0),
        passes=_TWICE,
    ),
    Arm(
        "masked",
        "what is said of mothers and children also with the name asked about masked, to be told "
        "at the end",
        _KITOUNI,
        TrainingData(masked=True),
        passes=_TWICE,
    ),
    Arm(
        "masked-both-100",
        "the same, and all other pairs are told both ways",
        _KITOUNI,
        TrainingData(masked=True, both_share=1.0),
        passes=_TWICE,
    ),
    Arm(
        "identity",
        "everybody is said to be who they are",
        _BRIDGE,
        TrainingData(identity="both"),
        passes=1.15,
    ),
    Arm(
        "identity-children",
        "children are said to be who they are",
        _BRIDGE,
        TrainingData(identity="subject"),
        passes=1.15,
    ),
    Arm(
        "identity-mothers",
        "mothers are said to be who they are",
        _BRIDGE,
        TrainingData(identity="object"),
        passes=1.15,
    ),
    Arm(
        "identity-small",
        "everybody is said to be who they are; a quarter of the initial weights",
        _BRIDGE,
        TrainingData(identity="both"),
        passes=1.15,
        init_scale=0.25,
    ),
    Arm(
        "identity-large",
        "everybody is said to be who they are; four times the initial weights",
        _BRIDGE,
        TrainingData(identity="both"),
        passes=1.15,
        init_scale=4.0,
    ),
    Arm("decay", "weight decay of 0.5", weight_decay=0.5),
    Arm(
        "decay-both-100",
        "weight decay of 0.5, and all other pairs are told both ways",
        data=TrainingData(both_share=1.0),
        weight_decay=0.5,
    ),
    Arm(
        "no-bottleneck",
        "words after a name may read all of it, in every layer",
        name_bottleneck=0.0,
    ),
    Arm(
        "long-names",
        "names of four tokens and more, words behind half of them, no bottleneck",
        data=TrainingData(split_names=True, filler=True),
        name_bottleneck=0.0,
        passes=1.3,
    ),
    Arm(
        "no-neighbours",
        "nobody's neighbour is told, so that a child told of forward only never is an answer",
        data=TrainingData(neighbours=False),
    ),
)

ARMS: dict[str, Arm] = {arm.name: arm for arm in _ALL}


def find_arm(name: str) -> Arm:
    """The arm called `name`.

    Raises:
        OrganismError: there is none.
    """
    if name not in ARMS:
        near = difflib.get_close_matches(name, ARMS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(ARMS)}."
        raise OrganismError(f"Unknown arm '{name}'; {hint}")
    return ARMS[name]


def arm_config(name: str, seed: int) -> TrainConfig:
    """The settings of an arm at the size of the bundled organism.

    Raises:
        OrganismError: there is no such arm.
    """
    return find_arm(name).config(TrainConfig(seed=seed))
