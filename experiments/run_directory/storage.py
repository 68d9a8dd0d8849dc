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
    import h5netcdf
    import xarray as xr
    from xarray.backends import H5NetCDFStore

    # Rebuilt from plain values: whatever encoding and index the variables carry stays behind.
    plain = {str(name): _encode_variable(str(name), dataset[name]) for name in dataset.variables}
    coordinates = {name: plain.pop(str(name)) for name in dataset.coords}
    rebuilt = xr.Dataset(plain, coordinates, _encode_attributes(dataset.attrs))
    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        rebuilt.dump_to_store(H5NetCDFStore(file))
    return buffer.getvalue()


def decode_dataset(data: bytes, name: str, *, most: int | None = None) -> xr.Dataset:
    """The inverse of `encode_dataset`; a RunError names what is no netCDF by `name`.

    Args:
        most: numbers and texts that it may hold, however few bytes they take; as many as a study
            may store if left out.
    """
    import xarray as xr

    try:
        _check_alone(data)
        with xr.open_dataset(io.BytesIO(data), engine="h5netcdf", decode_times=False) as lazy:
            _check_count(sum(map(_values, lazy.variables.values())), most)
            stored = lazy.load()
        plain = {str(name): _decode_variable(stored[name]) for name in stored.variables}
        coordinates = {name: plain.pop(str(name)) for name in stored.coords}
        return xr.Dataset(plain, coordinates, _decode_attributes(stored.attrs))
    except Exception as error:  # h5py, h5netcdf and xarray raise several unrelated types
        raise RunError(f"'{name}' is not a netCDF file of a run; run the study again.") from error


def _check_alone(data: bytes) -> None:
    """Raise a ValueError where an array lies in another file, which HDF5 would open and read."""
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"'{name}' is a link")
            found = file[name]
            if isinstance(found, h5py.Group):
                raise ValueError(f"'{name}' is a group")
            if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
                raise ValueError(f"the values of '{name}' lie in another file")


def _values(variable: xr.Variable) -> int:
    """How many values it claims; texts of one length count by what they take."""
    return int(max(variable.size, variable.size * variable.dtype.itemsize // 8))


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


def _decode_variable(array: xr.DataArray) -> xr.Variable:
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
