"""A harvest by several workers stores what one process does, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cache import ActivationStore
from interp import Model, load_model
from interp.execute import Executor, Workers
from interp.harvest import harvest
from interp.prompts.corpus import read_rows
from tests.interp.executing import wait_for

pytestmark = pytest.mark.slow

WORDS = ["Tom", "Kate", "Goldie", "Mary", "Lee", "Hudson", "Hawn", "Cruise"]
TEXTS = [" ".join(WORDS[(i // 8**k) % 8] for k in range(5)) for i in range(1200)]
PARTS = 60_000  # bytes of a shard, so that there are some twenty


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("reversal-curse")


@pytest.fixture(scope="module")
def serial(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    with ActivationStore(tmp_path_factory.mktemp("serial") / "s", shard_size=PARTS) as store:
        harvest(model, TEXTS, "resid_post.1", store, context=16)
        return stored(model, store)


@pytest.fixture(scope="module", params=["processes", "ray"])
def workers(request: pytest.FixtureRequest, workers_at_once: None) -> Iterator[Workers]:
    if request.param == "ray":
        pytest.importorskip("ray")
    before = set(Path("/tmp").glob("obverse-ray-*"))
    # Each loads the model, which takes seconds; that two share the work, processes show.
    with Workers(Executor(request.param, 2 if request.param == "processes" else 1)) as kept:
        yield kept
        there = set(Path("/tmp").glob("obverse-ray-*")) - before
    # Instances that other tests have started meanwhile leave nothing either, but later.
    assert wait_for(lambda: not any(folder.exists() for folder in there), 90)


def stored(model: Model, store: ActivationStore) -> list[torch.Tensor]:
    rows = read_rows(model, TEXTS, context=16)
    assert store.missing(model, rows, "resid_post.1") == 0
    return store.rows(model, rows, "resid_post.1")["resid_post.1"]


def writers(store: ActivationStore) -> list[int]:
    """Processes that are writing a shard now, by their heartbeat files."""
    pids = [int(name.split(".")[2]) for name in os.listdir(store.path / "owners")]
    return [pid for pid in pids if pid != os.getpid()]


def test_workers_store_the_same_numbers(
    model: Model, workers: Workers, serial: list[torch.Tensor], tmp_path: Path
) -> None:
    with ActivationStore(tmp_path / "store", shard_size=PARTS) as store:
        done = harvest(model, TEXTS, "resid_post.1", store, context=16, executor=workers)
        assert done.computed == done.tokens
        assert len(list((store.path / "owners").iterdir())) == 1
        for ours, theirs in zip(stored(model, store), serial, strict=True):
            assert torch.equal(ours, theirs)


def test_the_part_of_a_killed_worker_is_done_again(
    model: Model, workers: Workers, serial: list[torch.Tensor], tmp_path: Path
) -> None:
    killed: list[int] = []

    with ActivationStore(tmp_path / "store", shard_size=PARTS) as store:

        def kill_one(done: int, _: int) -> None:
            deadline = time.monotonic() + 5
            while done and not killed and time.monotonic() < deadline:
                for pid in writers(store):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                time.sleep(0.001)

        harvest(
            model, TEXTS, "resid_post.1", store, context=16, executor=workers, progress=kill_one
        )
        assert killed
        for ours, theirs in zip(stored(model, store), serial, strict=True):
            assert torch.equal(ours, theirs)
        assert not store.verify().findings
        assert writers(store) == []
        assert not list(store.path.glob("shards/*/.partial-*"))
