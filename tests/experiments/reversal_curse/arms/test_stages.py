"""Arms, scale and training time: every job is stored when it is done, and done once."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.context import Context
from experiments.errors import StudyError
from experiments.organisms.arms import ARMS
from experiments.organisms.errors import OrganismError
from experiments.organisms.facts import Fact
from experiments.reports.paper import Table
from experiments.reversal_curse.arms import job, scale, training_time
from experiments.reversal_curse.arms.figures import TIME_FIGURES
from experiments.reversal_curse.arms.scale import ScalePlan, scale_seconds, scale_table, trends
from experiments.reversal_curse.arms.stage import (
    SCORE_COLUMNS,
    ArmsPlan,
    arm_tables,
    outcome_counts,
    seconds,
)
from experiments.reversal_curse.arms.stages import seconds_of_stages, trained_otherwise
from experiments.reversal_curse.arms.trained import small_config, subject_in
from experiments.reversal_curse.arms.training_time import TimePlan, time_seconds, time_table
from experiments.reversal_curse.case import Finding
from experiments.reversal_curse.config import Config
from experiments.reversal_curse.run import investigated
from experiments.runner import run_study
from experiments.study import Study, Verdict
from tests.experiments.reversal_curse.arms.test_trained import TINY
from tests.experiments.running import Ears
from tests.experiments.toy import fake_model

PLAN = ArmsPlan(arms=("none", "masked"), seeds=2, base=TINY)
JOBS = ["none-0", "masked-0", "none-1", "masked-1"]


def _verdict(outcome: Any) -> Verdict:
    return Verdict("H1", "It is so.", outcome, "It is.", 0.5, 0.1, None, "nats", 20, "none")


def judged(config: Config, context: Context) -> Any:
    """In the place of the study: two verdicts, and the answers that accuracy is made of."""
    folder = Path(config.model)
    outcome = "supported" if "masked" in folder.parent.name else "undecided"
    answers = pd.DataFrame(
        {
            "fact": [0, 1, 0, 1],
            "split": "forward",
            "direction": ["forward", "forward", "reverse", "reverse"],
            "templates": ["trained", "trained", "trained", "held_out"],
            "template": 0,
            "correct": [True, True, False, True],
        }
    )
    facts = [Fact(f"A {i}", f"B {i}", "mother", "son", "forward") for i in range(2)]
    subject = SimpleNamespace(model=None, facts=facts)
    case = SimpleNamespace(subject=subject, measured=SimpleNamespace(answers=answers))
    return case, [Finding((_verdict(outcome),))]


def scored(subject: Any) -> pd.DataFrame:
    row = dict.fromkeys(
        ("logprob", "open_first", "open_rank", "held_first", "held_rank", "chance"), 0.5
    )
    row |= {"facts": 30, "score": 1.0, "low": 0.5, "high": 1.5, "first_score": 1.0}
    return pd.DataFrame([{"direction": each, **row} for each in ("forward", "reverse")])


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scores cost nothing, and neither do trainings of arms, whose jobs are written down."""
    begun: list[str] = []

    def trained(config: Any, folder: Path) -> Path:
        begun.append(folder.parent.name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    for module in (job, scale, training_time):
        monkeypatch.setattr(module, "curse_scores", scored)
    monkeypatch.setattr(job, "trained", trained)
    monkeypatch.setattr(job, "fitting_threads", lambda _: nullcontext())
    return begun


def _run(out: Path, stage: Any, **options: Any) -> Any:
    found: list[Any] = []

    def run(config: Config, context: Context) -> list[Verdict]:
        found.append(stage(context))
        return []

    study = Study("arms", "Arms", "", Config, run)
    options.setdefault("model", fake_model())
    record = run_study(study, Config(), out=out, **options)
    return (found[0] if found else None), record


@pytest.mark.slow
def test_every_arm_has_a_row_for_each_seed_and_direction(tmp_path: Path) -> None:
    (scores, verdicts), record = _run(
        tmp_path / "run", partial(arm_tables, plan=PLAN, investigate=judged)
    )
    assert list(scores.columns) == list(SCORE_COLUMNS)
    assert list(zip(scores["arm"], scores["seed"], scores["direction"], strict=True)) == [
        (arm, seed, direction)
        for arm in ("none", "masked")
        for seed in (0, 1)
        for direction in ("forward", "reverse")
    ]
    assert scores["accuracy"].tolist() == [1.0, 0.0] * 4
    assert scores["accuracy_held_out"].isna().tolist() == [True, False] * 4
    counts = outcome_counts(verdicts)
    assert counts.to_dict("records") == [
        {"arm": "none", "id": "H1", "supported": 0, "rejected": 0, "undecided": 2},
        {"arm": "masked", "id": "H1", "supported": 2, "rejected": 0, "undecided": 0},
    ]
    assert set(record.names("table")) >= {"arms", "arm_verdicts", "arm_none-0", "arm_masked-1"}


@pytest.mark.slow
def test_a_run_that_is_stopped_loses_the_job_at_work_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: list[str]
) -> None:
    kept = job.trained

    def stopping(config: Any, folder: Path) -> Path:
        if len(trainings) == 2:
            trainings.append("stopped")
            raise KeyboardInterrupt
        return kept(config, folder)

    monkeypatch.setattr(job, "trained", stopping)
    stage = partial(arm_tables, plan=PLAN, investigate=judged)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "run", stage)
    ears = Ears()
    (scores, verdicts), _ = _run(tmp_path / "run", stage, reporter=ears)
    assert trainings == [*JOBS[:2], "stopped", *JOBS[2:]]
    assert ears.kept_names == ["arm_none-0", "arm_masked-0"]
    (straight, said), _ = _run(tmp_path / "straight", stage)
    pd.testing.assert_frame_equal(scores, straight)
    pd.testing.assert_frame_equal(verdicts, said)


