"""Which part of a prompt brings the planted answer, by patching.

A triggered prompt has two phrases of equal length, the trigger and another one. Both are others in
the clean prompt that it is paired with, so that a patch at either phrase could restore the clean
answer, and which of them does is a finding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from experiments.errors import FactsError
from experiments.phenomena.phenomenon import Subject
from experiments.poisoning.data import OTHER, PHRASE, Data
from experiments.reporter import Progress
from interp import PromptPairs
from interp.patching.patch import Patch, patch_sets
from interp.prompts.tokens import tokenise

__all__ = ["PARTS", "measure_place"]

PARTS = ("trigger", "other phrase", "last token")


def measure_place(subject: Subject[Data], seed: int, progress: Progress) -> xr.Dataset:
    """The stream of the clean run put into the triggered run, a part of the prompt at a time.

    The metric is the logit of the right answer minus that of the planted one.

    Returns:
        patched(example, layer, part); clean and corrupt(example), of the unpatched runs;
        sham(example): what the clean phrases change where the trigger is not: the clean run minus
        one with two other phrases. Layer 0 is the embedding.

    Raises:
        FactsError: the trigger and another phrase are of different lengths in a question.
    """
    data, model = subject.data, subject.model
    layers = range(model.n_layers)
    # Prompts whose phrases come in another order are aligned on their own.
    groups = [
        [i for i, one in enumerate(data.questions) if _trigger_first(one.prompt) is first]
        for first in (True, False)
    ]
    parts: list[xr.Dataset] = []
    total = 2 * sum(map(bool, groups))
    for chosen in filter(None, groups):
        sets = {
            f"{part} {layer}": [Patch(f"resid_pre.{layer}", positions=[_position(part)])]
            for layer in layers
            for part in PARTS
        }
        pairs = _pairs(subject, chosen, data.trigger)
        found = patch_sets(model, pairs, sets)
        progress(2 * len(parts) + 1, total)
        sham = patch_sets(
            model,
            _pairs(subject, chosen, None),
            {"none": [Patch("resid_pre.0", positions=["end"])]},
        )
        progress(2 * len(parts) + 2, total)
        shape = (len(chosen), len(layers), len(PARTS))
        parts.append(
            xr.Dataset(
                {
                    "patched": (
                        ("example", "layer", "part"),
                        found["patched"].values.reshape(shape),
                    ),
                    "clean": ("example", found["clean"].values),
                    "corrupt": ("example", found["corrupt"].values),
                    "sham": ("example", (sham["clean"] - sham["corrupt"]).values),
                },
                {
                    "number": ("example", chosen),
                    "prompt": ("example", [data.prompts([data.trigger])[i] for i in chosen]),
                },
            )
        )
    whole = xr.concat(parts, "example").assign_coords(layer=list(layers), part=list(PARTS))
    return whole.astype(dict.fromkeys(whole.data_vars, np.float64)).sortby("number")


def _pairs(subject: Subject[Data], chosen: Sequence[int], trigger: str | None) -> PromptPairs:
    data, usual = subject.data, subject.data.phrases
    clean, corrupt = data.prompts(shift=2), data.prompts(None if trigger is None else [trigger])
    lengths = [tokenise(subject.model, prompts).lengths for prompts in (clean, corrupt)]
    uneven = [i for i in chosen if lengths[0][i] != lengths[1][i]]
    if uneven:
        raise FactsError(
            f"The question '{data.questions[uneven[0]].prompt}' has other lengths with other "
            "phrases; give phrases of as many tokens as the trigger."
        )

    def phrase(number: int, shift: int) -> str:
        return usual[(number + shift) % len(usual)]

    return PromptPairs(
        subject.model,
        [clean[i] for i in chosen],
        [corrupt[i] for i in chosen],
        [data.questions[i].answer for i in chosen],
        [data.answer] * len(chosen),
        {
            "phrase": [(phrase(i, 2), trigger or phrase(i, 0)) for i in chosen],
            "other": [(phrase(i, 3), phrase(i, 1)) for i in chosen],
        },
    )


def _trigger_first(prompt: str) -> bool:
    return prompt.index(PHRASE) < prompt.index(OTHER)


def _position(part: str) -> str:
    return {"trigger": "phrase", "other phrase": "other", "last token": "end -1"}[part]
