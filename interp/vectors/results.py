"""Names on what was read after runs into which vectors were put."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from interp.model.model import Model
from interp.patching.runner import NextTokens, Scores
from interp.vectors.target import Measured, Target


def variables(
    model: Model, found: Measured, dims: tuple[str, ...], shape: tuple[int, ...], where: Any = None
) -> dict[str, Any]:
    """The variables of a result, of rows that were laid out along some axes.

    Args:
        shape: the sizes of `dims`.
        where: where in these axes each row stands, an index of them flattened [row]; in order if
            left out. Where there is no row stands NaN, or "".
    """
    index = np.arange(int(np.prod(shape))) if where is None else where
    out: dict[str, Any] = {}
    if found.scores is not None and found.unpatched is not None:
        out["patched"] = (dims, _grid(found.scores, index, shape))
        out["unpatched"] = ("example", found.unpatched)
    if found.tokens.ids.shape[1]:
        strings = _strings(model, found.tokens, found.unpatched_tokens)
        for prefix, tokens, at, axes, sizes in (
            ("", found.tokens, index, dims, shape),
            ("unpatched_", found.unpatched_tokens, None, ("example",), None),
        ):
            names = np.array([[strings[int(i)] for i in row] for row in tokens.ids], dtype=object)
            probabilities: Any = tokens.probabilities
            names[np.isnan(probabilities)] = ""
            if at is not None and sizes is not None:
                names = _texts(names, at, sizes)
                probabilities = _grid(probabilities, at, sizes)
            out[f"{prefix}top_token"] = ((*axes, "k"), names)
            out[f"{prefix}top_prob"] = ((*axes, "k"), probabilities)
    return out


def coordinates(target: Target) -> dict[str, Any]:
    """Prompts and answers by example."""
    found: dict[str, Any] = {
        "example": np.arange(len(target.batch)),
        "target_prompt": ("example", list(target.batch.texts)),
    }
    if target.questions is not None:
        found["answer"] = ("example", list(target.questions.answers))
        if target.questions.foils is not None:
            found["foil"] = ("example", list(target.questions.foils))
    return found


def attributes(model: Model, instrument: str, site: str, target: Target) -> dict[str, Any]:
    """What every result notes of its settings."""
    metric = target.metric
    read = {} if metric is None else {"metric": metric.name, "unit": metric.unit}
    return {"instrument": instrument, "site": site, **read, **model.identity}


def _strings(model: Model, *tokens: NextTokens) -> dict[int, str]:
    used = np.unique(np.concatenate([one.ids.ravel() for one in tokens])).tolist()
    return dict(zip(used, model.token_strings(used), strict=True))


def _grid(values: Scores, index: npt.NDArray[np.int64], shape: tuple[int, ...]) -> Scores:
    grid = np.full((int(np.prod(shape)), *values.shape[1:]), np.nan, np.float32)
    grid[index] = values
    return grid.reshape(*shape, *values.shape[1:])


def _texts(
    names: npt.NDArray[np.object_], index: npt.NDArray[np.int64], shape: tuple[int, ...]
) -> npt.NDArray[np.object_]:
    grid = np.full((int(np.prod(shape)), names.shape[1]), "", dtype=object)
    grid[index] = names
    return grid.reshape(*shape, names.shape[1])
