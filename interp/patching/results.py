"""What a sweep returns: labelled arrays, with the raw metric first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from interp.metrics import Metric
from interp.model import Model
from interp.patching.cells import Cells
from interp.prompts import PromptPairs, Run
from interp.tokens import TokenBatch


def label(
    model: Model,
    pairs: PromptPairs,
    site: str,
    metric: Metric,
    direction: str,
    cells: Cells,
    layers: tuple[int, ...],
    patched: npt.NDArray[np.float32],
    unpatched: dict[Run, npt.NDArray[np.float32]],
) -> xr.Dataset:
    """Put names on the numbers of a sweep (see `sweep` for what they are)."""
    alignment, axes = pairs.alignment, cells.axes
    coords: dict[str, Any] = {
        "layer": list(layers),
        "clean_prompt": ("example", list(pairs.clean.texts)),
        "corrupt_prompt": ("example", list(pairs.corrupt.texts)),
        "answer": ("example", list(pairs.answers)),
        "foil": ("example", list(pairs.foils or ("",) * len(pairs))),
    }
    if "position" in axes:
        slots = [group[0] for group in cells.groups]
        coords["position"] = slots
        coords["position_label"] = ("position", [alignment.labels[slot] for slot in slots])
        for run, prompts, index in (
            ("clean", pairs.clean, alignment.clean),
            ("corrupt", pairs.corrupt, alignment.corrupt),
        ):
            tokens = _tokens_at(model, prompts, index[:, slots])
            coords[f"{run}_token"] = (("example", "position"), tokens)
    if "span" in axes:
        coords["span"] = [alignment.spans[group[0]] for group in cells.groups]
    if "head" in axes:
        coords["head"] = list(cells.heads or ())
    return xr.Dataset(
        {
            "patched": (("example", "layer", *axes), patched),
            "clean": ("example", unpatched["clean"]),
            "corrupt": ("example", unpatched["corrupt"]),
        },
        coords=coords,
        attrs={
            "instrument": "activation patching, exact",
            "site": site,
            "metric": metric.name,
            "unit": metric.unit,
            "direction": direction,
            **model.identity,
        },
    )


def normalised(result: xr.Dataset, *, minimum: float | None = None) -> xr.DataArray:
    """(patched − corrupt) / (clean − corrupt): 0 as corrupted, 1 as clean.

    Args:
        result: what `sweep` returned.
        minimum: the smallest |clean − corrupt| that counts as clear of zero, in the metric's unit;
            a tenth of the median over examples if left out. Examples below it become NaN: a ratio
            to next to nothing is noise.
    """
    gap = result["clean"] - result["corrupt"]
    floor = 0.1 * float(np.median(np.abs(gap))) if minimum is None else minimum
    clear = np.abs(gap) > max(floor, 1e-6)
    share = (result["patched"] - result["corrupt"]) / gap.where(clear)
    return share.rename("normalised").assign_attrs(result.attrs, unit="share of the effect")


def _tokens_at(
    model: Model, prompts: TokenBatch, slots: npt.NDArray[np.int64]
) -> npt.NDArray[np.object_]:
    out = np.full(slots.shape, "", dtype=object)
    for example, row in enumerate(slots):
        strings = model.token_strings(prompts.row(example))
        for slot, index in enumerate(row):
            if index >= 0:
                out[example, slot] = strings[index]
    return out
