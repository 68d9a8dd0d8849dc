from __future__ import annotations

import io
from pathlib import Path

import h5netcdf
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from xarray.backends import H5NetCDFStore

from experiments.errors import RunError
from experiments.run_directory.storage import (
    decode_dataset,
    decode_table,
    encode_dataset,
    encode_table,
)


def text(*items: str) -> np.ndarray:
    return np.array([*items, None], dtype=object)[:-1]


@pytest.fixture
def dataset() -> xr.Dataset:
    return xr.Dataset(
        {
            "patched": (("example", "layer"), np.array([[1, np.nan], [2, 3]], dtype="float32")),
            "correct": ("example", np.array([True, False])),
            "rank": ("example", np.array([3, -1])),
            "top": (("example", "layer"), text("a", "", "\n", "<b>").reshape(2, 2)),
        },
        coords={"token": ("example", text(" Tom", "é")), "layer": [0, 1]},
    )


def test_values_types_and_coordinates_come_back(dataset: xr.Dataset) -> None:
    back = decode_dataset(encode_dataset(dataset), "x")
    xr.testing.assert_identical(back, dataset)
    assert {n: v.dtype for n, v in back.variables.items()} == {
        n: v.dtype for n, v in dataset.variables.items()
    }
    assert set(back.coords) == {"token", "layer"}


def test_other_programs_can_read_the_file(dataset: xr.Dataset) -> None:
    """h5netcdf alone, without this package's decoding, finds the plain values."""
    with h5netcdf.File(io.BytesIO(encode_dataset(dataset)), "r", decode_vlen_strings=True) as file:
        assert list(file["token"][:]) == [" Tom", "é"]
        assert file["patched"].dimensions == ("example", "layer")
        np.testing.assert_array_equal(file["rank"][:], [3, -1])


def test_xarray_reads_the_same_from_the_file(dataset: xr.Dataset) -> None:
    dataset = dataset.assign_coords(run=7).assign_attrs(site="z", steps=3)
    dataset["rank"].attrs["units"] = "tokens"
    dataset = dataset.reset_coords("token").set_coords("correct")
    stream = io.BytesIO(encode_dataset(dataset))
    with xr.open_dataset(stream, engine="h5netcdf") as read:
        for array in read.variables.values():
            array.attrs.pop("obverse_text", None)
        xr.testing.assert_identical(read.load(), dataset)


def test_what_xarray_wrote_for_older_runs_is_read(dataset: xr.Dataset) -> None:
    older = dataset.assign_coords(run=7).assign_attrs(site="z", steps=3)
    older["rank"].attrs["units"] = "tokens"
    stream = io.BytesIO()
    with h5netcdf.File(stream, "w") as file:
        older.dump_to_store(H5NetCDFStore(file))
    # xarray told them apart by an attribute of this package.
    with h5py.File(stream, "r+") as file:
        for name in ("top", "token"):
            file[name].attrs["obverse_text"] = "plain"
    back = decode_dataset(stream.getvalue(), "x")
    xr.testing.assert_identical(back, older)
    assert set(back.coords) == {"token", "layer", "run"}
    assert {n: v.dtype for n, v in back.variables.items()} == {
        n: v.dtype for n, v in older.variables.items()
    }


def test_odd_shapes_and_names_come_back() -> None:
    made = xr.Dataset(
        {
            "none": (("k", "empty"), np.zeros((2, 0))),
            "number": 1.5,
            "word": ((), np.array("a", dtype=object)),
            "small": ("k", np.array([1, 2], dtype="u1")),
            "é ü": ("k", [1, 2]),
        },
        coords={"where": 3},
    )
    stored = encode_dataset(made)
    xr.testing.assert_identical(decode_dataset(stored, "x"), made)
    with xr.open_dataset(io.BytesIO(stored), engine="h5netcdf") as read:
        assert dict(read.sizes) == {"k": 2, "empty": 0}
    with pytest.raises(ValueError, match="'a/b' has a slash"):
        encode_dataset(xr.Dataset({"a/b": ("k", [1])}))


@pytest.mark.parametrize("token", ["\0", "a\0", "\0\0b", '"', "\\0", "\ufffd", "\u202e"])
def test_awkward_tokens_come_back(token: str) -> None:
    made = xr.Dataset({"top": ("k", text(token, ""))}, coords={"token": ("k", text("", token))})
    back = decode_dataset(encode_dataset(made), "x")
    assert list(back.top.values) == [token, ""]
    assert list(back.token.values) == ["", token]


def test_text_along_a_dimension_of_its_own_name_selects() -> None:
    made = xr.Dataset({"v": ("token", [1.0, 2.0])}, coords={"token": text("a\0b", "b")})
    back = decode_dataset(encode_dataset(made), "x")
    assert float(back.v.sel(token="a\0b")) == 1.0


