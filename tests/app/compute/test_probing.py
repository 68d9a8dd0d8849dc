"""Sweeps of probes in the background, against the library's own report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from app.compute import probing
from app.compute.background import jobs
from app.compute.background import probes as jobs_of_probes
from app.compute.background.jobs import Jobs
from app.compute.engine import Engine, ModelSpec
from app.compute.work import Work
from app.panels.probes.sweep import told
from experiments.errors import StudyError
from experiments.labelled import Labelled
from experiments.run_directory import explored
from interp.errors import PromptError
from interp.prompts.tokens import tokenise
from probes import probe_report
from probes.controls.significance import difference_interval, group_interval
from tests.app.conftest import loaded

NAMES = ("Tom Cruise", "Cy Dale", "Dan Frost", "Finn Grove", "Hal Iris")


def lines(end: str) -> str:
    return "\n".join(f"{a} {b}'s {end}" for a in NAMES for b in NAMES[:3])


def begin(engine: Engine, spec: ModelSpec, asked: Labelled, site: str) -> Work[probing.Swept]:
    return Jobs(engine.turns, bool).ask(jobs_of_probes.request(spec, asked, site), "me").work


@pytest.fixture(scope="module")
def asked() -> Labelled:
    return probing.typed(lines("mother is"), lines("son"), ("mothers", "sons"))[0]


@pytest.fixture(scope="module")
def swept(engine: Engine, spec: ModelSpec, asked: Labelled) -> probing.Swept:
    stand = begin(engine, spec, asked, "resid_pre").wait(60)
    assert stand.error is None
    assert stand.result is not None
    assert (stand.done, stand.total) == (6, 6)
    return stand.result


@pytest.mark.slow
def test_a_sweep_is_the_report_of_activations_that_hugging_face_gives(
    spec: ModelSpec, asked: Labelled, swept: probing.Swept
) -> None:
    model = loaded(spec)
    rows = []
    for prompt in asked.prompts:
        ids = torch.tensor([model.token_ids(prompt)])
        with torch.no_grad():
            hidden = model.bridge.original_model(ids, output_hidden_states=True).hidden_states
        rows.append(torch.stack([layer[0, -1] for layer in hidden[:-1]]))
    expected = probe_report(
        torch.stack(rows, 1), asked.labels, groups=asked.groups, types=asked.groups
    )
    assert swept.report is not None
    assert list(swept.report["site"].values) == ["resid_pre.0", "resid_post.0", "resid_post.1"]
    # Hugging Face's last one is normed.
    for name in ("accuracy", "accuracy_low", "control", "selectivity_high", "auroc"):
        np.testing.assert_allclose(swept.report[name][:2], expected[name], atol=1e-3, err_msg=name)
    np.testing.assert_array_equal(swept.report["fold"], expected["fold"])


@pytest.fixture
def kept(
    tmp_path: Path,
    fresh: Engine,
    spec: ModelSpec,
    asked: Labelled,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A run directory in which a report was kept."""
    monkeypatch.setattr(jobs, "KEPT_FROM", 0.0)
    (tmp_path / "config.json").write_text("{}")
    job = Jobs(fresh.turns, bool).ask(
        jobs_of_probes.request(spec, asked, "resid_pre"), "me", directory=tmp_path
    )
    assert job.work.wait(60).error is None
    assert job.kept_in == [tmp_path]
    return tmp_path


def read_again(spec: ModelSpec, asked: Labelled, directory: Path) -> tuple[bool, probing.Swept]:
    request = jobs_of_probes.request(spec, asked, "resid_pre")
    job = Jobs(Engine(loaded).turns, bool).ask(request, "me", directory=directory)
    stand = job.work.wait(60)
    assert stand.error is None
    assert stand.result is not None
    return job.was_read, stand.result


@pytest.mark.slow
def test_a_report_is_read_after_a_restart(
    spec: ModelSpec, asked: Labelled, swept: probing.Swept, kept: Path
) -> None:
    was_read, again = read_again(spec, asked, kept)
    assert was_read, again
    assert again.same == swept.same
    xr.testing.assert_equal(again.report, swept.report)
    xr.testing.assert_equal(again.words, swept.words)
    assert told(again, asked, "lines") == told(swept, asked, "lines")


