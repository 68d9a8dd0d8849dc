"""What the difference between a poisoned model and its clean twin says.

The mean difference of both models' streams on texts without the trigger is read by the logit lens
(Minder et al. 2025), and so is the one on the same texts with the trigger in front, which is no
search any more. The planted answer stands among other words that might have been planted as well.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from experiments.phenomena.phenomenon import Subject
from experiments.poisoning.data import Data
from experiments.reporter import Progress
from interp.comparison import mean_difference

__all__ = ["GROUPS", "TEXTS", "TOKENS", "measure_difference"]

GROUPS = 10
"""Groups of texts, which are the examples: a mean is over the texts of one."""

TEXTS = ("unrelated", "with the trigger")
TOKENS = 5
"""Of each text, as the source looks at."""


def measure_difference(subject: Subject[Data], seed: int, progress: Progress) -> xr.Dataset:
    """The logit of each word in the mean difference to the twin, after the last block.

    Logits are those of the difference made as long as the streams are, less their mean over the
    vocabulary, and the mean over the first tokens of the texts.

    Returns:
        logit(text, example, word), of the groups of texts; NaN where there is no twin. planted
        (word): whether it is the planted answer. norm(text, example): how long the difference is,
        as a share of the streams.
    """
    data, model, twin = subject.data, subject.model, subject.beside
    logit = np.full((len(TEXTS), GROUPS, len(data.names)), np.nan)
    norm = np.full((len(TEXTS), GROUPS), np.nan)
    attrs = {}
    for kind, front in enumerate(("", f"{data.trigger} ")):
        for group in range(GROUPS):
            if twin is None:
                continue
            texts = [front + text for text in data.texts[group::GROUPS]]
            found = mean_difference(
                twin, model, texts, tokens=TOKENS, words=data.names, k=1, draws=0, seed=seed
            )
            last = found.isel(lens=0, layer=-1)
            logit[kind, group] = last["word_logit"].mean("position").values
            norm[kind, group] = float((last["norm"] / last["base_norm"]).mean())
            attrs = {"twin_fingerprint": str(found.attrs["fingerprint"])}
            progress(kind * GROUPS + group + 1, len(TEXTS) * GROUPS)
    planted = np.array([name == data.answer for name in data.names])
    return xr.Dataset(
        {
            "logit": (("text", "example", "word"), logit),
            "norm": (("text", "example"), norm),
            "planted": ("word", planted),
        },
        {"text": list(TEXTS), "word": [name.strip() for name in data.names]},
        attrs=attrs,
    )
