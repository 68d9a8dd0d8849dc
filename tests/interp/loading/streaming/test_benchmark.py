"""The benchmark of models larger than memory does on a tiny one what it says."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import large
from interp.loading.streaming.stored import stored_in

SHAPE = large.Shape(layers=3, width=64, heads=4, mlp=96, vocabulary=1200)
TOKENS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("large") / "llama"
    made.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "SHARD", 1 << 17)
        large.write(made, SHAPE)
    return made


@pytest.fixture
def no_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def test_it_writes_the_shape_in_shards(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    held = {name: one.shape for file in files for name, one in stored_in(file).items()}
    assert held == dict(large.tensors(SHAPE))
    seconds, size = large.seconds_to_read(folder)
    assert size == sum(file.stat().st_size for file in files)
    assert seconds > 0


@pytest.mark.slow
def test_numbers_are_those_of_memory(folder: Path) -> None:
    assert large.equal(folder, "bfloat16", TOKENS) == dict.fromkeys(large.RUN, True)
    assert sorted(folder.parent.iterdir()) == [folder]


@pytest.mark.slow
@pytest.mark.usefixtures("no_limit")
def test_it_reads_each_block_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "rate", lambda *_: 1e9)
    found = large.measured(folder, large.RUN, "float32", TOKENS, 64)
    assert [found[what]["reads"] for what in large.RUN] == [1, 1, 1]
    assert all(found[what]["peak"] > 1e8 for what in large.RUN)


@pytest.mark.slow
@pytest.mark.parametrize("what", large.RUN)
def test_the_floor_of_the_arithmetic_is_not_set_too_high(folder: Path, what: str) -> None:
    model = large.on_disk(folder, "float32")
    work = large.work_of(what, model, TOKENS)
    work()
    with FlopCounterMode(display=False) as counted:
        work()
    floor = SHAPE.flops(what, TOKENS)
    # On top come attention, and of the lens the last layer's logits, which others are held against.
    assert floor <= counted.get_total_flops() <= 2.5 * floor


def test_random_weights_keep_their_size() -> None:
    bits = large.np.random.Generator(large.np.random.SFC64(0))
    found = large.random_weights(bits, (512, 1024))
    assert found.dtype == torch.bfloat16
    assert 0.4 < float(found.float().std()) * 1024**0.5 < 1.6
    assert abs(float(found.float().mean())) < 1e-3
