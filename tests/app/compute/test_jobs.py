"""Jobs: shared between sessions, stopped when nobody waits, bounded, and kept with the run."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from app.compute.background import jobs, requests
from app.compute.background.jobs import Job, Jobs
from app.compute.background.request import Form, Request
from app.compute.background.shelf import asked_of
from app.compute.engine import Engine, ModelSpec
from app.compute.pairs import build, typed
from app.compute.refining import Refined
from experiments.reporter import Progress
from experiments.run_directory import begun, explored
from interp import load_model, sweep
from interp.model.model import Model
from tests.interp.executing import wait_for

pytestmark = pytest.mark.slow

LONG = 60.0
PAIRS = [
    typed(f"{a}'s mother is", f"{b}'s mother is", "Mary", "Bea")
    for a, b in [("Tom Cruise", "Cy Dale"), ("Dan Frost", "Finn Grove"), ("Hal Iris", "Cy Dale")]
]


@pytest.fixture
def gone() -> set[str]:
    """Sessions that are not there any more."""
    return set()


@pytest.fixture
def here(fresh: Engine, gone: set[str]) -> Jobs:
    return Jobs(fresh.turns, lambda session: session not in gone)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Work made by `held` goes on when it is set."""
    gate = threading.Event()
    yield gate
    gate.set()


def held(
    spec: ModelSpec, gate: threading.Event, number: int = 0, form: bool = False
) -> Request[xr.Dataset]:
    def work(model: Model, tell: Progress) -> Iterator[xr.Dataset]:
        tell(1, 4)
        yield xr.Dataset(attrs={"stage": 1})
        while not gate.wait(0.01):
            tell(2, 4)
            yield xr.Dataset(attrs={"stage": 1})  # others get their turn
        yield xr.Dataset({"x": ("n", [1.0, 2.0])}, attrs={"stage": 2})

    plain: Form[xr.Dataset] = Form(lambda result: result, lambda stored, model: stored, "")
    key = ("held", number)
    return Request(spec, key, f"Held {number}", work, form=plain if form else None)


def ended(job: Job[xr.Dataset]) -> str:
    stand = job.work.wait(LONG)
    assert not stand.running
    return "stopped" if stand.stopped else stand.error or "whole"


def test_sessions_that_ask_the_same_share_one_job(
    here: Jobs, spec: ModelSpec, gate: threading.Event
) -> None:
    first, second = (here.ask(held(spec, gate), who) for who in ("a", "b"))
    assert first is second
    assert here.ask(held(spec, gate, 1), "a") is not first
    assert here.find(held(spec, gate)) is first
    gate.set()
    assert ended(first) == "whole"
    assert here.ask(held(spec, gate), "c") is first  # what is there is not done again


def test_cancel_by_one_does_not_take_it_away_from_another(
    here: Jobs, spec: ModelSpec, gate: threading.Event, gone: set[str]
) -> None:
    job = here.ask(held(spec, gate), "a")
    here.ask(held(spec, gate), "b")
    assert not here.mine(job, "c")
    here.cancel(job, "a")
    assert job.running
    gate.set()
    assert ended(job) == "whole"
    gate.clear()
    job = here.ask(held(spec, gate, 1), "before the reload")
    gone.add("before the reload")
    assert here.mine(job, "c")  # nobody who is there waits
    here.ask(held(spec, gate, 1), "after the reload")
    assert not here.mine(job, "c")
    here.cancel(job, "after the reload")
    assert ended(job) == "stopped"
    assert here.find(held(spec, gate, 1)) is None
    assert here.ask(held(spec, gate, 1), "b") is not job


