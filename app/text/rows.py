"""The numbers of a labelled result as one table."""

from __future__ import annotations

import pandas as pd
import xarray as xr


def rows(result: xr.Dataset) -> pd.DataFrame:
    """A row for each cell of a result.

    What has fewer dimensions than something else stands in each of its rows. What has others has
    rows of its own, below: crossed with it, each number would be there many times, as if it were so
    many.

    Args:
        result: any; a coordinate that several dimensions share is a column like a variable.
    """
    several = [name for name, one in result.coords.items() if one.ndim > 1]
    result = result.reset_coords([name for name in several if name not in result.sizes])
    dims = {name: tuple(map(str, result[name].dims)) for name in result.data_vars}
    widest: list[tuple[str, ...]] = []
    for one in sorted(dims.values(), key=len, reverse=True):
        if not any(set(one) <= set(other) for other in widest):
            widest.append(one)
    frames = []
    for some in widest:
        names = [name for name, one in dims.items() if _first(one, widest) == some]
        chosen = result[names]
        # A coordinate by the name of a dimension that is not its index would stand twice.
        chosen = chosen.drop_vars([name for name in several if name in chosen.coords])
        frames.append(chosen.to_dataframe().reset_index())
    return pd.concat(frames, ignore_index=True) if frames else result.to_dataframe().reset_index()


def _first(dims: tuple[str, ...], widest: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The widest dimensions that hold these."""
    return next(one for one in widest if set(dims) <= set(one))
