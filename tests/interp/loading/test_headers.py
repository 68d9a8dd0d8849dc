"""Headers of weight files are read as safetensors reads them, and take no memory."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from benchmarks import large
from interp.errors import ModelError
from interp.loading.headers import header

Header = dict[str, Any]


def written(path: Path, told: Header | str, content: bytes) -> Path:
    text = (told if isinstance(told, str) else json.dumps(told)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


@pytest.fixture
def intact(tmp_path: Path) -> tuple[Header, bytes]:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), dtype=np.float16),
        "c": np.arange(4, dtype=np.int64),
    }
    save_file(tensors, tmp_path / "intact.safetensors", {"format": "pt"})
    raw = (tmp_path / "intact.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def test_what_a_file_holds_is_what_safetensors_says(
    intact: tuple[Header, bytes], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.safetensors", *intact)
    found, _ = header(path)
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            one = file.get_slice(name)
            assert (found[name].dtype, list(found[name].shape)) == (
                one.get_dtype(),
                one.get_shape(),
            )
            raw = path.read_bytes()[found[name].begin : found[name].end]
            assert raw == file.get_tensor(name).tobytes()
        assert set(found) == set(file.keys())


def _offsets(name: str, begin: int, end: int) -> Callable[[Header], None]:
    def edit(told: Header) -> None:
        told[name]["data_offsets"] = [begin, end]

    return edit


DAMAGE: dict[str, Callable[[Header], Any]] = {
    "an overlap": _offsets("a", 24, 48),
    "a negative place": _offsets("c", -8, 24),
    "a place beyond the end": _offsets("c", 1 << 61, (1 << 61) + 32),
    "an end before the beginning": _offsets("a", 24, 0),
    "a gap": lambda told: told.pop("a"),
    "a tensor too few": lambda told: told.pop("c"),
    "another size": lambda told: told["a"].update(shape=[2, 4]),
    "a size beyond 64 bits": lambda told: told["a"].update(shape=[1 << 61, 1 << 61]),
    "no shape": lambda told: told["a"].pop("shape"),
    "no tensor": lambda told: told.update(a=[]),
    "another type": lambda told: told["a"].update(dtype=5),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_safetensors_refuses_is_refused(
    intact: tuple[Header, bytes], tmp_path: Path, damage: str
) -> None:
    told, content = intact
    DAMAGE[damage](told)
    path = written(tmp_path / "a.safetensors", told, content)
    with pytest.raises(SafetensorError):
        safe_open(path, framework="np")
    with pytest.raises(ModelError, match="is truncated or damaged"):
        header(path)


def test_a_name_that_stands_twice_is_refused(intact: tuple[Header, bytes], tmp_path: Path) -> None:
    told, content = intact
    text = json.dumps(told)[:-1] + ', "a": ' + json.dumps(told["a"]) + "}"
    with pytest.raises(ModelError, match="is truncated or damaged"):
        header(written(tmp_path / "a.safetensors", text, content))


@pytest.mark.parametrize("size", [0, 7, 1 << 60])
def test_a_header_that_is_not_there_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(size.to_bytes(8, "little")[: 8 if size else 5] + b"{")
    with pytest.raises(ModelError, match="is truncated or damaged"):
        header(path)


def test_a_file_larger_than_what_may_be_addressed_is_not_mapped(tmp_path: Path) -> None:
    place = {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 1 << 30]}
    path = written(tmp_path / "a.safetensors", {"a": place}, b"")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (1 << 30))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (large.memory()["VmSize"] + (64 << 20), before[1]))
    try:
        assert header(path)[0]["a"].shape == (1 << 28,)
        with pytest.raises((MemoryError, OSError, SafetensorError)):
            safe_open(path, framework="np")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
