"""Labelled arrays in netCDF 4's layout of an HDF5 file, written and read by h5py.

xarray writes and reads the same through h5netcdf, which looks up every name again and again, and a
run's results are many small arrays.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["opened", "read", "write"]

# What netCDF calls a dimension without values, and a variable that has a dimension's name but other
# dimensions: https://docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."
_NOT_OF_ITS_NAME = "_nc4_non_coord_"
# Attributes that say how a file is to be read.
_TRUTHS, _COORDINATES = "dtype", "coordinates"
_LAYOUT = frozenset(
    {
        *("CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "DIMENSION_LABELS"),
        *("_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties", "_FillValue"),
        *(_TRUTHS, _COORDINATES),
    }
)


def write(
    variables: Mapping[str, xr.Variable], coordinates: Iterable[str], attributes: Mapping[str, Any]
) -> bytes:
    """A netCDF 4 file of numbers, truths and texts; attributes are numbers and texts.

    Raises:
        ValueError: a name has a slash in it.
    """
    import h5py
    import numpy as np

    sizes = {d: n for v in variables.values() for d, n in zip(v.dims, v.shape, strict=True)}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        made = {}
        for name, variable in variables.items():
            made[name] = _made(file, name, variable, is_other=name in sizes)
        for number, (dim, size) in enumerate(sizes.items()):
            if str(dim) not in variables or variables[str(dim)].dims != (dim,):
                _check_name(str(dim))
                scale = file.create_dataset(str(dim), (size,), ">f4", **_growing((size,)))
                scale.make_scale(f"{_NO_VARIABLE}{size:10}")
            file[str(dim)].attrs["_Netcdf4Dimid"] = np.int32(number)
        for name, variable in variables.items():
            if variable.dims != (name,):
                for axis, dim in enumerate(variable.dims):
                    made[name].dims[axis].attach_scale(file[str(dim)])
        _tell_coordinates(file, made, variables, [c for c in coordinates if c not in sizes])
        _put(file.attrs, attributes)
    return buffer.getvalue()


def _made(file: Any, name: str, variable: xr.Variable, *, is_other: bool) -> Any:
    import h5py
    import numpy as np

    _check_name(name)
    values = variable.values
    own = variable.dims == (name,)
    path = name if own or not is_other else _NOT_OF_ITS_NAME + name
    kind = h5py.string_dtype() if values.dtype.kind == "O" else values.dtype
    stored = values.astype(np.int8) if values.dtype.kind == "b" else values
    made = file.create_dataset(
        path,
        values.shape,
        np.int8 if values.dtype.kind == "b" else kind,
        data=stored if stored.size else None,
        track_order=True,
        **_growing(values.shape),
    )
    _put(made.attrs, variable.attrs)
    if values.dtype.kind == "b":
        made.attrs[_TRUTHS] = "bool"
    if own:
        made.make_scale(name)
    return made


def _growing(shape: tuple[int, ...]) -> dict[str, Any]:
    """NetCDF knows no dimension of no length but one that can grow."""
    return {} if all(shape) else {"maxshape": tuple(n or None for n in shape)}


def _tell_coordinates(
    file: Any, made: Mapping[str, Any], variables: Mapping[str, xr.Variable], names: list[str]
) -> None:
    """Which variables are coordinates, as the CF conventions have it: told by those they belong to,
    and of others by the file."""
    names = [name for name in names if " " not in name]
    told: set[str] = set()
    for name, variable in variables.items():
        if name in names or variable.dims == (name,):
            continue
        of_it = [one for one in names if set(variables[one].dims) <= set(variable.dims)]
        if of_it:
            made[name].attrs[_COORDINATES] = " ".join(of_it)
        told.update(of_it)
    rest = [name for name in names if name not in told]
    if rest:
        file.attrs[_COORDINATES] = " ".join(rest)


def _put(place: Any, attributes: Mapping[str, Any]) -> None:
    import numpy as np

    for name, value in attributes.items():
        place[name] = value if isinstance(value, str) else np.atleast_1d(value)


def _check_name(name: str) -> None:
    if "/" in name:
        raise ValueError(f"'{name}' has a slash in it, which no name in a netCDF file may have")


@contextmanager
def opened(data: bytes) -> Iterator[Any]:
    """The arrays of a file, none of which is read yet.

    Raises:
        ValueError: one lies in another file, which HDF5 would open and read.
        OSError: it is no HDF5 file.
    """
    import h5py

    with h5py.File(io.BytesIO(data), "r") as file:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"'{name}' is a link")
            found = file[name]
            if not isinstance(found, h5py.Dataset):
                raise ValueError(f"'{name}' is a {type(found).__name__.lower()}")
            if found.external or found.is_virtual:
                raise ValueError(f"the values of '{name}' lie in another file")
        yield file


def read(file: Any) -> tuple[dict[str, xr.Variable], set[str], dict[str, Any]]:
    """What `write` was given: variables, names of coordinates, and attributes.

    Raises:
        ValueError: a variable is of a kind that is never written.
    """
    import xarray as xr

    variables: dict[str, xr.Variable] = {}
    coordinates = set(str(file.attrs.get(_COORDINATES, "")).split(" "))
    for path, found in file.items():
        if _is_only_a_dimension(found):
            continue
        name = path.removeprefix(_NOT_OF_ITS_NAME)
        dims = _dimensions(file, path, found)
        coordinates.update(str(found.attrs.get(_COORDINATES, "")).split(" "))
        variables[name] = xr.Variable(dims, _values(path, found), _attributes(found.attrs))
        if dims == (name,):
            coordinates.add(name)
    return variables, coordinates & variables.keys(), _attributes(file.attrs)


def _is_only_a_dimension(found: Any) -> bool:
    name = found.attrs.get("NAME", b"")
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return text.startswith(_NO_VARIABLE)


def _dimensions(file: Any, path: str, found: Any) -> tuple[str, ...]:
    if found.is_scale:
        return (path,)
    listed = found.attrs.get("DIMENSION_LIST", ()) if found.ndim else ()
    if len(listed) != found.ndim or not all(map(len, listed)):
        raise ValueError(f"the dimensions of '{path}' have no names")
    return tuple(file[references[0]].name.removeprefix("/") for references in listed)


def _values(path: str, found: Any) -> Any:
    import h5py
    import numpy as np

    if h5py.check_string_dtype(found.dtype) is not None:
        texts = np.empty(found.shape, dtype=object)
        texts[...] = found.asstr()[()]
        return texts
    if found.dtype.kind not in "biuf":
        raise ValueError(f"'{path}' holds neither numbers nor text")
    values = found[()]
    return values.astype(bool) if found.attrs.get(_TRUTHS) == "bool" else values


def _attributes(place: Any) -> dict[str, Any]:
    return {name: place[name] for name in place if name not in _LAYOUT}
