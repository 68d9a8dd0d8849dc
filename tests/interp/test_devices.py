"""What every instrument does on a device: nothing is mixed with what is elsewhere.

No GPU is needed, and none is measured: `tests/fake_gpu.py` keeps PyTorch's rules for devices
with the CPU's numbers, so that each call must give what it gives on a CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from interp import load_model
from interp.model.model import Model
from tests.fake_gpu import DeviceError, fake_gpu, on_gpu
from tests.interp import tiny
from tests.interp.on_devices import CALLS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("llama", tmp_path_factory.mktemp("devices") / "llama")


@pytest.fixture(scope="module")
def here(folder: Path) -> Model:
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def there(folder: Path) -> Model:
    with fake_gpu():
        return load_model(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_on_a_gpu_as_on_a_cpu(name: str, here: Model, there: Model, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "gpu").mkdir()
    expected = CALLS[name](here, tmp_path / "cpu")
    with fake_gpu() as seen:
        found = CALLS[name](there, tmp_path / "gpu")
        compare(list(numbers(found)), list(numbers(expected)))
    assert seen.waits["to the CPU"] or name == "passes"


@pytest.mark.slow
def test_a_model_goes_to_the_gpu_that_is_there(here: Model, there: Model) -> None:
    assert (here.device.type, there.device.type) == ("cpu", "cpu")  # outside there is none
    with fake_gpu():
        assert there.device == torch.device("cuda", 0)
        assert here.device.type == "cpu"
        assert there.fingerprint == here.fingerprint


def test_what_a_real_device_refuses_is_refused() -> None:
    with fake_gpu():
        x = torch.ones(3, device="cuda")
        index = torch.tensor([0, 1])
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.ones(3).add_(x),
            lambda: torch.cat([x, torch.ones(1)]),
            lambda: x.index_select(0, index),
            lambda: torch.ones(3)[index.to("cuda")],
            lambda: torch.nn.Linear(3, 1)(x),
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises(DeviceError):
                mixed()
        for plain in (lambda: x.numpy(), lambda: np.asarray(x)):
            with pytest.raises(TypeError, match="numpy"):
                plain()
        for right in (x[index], x * 2, x * torch.tensor(2.0), torch.zeros_like(x), x.new_zeros(2)):
            assert on_gpu(right)
        assert not on_gpu(x.cpu())
        assert not on_gpu(torch.zeros_like(x, device="cpu"))


def test_gradients_stay_where_their_tensors_are() -> None:
    with fake_gpu():
        x = torch.ones(3, device="cuda", requires_grad=True)
        y = torch.ones(3, requires_grad=True)
        (x * y.to("cuda"))[0].sum().backward()
        assert x.grad is not None
        assert y.grad is not None
        assert on_gpu(x.grad)
        assert not on_gpu(y.grad)
        one = torch.autograd.grad((x * 2).sum(), x)[0]
        assert on_gpu(one + x)


def numbers(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """All numbers that a result holds, in its order."""
    if isinstance(value, torch.Tensor):
        yield value.detach().cpu().double().numpy()
    elif isinstance(value, xr.Dataset):
        for name in sorted(map(str, value.data_vars)):
            yield from numbers(value[name].values)
    elif isinstance(value, (np.ndarray, bool, int, float)):
        array = np.asarray(value)
        if array.dtype.kind in "fiub":
            yield array.astype(float)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from numbers(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from numbers(one)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from numbers(getattr(value, field.name))


def compare(found: list[Any], expected: list[Any]) -> None:
    """Batches of other sizes add in another order; beyond that nothing may differ."""
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(1.0, float(np.abs(np.nan_to_num(theirs)).max(initial=0.0)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * scale)