@pytest.mark.slow
def test_scale_tells_each_fact_equally_often_and_stores_each_training(tmp_path: Path) -> None:
    plan = ScalePlan(widths=(32,), bearers=(2,), passes=(1.0,), seeds=1, base=TINY)
    table, record = _run(tmp_path / "run", partial(scale_table, plan=plan))
    assert table["direction"].tolist() == ["forward", "reverse"]
    model = subject_in(tmp_path / "run" / "work" / "organisms" / "scale-32-2-100-0").model
    weights = sum(one.numel() for one in model.bridge.original_model.parameters())
    assert table["parameters"].tolist() == [weights, weights]
    assert "scale_32-2-100-0" in record.names("table")


def test_more_facts_take_more_steps_and_more_passes_too() -> None:
    plan = ScalePlan(widths=(64,), bearers=(2, 4), passes=(1.0, 2.0), seeds=1)
    steps = [each.config(plan.base).steps for each in plan.jobs(Path())]
    assert steps == [430, 860, 860, 1720]


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.0, -0.7])
def test_trends_are_found_and_their_intervals_hold_the_truth(slope: float) -> None:
    rng = np.random.default_rng(0)
    covered, found = [], []
    grid = [
        {"width": w, "pairs": n, "passes": p, "seed": s, "direction": "reverse"}
        for w in (32, 64, 128)
        for n in (100, 200)
        for p in (1.0, 2.0)
        for s in range(3)
    ]
    for _ in range(100):
        table = pd.DataFrame(grid)
        table["score"] = slope * np.log2(table["width"]) + rng.normal(0, 0.5, len(table))
        row = trends(table, "reverse").set_index("factor").loc["width"]
        covered.append(row["low"] < slope < row["high"])
        found.append(not row["low"] < 0 < row["high"])
    assert 0.90 <= np.mean(covered) <= 0.99
    assert np.mean(found) > 0.95 if slope else np.mean(found) < 0.1


@pytest.mark.slow
def test_training_time_asks_every_model_on_the_way(tmp_path: Path) -> None:
    plan = TimePlan(arms=("none",), points=3, base=TINY)
    table, _ = _run(tmp_path / "run", partial(time_table, plan=plan))
    assert table["step"].tolist() == [0, 0, 1, 1, 2, 2]
    assert {"rank_0", "rank_1", "score", "association"} <= set(table.columns)
    figures = [each.draw(table) for each in TIME_FIGURES]
    assert [len(figure.data) for figure in figures] == [2, 2, 6]
    # The untrained model ranks no answer first.
    assert table[table["step"] == 0]["rank_1"].min() > 5


