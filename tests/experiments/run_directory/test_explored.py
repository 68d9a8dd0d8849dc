"""What the explorer keeps in a run directory: found again by what decides it, and only whole."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from experiments.errors import RunError, StorageError
from experiments.run_directory import explored
from experiments.run_directory.explored import Asked, Explored

ASKED = Asked("patching", [{"clean": "Ann is"}, "z"], "f" * 32, "t" * 32, "1.0")
ONE = Explored(ASKED, "Patching map", "tiny", 3.5, {"run": "r", "page": "examples"})
RESULT = xr.Dataset({"x": ("layer", [1.0, np.nan])}, {"token": ("layer", ["a", "\0"])}, {"n": 2})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def files(directory: Path) -> dict[str, bytes]:
    folder = directory / "explored"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_result_is_found_by_what_decides_it(directory: Path) -> None:
    written = explored.save(directory, ONE, RESULT)
    found = explored.find(directory, ASKED)
    assert found is not None
    assert found[0] == written
    assert (written.title, written.seconds, written.link) == (ONE.title, 3.5, ONE.link)
    xr.testing.assert_identical(found[1], RESULT)
    for other in ("kind", "fingerprint", "tokenizer", "version"):
        assert explored.find(directory, replace(ASKED, **{other: "another"})) is None
    assert explored.find(directory, replace(ASKED, request=["z"])) is None
    assert explored.list_all(directory) == ([written], [])
    explored.forget(directory, ASKED.name)
    assert explored.find(directory, ASKED) is None
    assert files(directory) == {}


def change(directory: Path, **fields: object) -> None:
    path = directory / "explored" / f"{ASKED.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def put(directory: Path, data: bytes) -> None:
    """Data of somebody else, with a checksum that fits."""
    (directory / "explored" / f"{ASKED.name}.nc").write_bytes(data)
    change(directory, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def bomb() -> bytes:
    """A few bytes that claim 8 GB."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("x", (1 << 30,), "f8", chunks=(1 << 20,), compression="gzip")
    return buffer.getvalue()


def long_texts() -> bytes:
    """Few values, each of them of 4 GB."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        kind = h5py.string_dtype(length=1 << 28)
        file.create_dataset("x", (16,), kind, chunks=(1,), compression="gzip")
    return buffer.getvalue()


@pytest.mark.parametrize("data", [pickle.dumps(RESULT), b"", bomb(), long_texts()])
def test_foreign_data_is_refused_in_a_sentence(directory: Path, data: bytes) -> None:
    explored.save(directory, ONE, RESULT)
    put(directory, data)
    with pytest.raises(RunError, match="is not a netCDF file"):
        explored.find(directory, ASKED)


def test_damage_is_refused_in_a_sentence(directory: Path) -> None:
    explored.save(directory, ONE, RESULT)
    whole = files(directory)
    folder, name = directory / "explored", ASKED.name

    def refused(match: str) -> None:
        with pytest.raises((RunError, StorageError), match=match):
            explored.find(directory, ASKED)
        for file, data in whole.items():
            (folder / file).unlink(missing_ok=True)
            (folder / file).write_bytes(data)

    data = folder / f"{name}.nc"
    data.write_bytes(whole[data.name][:-1])
    refused("checksum")
    data.unlink()
    refused("cannot be read")
    data.unlink()
    data.symlink_to("/etc/passwd")
    refused("symbolic link")
    (folder / f"{name}.json").write_text('{"schema": 1')
    refused("is damaged")
    change(directory, seconds="long")
    refused("'seconds'")
    change(directory, asked={**json.loads(whole[f"{name}.json"])["asked"], "request": ["y"]})
    refused("of another request")
    change(directory, asked={**json.loads(whole[f"{name}.json"])["asked"], "kind": "../x"})
    refused("of another request")
    assert explored.find(directory, ASKED) is not None


def test_the_list_tells_of_damage_and_shows_the_rest(directory: Path) -> None:
    explored.save(directory, ONE, RESULT)
    other = explored.save(directory, replace(ONE, asked=replace(ASKED, version="2")), RESULT)
    change(directory, title=5)
    (directory / "explored" / "notes.json").write_text("somebody's own")
    found, problems = explored.list_all(directory)
    assert found == [other]
    assert len(problems) == 1
    assert "'title'" in problems[0]


def test_nothing_outside_is_written_read_or_removed(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{ASKED.name}.json").write_text("{}")
    (directory / "explored").symlink_to(elsewhere)
    for attempt in (
        lambda: explored.save(directory, ONE, RESULT),
        lambda: explored.find(directory, ASKED),
        lambda: explored.forget(directory, ASKED.name),
    ):
        with pytest.raises(StorageError, match="symbolic link"):
            attempt()
    assert explored.list_all(directory)[0] == []
    with pytest.raises(StorageError, match="names no stored result"):
        explored.forget(directory, "../config")
    assert len(list(elsewhere.iterdir())) == 1


def test_what_cannot_be_written_is_a_sentence_and_leaves_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = explored.save(directory, ONE, RESULT)
    kept = files(directory)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="no space left"):
            explored.save(directory, ONE, RESULT * 2)
    assert files(directory) == kept
    with monkeypatch.context() as patch:
        patch.setattr(explored, "MOST_BYTES", 100)
        with pytest.raises(StorageError, match="more than the 100 B"):
            explored.save(directory, ONE, RESULT)
    assert explored.list_all(directory) == ([before], [])
    (directory / "config.json").unlink()
    with pytest.raises(StorageError, match="no run directory"):
        explored.save(directory, ONE, RESULT)


@pytest.mark.slow
def test_writers_and_readers_at_once_do_no_damage(directory: Path) -> None:
    results = [RESULT.assign(x=RESULT["x"] * 0 + i) for i in range(4)]
    explored.save(directory, ONE, results[0])

    def write(i: int) -> None:
        explored.save(directory, ONE, results[i % 4])

    def read(_: int) -> float:
        found = explored.find(directory, ASKED)
        assert found is not None
        return float(found[1]["x"][0])

    with ThreadPoolExecutor(6) as pool:
        writing = [pool.submit(write, i) for i in range(12)]
        reading = [pool.submit(read, i) for i in range(24)]
        assert {one.result() for one in reading} <= {0.0, 1.0, 2.0, 3.0}
        assert [one.result() for one in writing] == [None] * 12
    assert explored.list_all(directory)[1] == []
    assert len(files(directory)) == 2
