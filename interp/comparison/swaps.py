"""Parts of one model put into the other, one by one and cumulatively.

Which module of a tuned model carries its change (cf. Prakash et al. 2024, who patch activations
across models): a part is taken from the other model as it stands, with its weights, and computes
with what the receiving model gives it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from cache.arguments import typed
from interp.comparison.hybrids import Hybrid, Scores, score_hybrids
from interp.comparison.pair import ModelPair
from interp.comparison.parts import EMBEDDING, UNEMBEDDING, Part, owners, parts_of
from interp.comparison.reading import readable
from interp.errors import ModelError
from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.progress import Progress, counter
from interp.prompts.pairs import Answers, PromptPairs
from interp.prompts.tokens import Prompts

__all__ = ["swap_modules", "swapped_between"]

BOTH_ENDS = "embedding and unembedding"
"""What tied models swap together: the one matrix that is both."""


@typed
def swap_modules(
    base: Model,
    tuned: Model,
    prompts: PromptPairs | Prompts,
    metric: Metric | str = "logit_diff",
    *,
    answers: Answers | None = None,
    foils: Answers | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Read the metric of models that are put together of two.

    Parts are the embedding (with positions), each block's attention and MLP with the norms that
    belong to them (a norm that both share is a part of its own), the final norm and the
    unembedding. Neither model is changed: a part of the other one is called in place of its own.

    Args:
        base: the model before.
        tuned: the model after, of the same shape.
        prompts: prompts with `answers` (and `foils`, where the metric compares), or pairs, of
            which the clean prompts are read.
        metric: what to read, or its name.
        progress: called with (hybrids of an example done, in all).

    Returns:
        swapped(example, into, order, part): the metric of the model that `into` names with parts
        of the other one: order "single" that part alone, "below" all parts up to this one, "above"
        this one and all that follow. base(example) and tuned(example): of the models as they are.
        Coordinates layer(part), −1 outside of blocks, and module(part). Where embedding and
        unembedding are one matrix (tied), a last part "embedding and unembedding" swaps both; it
        has a number for "single" only.

    Raises:
        ModelError: the models cannot be compared (see `compare_models`), or differ in what is no
            part.
        PromptError: prompts or answers that do not fit.
        MetricError: an unknown metric.
    """
    return swapped_between(ModelPair.of(base, tuned), prompts, metric, answers, foils, progress)


def swapped_between(
    pair: ModelPair,
    prompts: PromptPairs | Prompts,
    metric: Metric | str,
    answers: Answers | None,
    foils: Answers | None,
    progress: Progress | None,
) -> xr.Dataset:
    """`swap_modules` of models that were looked at."""
    metric = get_metric(metric)
    read = readable(pair, prompts, answers, foils)
    parts = parts_of(pair.base)
    if parts != parts_of(pair.tuned):
        raise ModelError(
            f"{pair.base.name} and {pair.tuned.name} are built of other modules, so no part of one "
            "has a place in the other."
        )
    tied = _check_owned(pair, parts)
    singles = [Hybrid.single(pair.base, part) for part in parts]
    cumulative = [Hybrid.up_to(pair.base, part) for part in parts]
    ends = [Hybrid(0, below="donor", read=(UNEMBEDDING,))] if tied else []
    hybrids = list(dict.fromkeys((*singles, *cumulative, *ends)))
    total = 2 * len(metric.reads) * len(hybrids) * len(read)
    with pair.locked():
        mixed, plain = score_hybrids(pair, read, metric, hybrids, counter(progress, total))
        attrs = pair.attrs("module swaps")
    place = {hybrid: number for number, hybrid in enumerate(hybrids)}
    names = [*(part.name for part in parts), *([BOTH_ENDS] if tied else [])]
    swapped = np.full((2, 3, len(names), len(read)), np.nan, np.float32)
    for into in range(2):
        single = [mixed[into][place[hybrid]] for hybrid in (*singles, *ends)]
        swapped[into, 0] = single
        below = [mixed[into][place[hybrid]] for hybrid in cumulative]
        swapped[into, 1, : len(parts)] = below
        # The receiver's parts below and the other's from one on: the other one as the receiver.
        swapped[into, 2, : len(parts)] = _above(mixed[1 - into], plain[1 - into], place, cumulative)
    coords: dict[str, Any] = {
        "into": ["base", "tuned"],
        "order": ["single", "below", "above"],
        "part": names,
        "layer": ("part", [*(part.layer for part in parts), *([-1] if tied else [])]),
        "module": ("part", [*(part.module for part in parts), *([BOTH_ENDS] if tied else [])]),
        "prompt": ("example", list(read.clean.texts)),
        "answer": ("example", list(read.answers)),
        "foil": ("example", list(read.foils or ("",) * len(read))),
    }
    return xr.Dataset(
        {
            "swapped": (("example", "into", "order", "part"), np.moveaxis(swapped, -1, 0)),
            "base": ("example", plain[0]),
            "tuned": ("example", plain[1]),
        },
        coords,
        {**attrs, "metric": metric.name, "unit": metric.unit, "tied": int(tied)},
    )


def _above(
    mixed: Scores, whole: Scores, place: dict[Hybrid, int], cumulative: list[Hybrid]
) -> list[Scores]:
    return [whole, *(mixed[place[hybrid]] for hybrid in cumulative[:-1])]


def _check_owned(pair: ModelPair, parts: tuple[Part, ...]) -> bool:
    """Whether embedding and unembedding share a weight.

    Raises:
        ModelError: a weight that differs is in no part.
    """
    owned = owners(pair.base, parts)
    for name, (mine, theirs) in pair.weights.items():
        if not owned[name] and not torch.equal(mine, theirs):
            raise ModelError(
                f"'{name}' differs between {pair.base.name} and {pair.tuned.name} and belongs to "
                "no part that could be swapped; compare their activations and weights instead."
            )
    return any({EMBEDDING, UNEMBEDDING} <= set(found) for found in owned.values())
