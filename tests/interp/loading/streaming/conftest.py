"""A file with a few groups of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.loading.streaming import reading
from interp.loading.streaming.stream import Stream
from tests.interp.loading.streaming.stored_groups import SHAPES, N, of


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the tests are cut into several pieces, as large ones are."""
    monkeypatch.setattr(reading, "PIECE", 8192)


@pytest.fixture
def numbers() -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(0)
    return {
        f"{group}.{name}": torch.randn(shape, generator=made).to(
            torch.bfloat16 if name == "c" else torch.float32
        )
        for group in range(N)
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def file(tmp_path: Path, numbers: Mapping[str, Tensor]) -> Path:
    save_file(dict(numbers), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def stream(file: Path) -> Iterator[Stream]:
    made = of(file)
    yield made
    made.close()
