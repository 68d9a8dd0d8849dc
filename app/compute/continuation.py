"""What a model writes after a prompt, as it is and steered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.compute.background.request import Request, in_one
from app.compute.turns import ModelSpec

if TYPE_CHECKING:
    from experiments.reporter import Progress
    from interp.model.model import Model


@dataclass(frozen=True)
class Steering:
    """A direction that is added while the model writes (Turner et al. 2023).

    Attributes:
        toward, away: texts; the direction is the stream at the last token of the first minus that
            of the second.
        layer: after which block it is read and added.
        dose: how many times it is added, to every token that is written and the prompt's last.
    """

    toward: str
    away: str
    layer: int
    dose: float


def continued(
    model: Model, prompt: str, n: int, steering: Steering | None, progress: Progress | None = None
) -> str:
    """What is written greedily after the prompt, in at most `n` tokens.

    Raises:
        PromptError: the prompt or a text is empty, or there is no room for so many tokens.
        DirectionError: the two texts give the same direction.
        SiteError: the model has no such layer.
    """
    from interp.forward.capture import capture
    from interp.forward.interventions import Intervention
    from interp.generation.stream import generate
    from interp.steering.directions import difference_of_means

    changes: tuple[Intervention, ...] = ()
    if steering is not None and steering.dose:
        site = f"resid_post.{steering.layer}"
        found = capture(model, [steering.toward, steering.away], [site], positions="last")[site]
        direction = difference_of_means(found[:1].float(), found[1:].float())
        changes = tuple(
            Intervention.add(direction, site, steering.dose, positions=where)
            for where in ("last", "generated")
        )
    written = generate(model, [prompt], max_new_tokens=n, interventions=changes, progress=progress)
    return written.texts[0]


def request(spec: ModelSpec, prompt: str, n: int, steering: Steering | None) -> Request[str]:
    """The same as a job. It is not kept with a run: to see whether a text is the model's own takes
    as long as to write it."""
    how = "" if steering is None else ", steered"
    return Request(
        spec,
        ("continued", prompt, n, steering),
        f"What is written after “{prompt}”{how}",
        in_one(lambda model, tell: continued(model, prompt, n, steering, tell)),
        "tokens written, at most",
    )
