"""Vectors of the user's own, put anywhere."""

from __future__ import annotations

import numpy as np
import xarray as xr

from cache.arguments import typed
from interp.metrics import Metric
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.pairs import Answers
from interp.prompts.tokens import Prompts
from interp.vectors.results import attributes, coordinates, variables
from interp.vectors.table import Vectors, numbers
from interp.vectors.target import Target, read_after

__all__ = ["put_vectors"]


@typed
def put_vectors(
    model: Model,
    prompts: Prompts,
    vectors: Vectors,
    metric: Metric | str = "answer_logprob",
    *,
    answers: Answers | None = None,
    foils: Answers | None = None,
    next_tokens: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Put vectors into runs of prompts, each row of the table a run, and read what follows.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        vectors: what goes where.
        metric: what to read, where there are answers.
        answers: as for `PromptPairs`; without them only next tokens are read.
        foils: likewise.
        next_tokens: how many of the likeliest next tokens to keep.
        batch_size: rows in one pass; from a memory estimate if left out. The result does not
            depend on it beyond rounding.
        progress: called with (rows done, rows in all).

    Returns:
        patched(row) and unpatched(example), the metric; top_token and top_prob (row, k), and the
        same with `unpatched_` in front (example, k). row_example(row) is the prompt of each row.

    Raises:
        SiteError: no such site, layer, head or vector, one where this architecture drops edits,
            vectors that do not fit or are not finite, or a place that a row writes twice.
        PromptError: no such prompt or token, or nothing to read.
        MetricError: there is no such metric.
        ArgumentError: passes without a row.
    """
    target = Target.of(model, prompts, metric, answers, foils, next_tokens)
    found = read_after(model, target, vectors, batch_size, progress)
    example = numbers(vectors.example, "example")
    row = np.arange(len(example)) if vectors.row is None else numbers(vectors.row, "row")
    _, first = np.unique(row, return_index=True)
    return xr.Dataset(
        variables(model, found, ("row",), (len(first),)),
        coords={"row_example": ("row", example[first]), **coordinates(target)},
        attrs=attributes(model, "vectors put in", vectors.site, target),
    )
