"""What the results of a study hold, so that what is read back has what its readers look for.

A checksum tells that a result is what was written; not that whoever wrote it was this version.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from experiments.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Kind", "Shapes", "check_dataset", "check_table"]

Kind = Literal["text", "integer", "flag", "number", "number or NaN"]
Shapes = Mapping[str, Mapping[str, Kind | tuple[Kind, tuple[str, ...]]]]
"""By name of a result, or a pattern of names ("lens_*"): the columns of a table with their kinds,
or the variables of labelled arrays with kinds and dimensions. There may be others beside them."""

_TYPES: dict[Kind, str] = {
    "text": "OSUT",
    "integer": "iu",
    "flag": "b",
    "number": "fiu",
    "number or NaN": "fiu",
}


def check_table(table: pd.DataFrame, name: str, shapes: Shapes) -> pd.DataFrame:
    """The table, if it has the columns that are declared. Raises RunError otherwise."""
    for column, wanted in _declared(name, shapes).items():
        if column not in table.columns:
            raise _other(name, f"it has no column '{column}'")
        kind: Kind = wanted[0] if isinstance(wanted, tuple) else wanted
        values = table[column]
        text = kind == "text" and str(values.dtype).startswith(("str", "string"))
        _check_values(name, column, values.to_numpy(), kind, text=text)
    return table


def check_dataset(dataset: xr.Dataset, name: str, shapes: Shapes) -> xr.Dataset:
    """The arrays, if they have the variables that are declared. Raises RunError otherwise."""
    for variable, wanted in _declared(name, shapes).items():
        if variable not in dataset.variables:
            raise _other(name, f"it has no variable '{variable}'")
        kind, dims = wanted if isinstance(wanted, tuple) else (wanted, None)
        if dims is not None and dataset[variable].dims != dims:
            raise _other(name, f"'{variable}' has the dimensions {dataset[variable].dims}")
        _check_values(name, variable, dataset[variable].values, kind)
    return dataset


def _declared(name: str, shapes: Shapes) -> Mapping[str, Any]:
    return next((shapes[one] for one in shapes if fnmatch.fnmatchcase(name, one)), {})


def _check_values(name: str, part: str, values: Any, kind: Kind, *, text: bool = False) -> None:
    import numpy as np

    if not text and values.dtype.kind not in _TYPES[kind]:
        raise _other(name, f"'{part}' is not of type {kind}")
    if kind == "text" and not all(isinstance(value, str) for value in values.flat):
        raise _other(name, f"'{part}' is not text")
    if kind == "number" and np.isnan(values.astype(float)).any():
        raise _other(name, f"'{part}' holds NaN")


def _other(name: str, why: str) -> RunError:
    return RunError(
        f"The result '{name}' is not what this version of the study stores ({why}); run the study "
        "again with --fresh."
    )
