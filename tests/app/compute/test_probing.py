"""Sweeps of probes in the background, against the library's own report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.compute import probing
from app.compute.background.jobs import Jobs
from app.compute.engine import Engine, ModelSpec
from app.compute.work import Work
from app.panels.probes.sweep import told
from experiments.errors import StudyError
from experiments.labelled import Labelled
from interp.errors import PromptError
from interp.prompts.tokens import tokenise
from probes import probe_report
from probes.controls.significance import difference_interval
from tests.app.conftest import loaded

NAMES = ("Tom Cruise", "Cy Dale", "Dan Frost", "Finn Grove", "Hal Iris")


def lines(end: str) -> str:
    return "\n".join(f"{a} {b}'s {end}" for a in NAMES for b in NAMES[:3])


def begin(engine: Engine, spec: ModelSpec, asked: Labelled, site: str) -> Work[probing.Swept]:
    return Jobs(engine.turns, bool).ask(probing.request(spec, asked, site), "me").work


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
