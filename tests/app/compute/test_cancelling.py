"""A cancel is of the session that asked for it, also while what it cancels comes to an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import xarray as xr

from app.compute.background.jobs import Jobs
from app.compute.background.request import Request
from app.compute.engine import Engine, ModelSpec
from experiments.reporter import Progress
from interp.model.model import Model
from tests.app.conftest import loaded

LONG = 60.0


@pytest.mark.slow
def test_who_asks_while_a_cancelled_job_still_ends_has_one_of_their_own(spec: ModelSpec) -> None:
    """One long step goes on after the cancel; another session must not be told of it."""
    gate = threading.Event()

    def long_step(model: Model, tell: Progress) -> Iterator[xr.Dataset]:
        gate.wait(LONG)
        tell(1, 1)
        yield xr.Dataset(attrs={"stage": 2})

    here = Jobs(Engine(loaded, loaded).turns, lambda session: True)
    request = Request(spec, ("long step",), "One long step", long_step)
    try:
        cancelled = here.ask(request, "a")
        here.cancel(cancelled, "a")
        assert cancelled.running
        assert here.find(request) is None
        mine = here.ask(request, "b")
        assert mine is not cancelled
        assert mine.name != cancelled.name
    finally:
        gate.set()
    assert cancelled.work.wait(LONG).stopped
    ended = mine.work.wait(LONG)
    assert not ended.stopped
    assert ended.result is not None


@pytest.mark.slow
def test_buttons_of_jobs_are_told_apart_by_the_job_and_not_by_its_place(spec: ModelSpec) -> None:
    """A press that is on its way while another job ends would cancel the next one in the list."""
    gate = threading.Event()

    def held(model: Model, tell: Progress) -> Iterator[xr.Dataset]:
        while not gate.wait(0.01):
            yield xr.Dataset()

    here = Jobs(Engine(loaded, loaded).turns, lambda session: True)
    try:
        jobs = [here.ask(Request(spec, ("held", i), f"Held {i}", held), "a") for i in range(3)]
        before = [job.name for job in here.running()]
        here.cancel(jobs[0], "a")
        assert jobs[0].work.wait(LONG).stopped
        assert [job.name for job in here.running()] == before[1:]
        assert len(set(before)) == 3
    finally:
        gate.set()