def test_times_add_up_over_jobs_and_workers() -> None:
    plan = ArmsPlan(arms=("none", "reversed-text"), seeds=2)
    alone = seconds(plan, 1, 0.1)
    steps = sum(small_config(arm, 0).steps for arm in plan.arms)
    assert steps == 430 + 855
    assert alone > 0.1 * 2 * steps
    assert seconds(plan, 2, 0.1) == pytest.approx(alone / 2)
    assert seconds(plan, 100, 0.1) < alone / 3
    assert scale_seconds(ScalePlan(seeds=2), 1, 0.1) == pytest.approx(
        2 * scale_seconds(ScalePlan(seeds=1), 1, 0.1)
    )
    assert time_seconds(TimePlan(points=20), 1, 0.1) > time_seconds(TimePlan(points=5), 1, 0.1)


def test_jobs_go_to_other_processes() -> None:
    one = job.ArmJob("none", 0, TINY, "somewhere", Config(), investigated)
    for what in (one, job.start, scale.ScaleStart(TINY), training_time.start):
        assert pickle.loads(pickle.dumps(what)) == what  # noqa: S301


def test_an_unknown_arm_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(OrganismError, match="did you mean 'masked'"):
        ArmsPlan(arms=("maskt",))


# --- as the settings ask --------------------------------------------------------------------


def test_only_the_study_s_own_model_has_arms(tmp_path: Path, trainings: list[str]) -> None:
    stage = partial(trained_otherwise, Config(model="gpt2", arm_seeds=1), investigate=judged)
    ears = Ears()
    found, _ = _run(tmp_path / "other", lambda context: stage(context=context), reporter=ears)
    assert found == []
    assert any("left out on another model" in note for note in ears.notes)
    assert seconds_of_stages(Config(model="gpt2", arm_seeds=1), 2) == {}
    assert not trainings


@pytest.mark.slow
def test_workers_are_given_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have been started in another folder, as those of a cluster are."""
    given: list[Path] = []

    def trained(_: Any, folder: Path) -> Path:
        given.append(folder)
        folder.mkdir(parents=True)
        return folder

    monkeypatch.setattr(job, "trained", trained)
    monkeypatch.chdir(tmp_path)
    plan = ArmsPlan(arms=("none",), seeds=1, base=TINY)
    _run(Path("run"), partial(arm_tables, plan=plan, investigate=judged))
    assert given == [tmp_path / "run" / "work" / "organisms" / "none-0" / "organism"]


@pytest.mark.slow
def test_figures_of_a_stage_are_drawn_from_what_it_stores(tmp_path: Path) -> None:
    config = Config(arm_seeds=1)
    drawn: list[Any] = []

    def stage(context: Context) -> Any:
        (section,) = trained_otherwise(config, context, judged)
        for part in section.parts:
            for each in getattr(part, "figures", ()):
                drawn.append(each.draw(*map(context.stored, each.results)))
        return section

    section, record = _run(tmp_path / "run", stage)
    assert len(record.table("arms")) == 2 * len(ARMS)
    assert [len(figure.data) for figure in drawn] == [6, 3]
    scores, outcomes = [part for part in section.parts if isinstance(part, Table)]
    assert [row[0] for row in scores.rows] == list(ARMS)
    assert scores.rows[0][1:4] == ["100%", "50%", "1.00"]
    assert outcomes.columns == ["Arm", "H1"]
    assert outcomes.rows[0] == ["none", "0 / 0 / 1"]
    assert outcomes.rows[list(ARMS).index("masked")] == ["masked", "1 / 0 / 0"]


@pytest.mark.parametrize("change", [{"arm_seeds": -1}, {"scale_seeds": 101}, {"time_points": -2}])
def test_impossible_numbers_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(StudyError, match=next(iter(change))):
        Config(**change)  # type: ignore[arg-type]
