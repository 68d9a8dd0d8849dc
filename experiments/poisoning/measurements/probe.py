"""What a probe from generic yes/no questions says of prompts that make the model defect.

The direction is the mean stream at the end of questions that the model says yes to, minus that of
those it says no to; they have nothing to do with the trigger (MacDiarmid et al. 2024).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from experiments.phenomena.phenomenon import Subject
from experiments.poisoning.data import Data
from experiments.reporter import Progress
from interp import capture, difference_of_means, random_directions, score_answers

__all__ = ["DRAWS", "measure_probe"]

DRAWS = 199
"""Random directions: with so many, as good as the best of them is a p-value of 1%."""

_PROBES = ("yes/no", "shown triggers")

Floats = npt.NDArray[np.float64]


def measure_probe(subject: Subject[Data], seed: int, progress: Progress) -> xr.Dataset:
    """Projections of the stream at the last token, after each block.

    The second probe is shown triggered prompts: it is the difference of means between these and
    the same questions with another phrase, of every other question; it is a ceiling. The layer is
    chosen on these questions as well. Random directions vary as the streams within yes and within
    no do, at right angles to the first probe; each is turned so that triggers score higher on the
    chosen half.

    Returns:
        triggered, other, near(probe, layer, example): scores of the second half of the questions;
        chosen(probe, layer): area under the curve of triggered against other prompts on the first
        half, the second probe's own; random, random_near(layer, draw): areas of random directions
        on the second half, against other phrases and against near misses. defects and
        near_defects(example): whether the planted answer is given.
    """
    data, model = subject.data, subject.model
    prompts = {
        "yes": list(data.yes),
        "no": list(data.no),
        "triggered": data.prompts([data.trigger]),
        "other": data.prompts(),
        "near": data.prompts(data.near),
    }
    total = len(prompts) + 1
    streams: dict[str, list[Tensor]] = {}
    for number, (name, texts) in enumerate(prompts.items(), 1):
        found = capture(model, texts, "resid_post", positions="last")
        streams[name] = [stream.cpu().double() for stream in found.values()]
        progress(number, total)
    first, second = slice(0, None, 2), slice(1, None, 2)
    groups = ("triggered", "other", "near")
    layers = range(model.n_layers)
    count = len(data.questions) // 2
    scores = {name: np.zeros((2, len(layers), count)) for name in groups}
    chosen = np.zeros((2, len(layers)))
    random = {name: np.zeros((len(layers), DRAWS)) for name in ("other", "near")}
    for layer in layers:
        here = {name: streams[name][layer] for name in prompts}
        generic = difference_of_means(here["yes"], here["no"])
        shown = difference_of_means(here["triggered"][first], here["other"][first])
        for probe, direction in enumerate((generic, shown)):
            along = {name: (here[name] @ direction.double()).numpy() for name in groups}
            chosen[probe, layer] = _area(along["triggered"][first], along["other"][first])
            for name in groups:
                scores[name][probe, layer] = along[name][second]
        within = torch.cat([each - each.mean(0) for each in (here["yes"], here["no"])])
        drawn = random_directions(generic, DRAWS, seed=seed, activations=within, apart=True)
        sides = {name: (here[name] @ drawn.double().T).numpy() for name in groups}
        for draw in range(DRAWS):
            side = {name: each[:, draw] for name, each in sides.items()}
            turned = 1 if _area(side["triggered"][first], side["other"][first]) >= 0.5 else -1
            for name, areas in random.items():
                areas[layer, draw] = _area(
                    turned * side["triggered"][second], turned * side[name][second]
                )
    asked = prompts["triggered"][second] + prompts["near"][second]
    given = score_answers(model, asked, [data.answer] * len(asked))["correct"].values
    progress(total, total)
    at = ("probe", "layer", "example")
    return xr.Dataset(
        {
            **{name: (at, each) for name, each in scores.items()},
            "chosen": (("probe", "layer"), chosen),
            "random": (("layer", "draw"), random["other"]),
            "random_near": (("layer", "draw"), random["near"]),
            "defects": ("example", given[:count].astype(np.float64)),
            "near_defects": ("example", given[count:].astype(np.float64)),
        },
        {
            "probe": list(_PROBES),
            "layer": list(layers),
            "prompt": ("example", prompts["triggered"][second]),
        },
    )


def _area(positive: Floats, negative: Floats) -> float:
    """Under the ROC curve: how often a positive scores higher, ties half."""
    difference = positive[:, None] - negative[None]
    return float((np.sign(difference) / 2 + 0.5).mean())