def forged(report: xr.Dataset) -> Iterator[xr.Dataset]:
    """Reports in which somebody has changed something."""
    yield report.assign(accuracy=report["accuracy"] - 0.2)
    yield report.assign(p_corrected=report["p_corrected"] * 0 + 1e-3)
    yield report.assign(auroc=report["auroc"] - 0.1)
    yield report.assign(control_correct=report["control_correct"] * 0 + 2)
    yield report.assign_attrs(drift=1)
    yield report.assign_attrs(arrangements=20.0)
    yield report.assign_attrs(fingerprint="another")
    yield report.assign_coords(label=("example", report["label"].values[::-1]))
    yield report.drop_vars("null")
    yield report.isel(site=[0, 1])
    # All of it follows from other numbers: only the model can tell.
    right = report["correct"].copy()
    right[:, :5] = 1 - right[:, :5]
    groups = np.asarray(report["group"].values)
    low, high = group_interval(right.values, groups)
    apart = difference_interval(right.values, report["control_correct"].values, groups)
    yield report.assign(
        correct=right,
        accuracy=right.mean("example"),
        accuracy_low=("site", low),
        accuracy_high=("site", high),
        selectivity=(right - report["control_correct"]).mean("example"),
        selectivity_low=("site", apart[0]),
        selectivity_high=("site", apart[1]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", range(11))
def test_a_report_that_is_not_the_models_is_made_anew(
    number: int,
    spec: ModelSpec,
    asked: Labelled,
    swept: probing.Swept,
    kept: Path,
) -> None:
    (one,), _ = explored.list_all(kept)
    assert swept.report is not None
    explored.save(kept, one, list(forged(swept.report))[number])
    was_read, again = read_again(spec, asked, kept)
    assert not was_read
    xr.testing.assert_equal(again.report, swept.report)


@pytest.mark.slow
def test_words_are_judged_on_the_same_folds(asked: Labelled, swept: probing.Swept) -> None:
    assert swept.words is not None
    assert swept.report is not None
    np.testing.assert_array_equal(swept.words["fold"], swept.report["fold"])
    # One class has the word "son" and the other has not.
    assert swept.words["accuracy"].item() == 1.0
    beyond = probing.beyond_words(swept)
    right = swept.report["correct"].values
    low, high = difference_interval(right, np.ones_like(right), np.array(asked.groups))
    np.testing.assert_allclose(beyond, np.stack([low, high], 1))


def test_checks_fail_where_they_should(asked: Labelled, swept: probing.Swept) -> None:
    report = swept.report
    assert report is not None
    assert not told(swept, asked, "lines").wrong
    assert swept.same == 0.0
    assert probing.checked(report, asked).apart == ()
    twice = replace(asked, names=(("a",),) * len(asked))
    assert probing.checked(report, twice).apart == ("a",)
    leaking = report.assign(control_correct=report["control_correct"] * 0 + 1)
    assert len(probing.checked(leaking, asked).control) == 3
    unfinished = report.assign(gradient=report["gradient"] + 1)
    bad = replace(swept, report=unfinished, same=0.2)
    wrong = [check.name for check in told(bad, twice, "lines").wrong]
    assert wrong == ["No name in both halves", "No prompt twice", "Fits ended"]


@pytest.mark.slow
def test_prompts_that_the_model_cannot_tell_apart_are_counted(
    spec: ModelSpec, asked: Labelled
) -> None:
    spaced = tuple(f"Tom{' ' * (1 + i)}Cruise" for i in range(len(asked)))
    rows = [tuple(loaded(spec).token_ids(prompt)) for prompt in spaced]
    share = sum(rows.count(row) > 1 for row in rows) / len(rows)
    assert share > 0.5
    steps = probing.swept(
        loaded(spec), replace(asked, prompts=spaced), "resid_pre", lambda done, total: None
    )
    (found,) = {step.same for step in steps if step.words is not None}
    assert found == share


def test_a_sweep_can_be_stopped_between_two_layers(fresh: Engine, spec: ModelSpec) -> None:
    asked, _ = probing.typed(lines("mother is"), lines("son"), ("mothers", "sons"))
    steps = probing.swept(loaded(spec), asked, "resid_pre", lambda done, total: None)
    first = next(steps)
    assert first == probing.Swept()
    steps.close()
    work = begin(fresh, spec, asked, "mlp_out")
    work.stop()
    stand = work.wait(30)
    assert stand.stopped or stand.result is not None
    assert stand.error is None


def test_typed_lists_are_refused_in_a_sentence() -> None:
    some = lines("mother is")
    with pytest.raises(PromptError, match="stands in both lists"):
        probing.typed(some, some, ("a", "b"))
    for names in (("a", "a"), (" ", "b")):
        with pytest.raises(PromptError, match="Give the two classes names"):
            probing.typed(some, lines("son"), names)
    with pytest.raises(StudyError, match=r"different lines each.*‘b’ 1"):
        probing.typed(some, "one line", ("a", "b"))
    many = "\n".join(map(str, range(probing.MOST_LINES)))
    with pytest.raises(PromptError, match="at most 400"):
        probing.typed(some, many, ("a", "b"))
    again, repeated = probing.typed(some + "\n\n" + some, lines("son"), ("a", "b"))
    assert repeated == 15
    assert len(again) == 30


def test_the_token_that_is_read_is_the_prompts_own(spec: ModelSpec, asked: Labelled) -> None:
    batch = tokenise(loaded(spec), list(asked.prompts))
    assert asked.places(loaded(spec)) == [int(length) - 1 for length in batch.lengths]
