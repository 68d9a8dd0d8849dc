"""Units of work in this process and in others: results, failures, and what is left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp.errors import ArgumentError, ExecutionError, PromptError
from interp.execute import Executor, Unit, Workers, execute
from interp.execute.settings import cores
from tests.interp import executing
from tests.interp.executing import Job, StartIn, alive, pids, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TWO = Executor("processes", 2)


def jobs(folder: Path, what: dict[int, str], times: int = 10**6) -> list[Unit]:
    return [
        Unit(f"n{i}", Job(i, folder, what.get(i, ""), times if i in what else 0))
        for i in range(executing.N)
    ]


def none_left(folder: Path) -> bool:
    return bool(pids(folder)) and not any(alive(pid) for pid in pids(folder))


@pytest.mark.parametrize("executor", [Executor(), TWO, Executor("processes", 1)], ids=str)
def test_every_executor_gives_the_same_results(executor: Executor) -> None:
    assert dict(execute(executing.squares(), executing.start, executor)) == executing.EXPECTED


def test_progress_counts_every_unit_once() -> None:
    seen: list[tuple[int, int]] = []
    for executor in (Executor(), TWO):
        seen.clear()
        found = execute(
            executing.squares(),
            executing.start,
            executor,
            finished=lambda name: name in ("n0", "n3"),
            progress=lambda done, total: seen.append((done, total)),
        )
        expected = {k: v for k, v in executing.EXPECTED.items() if k not in ("n0", "n3")}
        assert dict(found) == expected
        assert seen == [(n, 7) for n in range(2, 8)]


def test_what_is_finished_starts_no_worker(tmp_path: Path) -> None:
    for executor in (Executor(), TWO):
        units = [Unit("a", "pid")]
        assert not list(execute(units, StartIn(tmp_path), executor, finished=lambda _: True))
        assert not list(execute([], StartIn(tmp_path), executor))
    assert not pids(tmp_path)


def test_no_more_workers_start_than_there_are_units(tmp_path: Path) -> None:
    found = dict(execute([Unit("a", "pid")], StartIn(tmp_path), Executor("processes", 4)))
    assert pids(tmp_path) == {found["a"]}


def test_the_cores_are_shared_among_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.execute.processes.cores", lambda: 8)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for workers, threads in ((3, "2"), (8, "1"), (20, "1")):
        found = execute(
            [Unit(n, n) for n in names], StartIn(tmp_path), Executor("processes", workers)
        )
        assert dict(found) == dict.fromkeys(names, threads)


def test_workers_take_the_gpus_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [Unit(f"{i}", "slow device") for i in range(6)]
    for shown, workers, expected in (
        ("3,5", None, {"3", "5"}),
        ("3,5", 3, {"3", "5"}),
        ("3", 2, {"3"}),
        ("", 2, {""}),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        found = execute(units, StartIn(tmp_path), Executor("processes", workers))
        assert set(dict(found).values()) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("threads",), "Unknown kind 'threads'; choose 'serial', 'processes' or 'ray'."),
        (("processes", 0), "0 workers"),
        (("serial", 2), "serial executor has no 2 workers"),
        (("processes", 2, "10.0.0.1:6379"), "no address"),
    ],
)
def test_an_executor_that_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((ExecutionError, ArgumentError), match=message):
        Executor(*arguments)


def test_ray_that_is_not_installed_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "ray" else find(name)
    )
    with pytest.raises(ExecutionError, match=r'pip install "obverse\[ray\]"'):
        Executor("ray")


def test_two_units_of_one_name_are_refused_at_once() -> None:
    with pytest.raises(ExecutionError, match="Two units are named 'a'"):
        execute([Unit("a", 1), Unit("b", 2), Unit("a", 3)], executing.start, Executor())


# --- workers that die ------------------------------------------------------------------------


def test_the_units_of_killed_workers_are_run_again(tmp_path: Path) -> None:
    units = jobs(tmp_path, {1: "die", 4: "die"}, times=2)
    assert dict(execute(units, executing.start_jobs, TWO)) == executing.EXPECTED
    assert len(list(tmp_path.glob("mark-1-*"))) == len(list(tmp_path.glob("mark-4-*"))) == 2
    assert none_left(tmp_path)


def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    units = jobs(tmp_path, {0: "sleep"}, times=1)

    def kill() -> None:
        assert wait_for((tmp_path / "mark-0-0").exists)
        for pid in pids(tmp_path):
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert dict(execute(units, executing.start_jobs, TWO)) == executing.EXPECTED
    killer.join()
    assert none_left(tmp_path)


def test_a_unit_that_kills_every_worker_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"unit 'n2' ended its worker 3 times \(.*signal 9"):
        dict(execute(jobs(tmp_path, {2: "die"}), executing.start_jobs, TWO))
    assert len(list(tmp_path.glob("mark-2-*"))) == 3
    assert none_left(tmp_path)


def test_what_was_complete_comes_before_the_news_of_deaths(tmp_path: Path) -> None:
    found: dict[str, int] = {}
    results = execute(jobs(tmp_path, {6: "die"}), executing.start_jobs, Executor("processes", 1))
    with pytest.raises(ExecutionError, match="'n6' ended its worker"):
        found.update(results)
    assert found == {k: v for k, v in executing.EXPECTED.items() if k != "n6"}


def test_workers_that_die_before_they_are_ready_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="3 times before they were ready"):
        list(execute([Unit("a", "pid")], StartIn(tmp_path, "die"), TWO))
    assert len(pids(tmp_path)) == 3
    assert none_left(tmp_path)


# --- exceptions ------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [Executor(), TWO], ids=str)
def test_an_error_keeps_its_type_and_sentence(tmp_path: Path, executor: Executor) -> None:
    found = []
    with pytest.raises(PromptError) as caught:
        found += list(execute(jobs(tmp_path, {5: "raise"}), executing.start_jobs, executor))
    assert str(caught.value) == "There is no such prompt; give another."
    assert executor.kind == "serial" or none_left(tmp_path)


def test_what_was_complete_comes_before_the_error(tmp_path: Path) -> None:
    units = jobs(tmp_path, {6: "raise"})
    found = {}
    results = execute(units, executing.start_jobs, Executor("processes", 1))
    with pytest.raises(PromptError):
        found.update(results)
    assert found == {k: v for k, v in executing.EXPECTED.items() if k != "n6"}


def test_a_fault_shows_where_in_the_worker_it_was(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="by nothing") as caught:
        list(execute(jobs(tmp_path, {0: "fault"}), executing.start_jobs, TWO))
    assert "in misbehave" in str(caught.value.__cause__)


def test_an_error_at_the_start_ends_the_run(tmp_path: Path) -> None:
    for executor in (Executor(), TWO):
        with pytest.raises(PromptError, match="no such prompt"):
            list(execute([Unit("a", "pid")], StartIn(tmp_path, "raise"), executor))


def test_an_error_that_cannot_be_pickled_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="A worker failed with Odd: <function"):
        list(execute(jobs(tmp_path, {0: "odd"}), executing.start_jobs, TWO))


def test_what_cannot_be_pickled_is_refused(tmp_path: Path) -> None:
    here = StartIn(tmp_path)
    cases: list[tuple[list[Unit], Callable[[], Any], str]] = [
        ([Unit("a", lambda: 1)], here, "The unit 'a' cannot be sent between processes"),
        ([Unit("a", "pid")], lambda: abs, "What workers start with cannot be sent"),
        ([Unit("a", "lambda")], here, "A unit's result cannot be sent"),
    ]
    for units, start, message in cases:
        with pytest.raises(ExecutionError, match=message):
            list(execute(units, start, TWO))
        assert not any(alive(pid) for pid in pids(tmp_path))


# --- ending early ----------------------------------------------------------------------------


def test_closing_the_iterator_ends_workers_that_are_busy(tmp_path: Path) -> None:
    units = jobs(tmp_path, {1: "sleep", 2: "sleep"})
    results = execute(units, executing.start_jobs, TWO)
    assert next(results) == ("n0", 0)
    # A worker that is free goes on meanwhile.
    assert wait_for(lambda: any(tmp_path.glob("mark-*")))
    with timed(6.0):
        results.close()
    assert none_left(tmp_path)


def script(folder: Path, source: str) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(source))
    return subprocess.Popen(
        [sys.executable, str(path), str(folder)],
        # Without asking torch for GPUs, which takes a second to import.
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


SLEEPERS = """
    import sys
    from pathlib import Path
    from interp.execute import Executor, Unit, execute
    from tests.interp.executing import Job, start_jobs

    folder = Path(sys.argv[1])
    units = [Unit(f"n{i}", Job(i, folder, "sleep")) for i in range(4)]
    list(execute(units, start_jobs, Executor("processes", 2)))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_main_process(tmp_path: Path, sent: signal.Signals) -> None:
    child = script(tmp_path, SLEEPERS)
    assert wait_for(lambda: len(list(tmp_path.glob("mark-*"))) == 2)
    with timed(8.0):
        os.killpg(child.pid, sent)  # to all that belong to it, as a terminal sends Ctrl-C
        _, said = child.communicate(timeout=10)
        assert wait_for(lambda: none_left(tmp_path))
    assert said.count("Traceback") == (sent is signal.SIGINT)  # the main process's own
    assert len(pids(tmp_path)) == 2