def test_who_goes_elsewhere_goes_on_waiting_for_what_is_long(
    here: Jobs, spec: ModelSpec, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = here.ask(held(spec, gate), "a")
    here.leave(short, "a")
    assert ended(short) == "stopped"
    long = here.ask(held(spec, gate, 1), "a")
    monkeypatch.setattr(jobs, "LONG", 0.0)
    here.leave(long, "a")
    assert here.mine(long, "a")
    gate.set()
    assert ended(long) == "whole"


def test_jobs_are_bounded(
    here: Jobs, spec: ModelSpec, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WAITED_FOR", 2)
    monkeypatch.setattr(jobs, "FINISHED", 3)
    started = [here.ask(held(spec, gate, i), "a") for i in range(4)]
    others = here.ask(held(spec, gate, 9), "b")
    assert [ended(job) for job in started[:2]] == ["stopped"] * 2
    assert all(job.running for job in [*started[2:], others])
    gate.set()
    dropped = weakref.ref(here.ask(held(spec, gate, 9), "a"))
    for i in range(10, 16):
        assert ended(here.ask(held(spec, gate, i), "a")) == "whole"
    here.ask(held(spec, gate, 20), "a")
    assert len(here.finished()) <= 4
    del started, others
    gc.collect()
    assert dropped() is None  # nothing else holds it, or its result


def test_a_model_goes_though_its_jobs_results_stay(model_folder: Path) -> None:
    models = [load_model(str(model_folder))]
    engine = Engine(lambda spec: models[0])
    here = Jobs(engine.turns, lambda session: True)
    job = here.ask(requests.patching(ModelSpec("any"), PAIRS[0], "z", run=True), "a")
    assert job.work.wait(LONG).result is not None
    left = weakref.ref(models.pop())
    gc.collect()
    assert left() is None
    assert here.finished() == [job]


def test_four_at_once_get_the_numbers_of_one_after_the_other(
    here: Jobs, spec: ModelSpec, fresh: Engine
) -> None:
    """Jobs of the same and of other things, beside what is computed at once."""
    model = load_model(spec.source)
    expected = {
        (pair, site): sweep(model, build(model, [pair]), site)["patched"].values
        for pair in PAIRS
        for site in ("z",)
    }
    prompts = [pair.clean for pair in PAIRS]
    lenses = {prompt: fresh.lens(spec, prompt, None)["top_prob"].values for prompt in prompts}
    start = threading.Barrier(4)

    def user(number: int) -> None:
        start.wait(timeout=LONG)
        asked = list(expected)[number:] + list(expected)[:number]
        for at, (pair, site) in enumerate(asked):
            job = here.ask(requests.patching(spec, pair, site, run=True), f"user {number}")
            lens = fresh.lens(spec, prompts[at % 3], " Mary" if number % 2 else None)
            np.testing.assert_allclose(lens["top_prob"], lenses[prompts[at % 3]], atol=1e-6)
            if (at + number) % 5 == 4:
                here.cancel(job, f"user {number}")  # takes it from nobody else
                continue
            end = job.work.wait(LONG)
            assert isinstance(end.result, Refined)
            assert end.error is None
            np.testing.assert_allclose(
                end.result.result["patched"], expected[pair, site], atol=1e-5
            )

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(user, number) for number in range(4)]:
            one.result(timeout=LONG)
    assert len(here.finished()) + len(here.running()) <= len(expected)


def test_an_error_is_its_own_jobs_alone(here: Jobs, spec: ModelSpec, gate: threading.Event) -> None:
    def breaks(model: Model, tell: Progress) -> Iterator[xr.Dataset]:
        raise ZeroDivisionError
        yield

    wrong = here.ask(Request(spec, ("wrong",), "Wrong", breaks), "a")
    right = here.ask(held(spec, gate), "b")
    gate.set()
    assert "ZeroDivisionError" in ended(wrong)
    assert ended(right) == "whole"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(jobs, "KEPT_FROM", 0.0)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_interrupted_work_that_now_ends_at_once_is_not_told_any_more(
    here: Jobs, spec: ModelSpec, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "KEPT_FROM", LONG)
    request = requests.patching(spec, PAIRS[0], "z", run=True)
    asked = here.turns.compute(spec, ("asked",), lambda model: asked_of(request, model))
    (directory / "explored").mkdir()
    told = {"title": "A map", "link": {}, "created": "2026-01-01T00:00"}
    note = directory / "explored" / f"{asked.name}.begun"
    note.write_text(json.dumps(told))
    assert [one.name for one in begun.interrupted(directory)] == [asked.name]
    assert here.ask(request, "a", directory=directory).work.wait(LONG).result is not None
    assert begun.interrupted(directory) == []


def test_work_that_tells_nothing_while_it_goes_on_is_noted(
    here: Jobs, spec: ModelSpec, directory: Path, gate: threading.Event
) -> None:
    form = requests.patching(spec, PAIRS[0], "z", run=True).form

    def silent(model: Model, tell: Progress) -> Iterator[Any]:
        gate.wait(LONG)
        yield from ()

    request = Request(spec, ("patching", "silent"), "One long step", silent, form=form)
    job = here.ask(request, "a", directory=directory)
    folder = directory / "explored"
    assert wait_for(lambda: bool(list(folder.glob("*.begun"))), LONG)
    assert begun.interrupted(directory) == []  # it goes on
    gate.set()
    job.work.wait(LONG)
    assert list(folder.glob("*.begun")) == []


def test_a_result_lands_in_every_run_that_asked_and_is_read_after_a_restart(
    here: Jobs, fresh: Engine, spec: ModelSpec, directory: Path
) -> None:
    other = directory / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    request = requests.patching(spec, PAIRS[0], "z", run=True)
    job = here.ask(request, "a", directory=directory, link={"page": "examples"})
    first = job.work.wait(LONG).result
    assert first is not None
    assert job.kept_in == [directory]
    here.ask(request, "b", directory=other)  # when it is over
    assert [len(explored.list_all(one)[0]) for one in (directory, other)] == [1, 1]

    def computes(model: Model, tell: Progress) -> Iterator[Refined]:
        raise AssertionError("it is there already")
        yield

    later = Jobs(Engine(lambda spec: load_model(spec.source)).turns, lambda session: True)
    again = later.ask(
        Request(spec, request.key, request.title, computes, form=request.form),
        "a",
        directory=directory,
    )
    second = again.work.wait(LONG).result
    assert again.was_read
    assert second is not None
    xr.testing.assert_identical(second.result, first.result)
    xr.testing.assert_equal(second.estimate["patched"], first.estimate["patched"])
    assert not second.estimate["exact"].any()


def test_circuits_are_read_as_they_were_and_work_on_them_can_be_interrupted(
    here: Jobs, spec: ModelSpec, directory: Path
) -> None:
    """Others may take the model whenever this work tells how far it is: its lock is free then."""
    names = ("Tom Cruise", "Dan Frost", "Hal Iris", "Finn Grove", "Cy Dale", "Bea Stone")
    some = tuple(
        typed(f"{name}'s mother is", "Eva Lane's mother is", "Mary", "Bea") for name in names
    )
    scores = here.ask(requests.edges(spec, some[::2]), "a", directory=directory)
    found = scores.work.wait(LONG).result
    assert found is not None
    asked = requests.curve(spec, some, found)
    curve = here.ask(asked, "a", directory=directory).work.wait(LONG).result
    assert curve is not None
    model, free = load_model(spec.source), []

    def look(done: int, total: int) -> None:
        with ThreadPoolExecutor(1) as pool:
            free.append(pool.submit(_can_be_taken, model).result())

    (again,) = asked.work(model, look)
    assert again is not None
    xr.testing.assert_allclose(again, curve)
    list(scores.request.work(model, look))
    assert free
    assert all(free)
    later = Jobs(Engine(lambda spec: model).turns, lambda session: True)
    for request, wanted in ((asked, curve), (scores.request, found)):
        job = later.ask(request, "a", directory=directory)
        result = job.work.wait(LONG).result
        assert job.was_read, job.notes
        assert result is not None
        xr.testing.assert_identical(result, wanted)
        assert request.form is not None
        with pytest.raises(ValueError, match="fingerprint"):
            request.form.from_dataset(result.assign_attrs(fingerprint="0" * 32), model)
    assert asked.form is not None
    for name, what in (("random", "shares"), ("random_edges", "sizes"), ("complement", "shares")):
        with pytest.raises(ValueError, match=f"its {what} are not"):
            asked.form.from_dataset(curve.assign({name: curve[name].fillna(0) + 1}), model)


def _can_be_taken(model: Model) -> bool:
    if not model.lock.acquire(timeout=1.0):
        return False
    model.lock.release()
    return True


def test_what_was_cancelled_is_not_kept(
    here: Jobs, spec: ModelSpec, gate: threading.Event, directory: Path
) -> None:
    job = here.ask(held(spec, gate, form=True), "a", directory=directory)
    here.cancel(job, "a")
    assert ended(job) == "stopped"
    assert explored.list_all(directory) == ([], [])


def test_a_run_that_cannot_be_written_to_is_told_and_the_result_is_there(
    here: Jobs, spec: ModelSpec, directory: Path
) -> None:
    (directory / "explored").write_text("in the way")
    job = here.ask(requests.patching(spec, PAIRS[0], "z", run=True), "a", directory=directory)
    assert job.work.wait(LONG).result is not None
    assert job.kept_in == []
    assert any("is not a folder" in note for note in job.notes)


def test_what_was_replaced_while_it_was_asked_is_not_kept(
    here: Jobs, spec: ModelSpec, directory: Path
) -> None:
    """Of a request that is decided by files, these are looked at again when it is done."""
    there = ["old"]

    def work(model: Model, tell: Progress) -> Iterator[xr.Dataset]:
        there[0] = "new"
        yield xr.Dataset({"x": ("n", [1.0])})

    form: Form[xr.Dataset] = Form(lambda result: result, lambda stored, model: stored, "")
    asked = Request(spec, ("files", 1), "Files", work, form=form, content=lambda: [there[0]])
    job = here.ask(asked, "a", directory=directory)
    assert job.work.wait(LONG).result is not None
    assert explored.list_all(directory) == ([], [])
    assert "replaced while they were asked" in job.notes[0]
