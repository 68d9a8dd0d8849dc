"""Tables and labelled arrays as bytes, and back, without loss.

Everything is encoded in memory first and then written as one block: on a full disk the HDF5
library crashes the process instead of raising an error.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from experiments.errors import RunError
from experiments.run_directory import netcdf

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

__all__ = ["decode_dataset", "decode_table", "encode_dataset", "encode_table"]

# Attributes of our own that say how the rest is to be read.
_JSON_ATTRIBUTES = "obverse_json_attributes"
_TEXT = "obverse_text"
# Compressed, a few bytes can claim any number; no study stores a tenth of this.
MOST_VALUES = 1 << 29


def encode_table(table: pd.DataFrame) -> bytes:
    """A table as Parquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def decode_table(data: bytes, name: str) -> pd.DataFrame:
    """The inverse of `encode_table`; a RunError names what is no Parquet by `name`."""
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        claimed = pq.read_metadata(io.BytesIO(data))
        _check_count(claimed.num_rows * claimed.num_columns)
        return pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # pyarrow raises several unrelated types
        raise RunError(f"'{name}' is not a Parquet table; run the study again.") from error


def encode_dataset(dataset: xr.Dataset) -> bytes:
    """A dataset as netCDF 4.

    Attributes may be of any type that JSON has. Text comes back as object arrays whatever it was
    before, also text that HDF5 cannot hold as it is (tokens can contain NUL).

    Raises:
        TypeError: a variable of mixed objects, of times, or a multi-index.
    """
    # Rebuilt from plain values: whatever encoding and index the variables carry stays behind.
    names = (*dataset.data_vars, *dataset.coords)
    plain = {str(name): _encode_variable(str(name), dataset[name]) for name in names}
    return netcdf.write(plain, map(str, dataset.coords), _encode_attributes(dataset.attrs))


def decode_dataset(data: bytes, name: str, *, most: int | None = None) -> xr.Dataset:
    """The inverse of `encode_dataset`; a RunError names what is no netCDF by `name`.

    Args:
        most: numbers and texts that it may hold, however few bytes they take; as many as a study
            may store if left out.
    """
    import xarray as xr

    try:
        with netcdf.opened(data) as file:
            _check_count(sum(map(_values, file.values())), most)
            variables, names, attributes = netcdf.read(file)
        plain = {name: _decode_variable(one) for name, one in variables.items()}
        coordinates = {name: plain.pop(name) for name in variables if name in names}
        return xr.Dataset(plain, coordinates, _decode_attributes(attributes))
    except Exception as error:  # h5py and xarray raise several unrelated types
        raise RunError(f"'{name}' is not a netCDF file of a run; run the study again.") from error


def _values(array: Any) -> int:
    """How many values it claims; texts of one length count by what they take."""
    return int(max(array.size, array.size * array.dtype.itemsize // 8))


def _check_count(values: int, most: int | None = None) -> None:
    if values > (MOST_VALUES if most is None else most):
        raise ValueError(f"it claims {values:,} values")


def _encode_variable(name: str, array: xr.DataArray) -> xr.Variable:
    import numpy as np
    import xarray as xr

    values = np.asarray(array.values)
    attributes = _encode_attributes(array.attrs)
    if values.dtype.kind in "mM":
        raise TypeError(f"'{name}' holds times, which results do not: they would never be equal")
    if values.dtype.kind in "OUT":
        if not all(isinstance(item, str) for item in values.flat):
            raise TypeError(f"'{name}' mixes text with other objects; use '' where text is missing")
        awkward = any("\0" in item for item in values.flat)  # HDF5 ends its strings there
        values = _each(json.dumps if awkward else str, values)
        attributes[_TEXT] = "json" if awkward else "plain"
    return xr.Variable(array.dims, values, attributes)


def _decode_variable(array: xr.Variable) -> xr.Variable:
    import xarray as xr

    attributes = dict(array.attrs)
    form = attributes.pop(_TEXT, None)
    values = array.values
    if form is not None:
        values = _each(json.loads if form == "json" else str, values)
    return xr.Variable(array.dims, values, _decode_attributes(attributes))


def _encode_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Text and numbers as they are; anything else as JSON, with a list of what is."""
    encoded, as_json = {}, []
    for key, value in attributes.items():
        item = value.tolist() if hasattr(value, "tolist") else value
        number = isinstance(item, int | float) and not isinstance(item, bool)
        native = number or (isinstance(item, str) and "\0" not in item)
        encoded[str(key)] = item if native else json.dumps(item)
        as_json += [] if native else [str(key)]
    return {**encoded, _JSON_ATTRIBUTES: json.dumps(as_json)} if as_json else encoded


def _decode_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    as_json = set(json.loads(attributes.get(_JSON_ATTRIBUTES, "[]")))
    decoded = {}
    for key, value in attributes.items():
        if key == _JSON_ATTRIBUTES:
            continue
        plain = value.item() if hasattr(value, "item") else value
        decoded[str(key)] = json.loads(plain) if key in as_json else plain
    return decoded


def _each(function: Callable[[str], str], values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    result = np.empty(values.size, dtype=object)
    result[:] = [function(item) for item in values.flat]
    return result.reshape(values.shape)