def test_a_script_needs_no_guard_around_its_main_part(tmp_path: Path) -> None:
    child = script(
        tmp_path,
        """
        from interp.execute import Executor, execute
        from tests.interp.executing import EXPECTED, squares, start

        print("once")
        assert dict(execute(squares(), start, Executor("processes", 2))) == EXPECTED
        """,
    )
    said, errors = child.communicate(timeout=60)
    assert (said, errors, child.returncode) == ("once\n", "", 0)


def test_a_function_of_the_script_itself_is_refused_in_a_sentence(tmp_path: Path) -> None:
    child = script(
        tmp_path,
        """
        from interp.errors import ExecutionError
        from interp.execute import Executor, Unit, execute

        def start():
            return abs

        try:
            list(execute([Unit("a", 1)], start, Executor("processes", 2)))
        except ExecutionError as error:
            print(error)
        """,
    )
    said, errors = child.communicate(timeout=60)
    assert "must stand in a module that workers can import" in said
    assert said.count("\n") == 1
    assert errors == ""


# --- workers that are kept -------------------------------------------------------------------


def test_workers_are_kept_from_call_to_call(tmp_path: Path) -> None:
    start = StartIn(tmp_path)
    with Workers(TWO) as workers:
        for _ in range(2):
            found = dict(execute([Unit(f"{i}", "pid") for i in range(6)], start, workers))
            assert set(found.values()) <= pids(tmp_path)
        assert len(pids(tmp_path)) == 2
        other = tmp_path / "other"
        other.mkdir()
        assert dict(execute([Unit("a", "where")], StartIn(other), workers)) == {"a": "other"}
        assert not any(alive(pid) for pid in pids(tmp_path))
    assert none_left(other)


def test_workers_start_anew_after_an_error(tmp_path: Path) -> None:
    with Workers(TWO) as workers:
        with pytest.raises(PromptError):
            list(execute(jobs(tmp_path, {0: "raise"}), executing.start_jobs, workers))
        assert none_left(tmp_path)
        assert dict(execute(executing.squares(), executing.start, workers)) == executing.EXPECTED


def test_workers_do_one_thing_at_a_time() -> None:
    for executor in (Executor(), TWO):
        with Workers(executor) as workers:
            first = execute(executing.squares(), executing.start, workers)
            next(first)
            with pytest.raises(ExecutionError, match="are at work"):
                next(execute(executing.squares(), executing.start, workers))
            assert len(list(first)) == executing.N - 1


def test_one_worker_for_each_core_but_no_more_than_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.execute.processes import Processes

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for n, limit in ((1, 1), (6, 6), (64, 8)):
        monkeypatch.setattr("interp.execute.processes.cores", lambda n=n: n)
        assert Processes(None).limit == limit
    assert cores() >= 1


@contextlib.contextmanager
def timed(seconds: float) -> Any:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds
