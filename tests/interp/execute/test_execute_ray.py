"""Units of work on Ray: a cluster that is there already, and a local instance."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp import sweep
from interp.errors import ExecutionError, PromptError
from interp.execute import Executor, Workers, execute
from interp.execute.actors import share_of_each
from tests.interp import executing
from tests.interp.deadly import deadly
from tests.interp.execute.test_execute import ROOT, jobs
from tests.interp.executing import alive, pids, wait_for
from tests.interp.pairs import prompt_pairs
from tests.interp.tiny import Tiny

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster with two CPUs, which somebody else started."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 10**8},
    )
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def two(address: str) -> Executor:
    return Executor("ray", 2, address)


def gone(folder: Path) -> bool:
    return bool(pids(folder)) and not any(alive(pid) for pid in pids(folder))


def test_a_cluster_is_used_and_left_as_it_was(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    handler = signal.getsignal(signal.SIGTERM)
    for executor in (Executor("ray"), Executor("ray", 1, address)):
        assert dict(execute(executing.squares(), executing.start, executor)) == executing.EXPECTED
        assert not ray.is_initialized()
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_connection_that_is_there_is_used_and_kept(address: str) -> None:
    ray.init(address=address, log_to_driver=False)
    try:
        found = execute(executing.squares(), executing.start, Executor("ray"))
        assert dict(found) == executing.EXPECTED
        with pytest.raises(ExecutionError, match="connected to another Ray cluster than '1"):
            list(execute(executing.squares(), executing.start, Executor("ray", 1, "1.1.1.1:6379")))
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_the_units_of_killed_actors_are_run_again(tmp_path: Path, two: Executor) -> None:
    units = jobs(tmp_path, {1: "die", 4: "sleep"}, times=1)

    def kill() -> None:
        assert wait_for((tmp_path / "mark-4-0").exists, 30)
        for pid in pids(tmp_path):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert dict(execute(units, executing.start_jobs, two)) == executing.EXPECTED
    killer.join()
    assert wait_for(lambda: gone(tmp_path))


def test_what_fails_on_an_actor_is_told_as_elsewhere(tmp_path: Path, two: Executor) -> None:
    with Workers(two) as workers:
        with pytest.raises(PromptError, match="There is no such prompt; give another"):
            list(execute(jobs(tmp_path, {0: "raise"}), executing.start_jobs, workers))
        with pytest.raises(ExecutionError, match="'n2' ended its worker 3 times"):
            list(execute(jobs(tmp_path, {2: "die"}), executing.start_jobs, workers))
    assert wait_for(lambda: gone(tmp_path))


def test_closing_the_iterator_ends_actors_that_are_busy(tmp_path: Path, two: Executor) -> None:
    results = execute(jobs(tmp_path, {1: "sleep"}), executing.start_jobs, two)
    assert next(results)[0] in executing.EXPECTED
    assert wait_for(lambda: any(tmp_path.glob("mark-*")))
    results.close()
    assert wait_for(lambda: gone(tmp_path), 5)


def test_a_sweep_on_a_cluster_is_that_of_this_process(
    tmp_path: Path, address: str, gpt2: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though an actor is killed in the middle of a slice. It is the only one, since each takes
    seconds to import what it needs; another takes its place."""
    monkeypatch.setattr("interp.patching.slices.CELLS_PER_SLICE", 1)
    monkeypatch.setattr("interp.patching.slices.OPERATIONS_PER_SLICE", 1)
    pairs = prompt_pairs(gpt2)
    expected = sweep(gpt2.model, pairs, "resid_pre", "logit_diff")
    found = sweep(
        gpt2.model, pairs, "resid_pre", deadly(tmp_path), executor=Executor("ray", 1, address)
    )
    assert len(pids(tmp_path)) == 1
    assert found.attrs == {**expected.attrs, "metric": "deadly"}
    np.testing.assert_allclose(found["patched"], expected["patched"], rtol=0, atol=1e-5)


def test_ray_that_others_could_reach_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray was imported in the usual way, so that its local instances listen everywhere."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    monkeypatch.setattr(ray, "init", None)
    with pytest.raises(ExecutionError, match="set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before"):
        list(execute(executing.squares(), executing.start, Executor("ray", 2)))


def test_a_local_instance_needs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own, to see what is left of it; it listens on this machine only."""
    path = tmp_path / "script.py"
    path.write_text(LOCAL)
    before = set(Path("/tmp").glob("obverse-ray-*"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, str(path), str(tmp_path)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    told = dict(line.split(" ") for line in ended.stdout.splitlines())
    assert told.pop("nodes") == "127.0.0.1"
    assert told == {"squares": "True", "ended": "KeyboardInterrupt", "connected": "False"}
    # Instances that other tests have started meanwhile leave nothing either, but later.
    there = set(Path("/tmp").glob("obverse-ray-*")) - before
    assert wait_for(lambda: not any(folder.exists() for folder in there), 90)
    assert len(pids(tmp_path)) == 2
    assert gone(tmp_path)


LOCAL = """
import os, signal, sys, threading
from pathlib import Path
from interp.execute import Executor, Unit, Workers, execute
from tests.interp.executing import EXPECTED, N, Job, start_jobs, wait_for

folder = Path(sys.argv[1])

def units(n, what=""):
    return [Unit(f"n{i}", Job(i, folder, what)) for i in range(n)]

def interrupt():
    wait_for(lambda: len(list(folder.glob("mark-*"))) == 2, 60)
    os.kill(os.getpid(), signal.SIGINT)

with Workers(Executor("ray", 2)) as workers:
    print("squares", dict(execute(units(N), start_jobs, workers)) == EXPECTED)
    import ray
    print("nodes", ray.nodes()[0]["NodeManagerAddress"])
    threading.Thread(target=interrupt).start()
    try:
        list(execute(units(4, "sleep"), start_jobs, workers))
    except KeyboardInterrupt:
        print("ended KeyboardInterrupt")
    print("connected", ray.is_initialized())
"""


def test_an_address_at_which_nothing_answers_is_told_of_at_once() -> None:
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ExecutionError, match=f"Nothing answers at '127.0.0.1:{port}'"):
        list(execute(executing.squares(), executing.start, Executor("ray", 2, f"127.0.0.1:{port}")))
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        # (workers, CPUs of each, GPUs of each)
        ([{"CPU": 2}], None, (2, 1, 0)),
        ([{"CPU": 16}], None, (8, 2, 0)),
        ([{"CPU": 8}, {"CPU": 8}], None, (16, 1, 0)),
        ([{"CPU": 8}, {"CPU": 8}], 1, (1, 8, 0)),
        ([{"CPU": 8}, {"CPU": 8}], 3, (3, 4, 0)),  # a third one of five would find no place
        ([{"CPU": 1}, {"CPU": 12}], 3, (3, 4, 0)),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 8}], None, (16, 8, 1)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 32}], 1, (1, 20, 1)),
    ],
)
def test_workers_share_the_machines_of_a_cluster(
    nodes: list[dict[str, float]], workers: int | None, expected: tuple[int, int, int]
) -> None:
    assert share_of_each(nodes, workers) == expected


@pytest.mark.parametrize(
    ("nodes", "message"),
    [([{"CPU": 4}], "has 4 CPUs for 5 workers"), ([{"CPU": 9, "GPU": 1}], "has 1 GPUs for 5")],
)
def test_more_workers_than_a_cluster_holds_are_refused(nodes: Any, message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        share_of_each(nodes, 5)