def test_no_text_at_all_stays_text() -> None:
    back = decode_dataset(encode_dataset(xr.Dataset({"t": ("k", text())})), "x")
    assert back.t.dtype == object
    assert back.t.shape == (0,)


def test_fixed_width_text_keeps_its_content() -> None:
    back = decode_dataset(encode_dataset(xr.Dataset({"t": ("k", np.array(["a", "bcd"]))})), "x")
    assert list(back.t.values) == ["a", "bcd"]


def test_attributes_of_every_json_type() -> None:
    attributes = {
        "site": "z",
        "by": None,
        "axes": ("head", "position"),
        "exact": True,
        "steps": np.int64(5),
        "rate": 0.25,
        "settings": {"k": [1]},
        "empty": "",
        "nul": "a\0b",
        "none": [],
    }
    back = decode_dataset(encode_dataset(xr.Dataset(attrs=attributes)), "x")
    assert back.attrs == {**attributes, "axes": ["head", "position"]}
    assert type(back.attrs["steps"]) is int
    assert back.attrs["exact"] is True


def test_units_of_time_stay_plain_numbers() -> None:
    made = xr.Dataset({"wall": ("k", [1.5, 2.5], {"units": "seconds"})})
    back = decode_dataset(encode_dataset(made), "x")
    assert back.wall.dtype == np.float64
    assert back.wall.attrs == {"units": "seconds"}


def test_equal_datasets_are_equal_bytes(dataset: xr.Dataset) -> None:
    assert encode_dataset(dataset) == encode_dataset(dataset.copy(deep=True))
    again = decode_dataset(encode_dataset(dataset), "x")
    assert encode_dataset(again) == encode_dataset(dataset)


@pytest.mark.parametrize(
    "values", [np.array(["a", None], dtype=object), np.array(["2020-01-01"], dtype="M8[ns]")]
)
def test_what_would_not_come_back_is_refused(values: np.ndarray) -> None:
    with pytest.raises(TypeError, match="'t'"):
        encode_dataset(xr.Dataset({"t": ("k", values)}))


def test_tables_come_back_with_types_and_empty_strings() -> None:
    table = pd.DataFrame(
        {"fact": [0, 1], "subject": ["Tom", ""], "correct": [True, False], "x": [0.1, np.nan]}
    )
    back = decode_table(encode_table(table), "x")
    pd.testing.assert_frame_equal(back, table)
    assert encode_table(back) == encode_table(table)


@pytest.mark.parametrize("data", [b"", b"PAR1 nonsense", b"\x89HDF\r\n\x1a\n nonsense"])
def test_nonsense_is_one_sentence(data: bytes) -> None:
    with pytest.raises(RunError, match="'facts' is not a Parquet table"):
        decode_table(data, "facts")
    with pytest.raises(RunError, match="'lens' is not a netCDF file"):
        decode_dataset(data, "lens")


def test_no_memory_is_taken_for_what_a_few_bytes_claim() -> None:
    stream = io.BytesIO()
    with h5netcdf.File(stream, "w") as file:
        file.dimensions = {"k": 1 << 40}
        file.create_variable("x", ("k",), "f8", chunks=(1 << 20,))
    assert len(stream.getvalue()) < 1 << 16
    with pytest.raises(RunError, match="'lens' is not a netCDF file") as caught:
        decode_dataset(stream.getvalue(), "lens")
    assert "claims" in str(caught.value.__cause__)


def test_what_is_neither_number_nor_text_is_not_read() -> None:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["x"] = np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])
        file["x"].make_scale("x")
    with pytest.raises(RunError, match="'lens' is not a netCDF file") as caught:
        decode_dataset(stream.getvalue(), "lens")
    assert "neither numbers nor text" in str(caught.value.__cause__)


@pytest.mark.parametrize("how", ["external", "virtual", "linked", "below"])
def test_values_that_lie_in_another_file_are_not_read(how: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(3.0)
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        if how == "external":
            file.create_dataset("x", (8,), "u1", external=[(str(secret), 0, 8)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "x", (3,))
            file.create_virtual_dataset("x", layout)
        elif how == "linked":
            file["x"] = h5py.ExternalLink(str(secret), "x")
        else:
            file["below/x"] = np.arange(3.0)
        if how in ("external", "virtual"):
            file["x"].make_scale("x")
    with pytest.raises(RunError, match="'lens' is not a netCDF file") as caught:
        decode_dataset(stream.getvalue(), "lens")
    assert type(caught.value.__cause__) is ValueError


def test_a_table_of_more_values_than_bearable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = encode_table(pd.DataFrame({"x": np.zeros(1000), "y": np.zeros(1000)}))
    assert len(decode_table(stored, "facts")) == 1000
    monkeypatch.setattr("experiments.run_directory.storage.MOST_VALUES", 1999)
    with pytest.raises(RunError, match="'facts' is not a Parquet table"):
        decode_table(stored, "facts")
