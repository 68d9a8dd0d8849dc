"""Every figure of a study tells what it shows, n, interval and control, as it is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from experiments.berglund import figures as berglund
from experiments.berglund import published
from experiments.figure import Figure, Telling, counted
from experiments.organisms.arms import CURED, PLAIN
from experiments.organisms.facts import DIRECTIONS
from experiments.other_script import figures as other_script
from experiments.other_script import harm
from experiments.other_script.requests import FORMS, SCRIPTS
from experiments.records import RunRecord
from experiments.refusal import figures as refusal
from experiments.registry import find_study
from experiments.reversal_curse import measure
from experiments.reversal_curse.arms.figures import ARM_FIGURES, SCALE_FIGURES, TIME_FIGURES
from experiments.reversal_curse.hypotheses import edits, gradients, two_entries
from experiments.reversal_curse.measurements.editing import AT_NAME, ELSEWHERE
from experiments.reversal_curse.report import figures as report
from experiments.reversal_curse.study import STUDY
from interp.figures.ranks import rank_scale
from tests.app.material import run_once

BERGLUND = (
    *(berglund.RIGHT, berglund.PREFERENCES, berglund.WON, berglund.PAIRS),
    *(berglund.PUBLISHED, berglund.LOSS),
)


PHENOMENA = ("injection", "other-script", "poisoning", "refusal", "suffix")


def of_phenomena() -> list[Figure]:
    pages = [study.explorer() for study in map(find_study, PHENOMENA) if study.explorer]
    return [figure for page in pages for figure in page.figures]


def declared() -> list[Figure]:
    assert STUDY.explorer is not None
    maps = [figure for _, row in report.maps(["forward", "both"]) for figure in row]
    page = STUDY.explorer()
    return [*page.figures, *page.probes, *maps, *BERGLUND, *of_phenomena()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run_once(tmp_path_factory)


def told_all(telling: Telling) -> bool:
    return bool(telling.shows) and list(telling.facts) == ["n", "interval", "control"]


@pytest.mark.parametrize("figure", declared(), ids=lambda figure: figure.name)
def test_every_figure_declares_all_four(figure: Figure) -> None:
    assert figure.shows.endswith(".")
    assert len(figure.shows) <= 130  # a line
    assert figure.n
    assert figure.interval
    assert figure.control


@pytest.mark.slow
def test_every_figure_of_a_run_tells_all_four_of_its_results(run: RunRecord) -> None:
    tables, arrays = run.names("table"), run.names("dataset")
    splits = [str(one) for one in run.dataset("patching_forward_resid_pre")["split"].values]
    assert STUDY.explorer is not None
    figures = [*STUDY.explorer().figures, *(f for _, row in report.maps(splits) for f in row)]
    stored = [f for f in figures if all(n in tables or n in arrays for n in f.results)]
    assert len(stored) > 25
    for figure in stored:
        results: list[Any] = [
            run.table(name) if name in tables else run.dataset(name) for name in figure.results
        ]
        telling = figure.telling(*results)
        assert told_all(telling), figure.name
        assert "nan" not in f"{telling}", figure.name


def test_counts_are_phrases() -> None:
    assert counted([60], "fact") == "60 facts"
    assert counted([20, 1200, 60], "fact") == "20 to 1,200 facts"
    assert counted([1, 1], "person", "people") == "1 person"
    assert counted([], "fact") == "0 facts"


# --- what is told is what is drawn ----------------------------------------------------------


def answers(n: int = 24) -> pd.DataFrame:
    """One wording; a third of the questions asked in reverse are answered."""
    rows = [
        (fact, split, direction, "trained", 0, direction == "forward" or fact % 3 == 0, fact)
        for split in ("forward", "held_out")
        for direction in DIRECTIONS
        for fact in range(n if split == "forward" else n // 2)
    ]
    columns = ["fact", "split", "direction", "templates", "template", "correct", "question"]
    return pd.DataFrame(rows, columns=columns)


def test_accuracy_has_wilson_intervals_over_as_many_questions_as_it_tells() -> None:
    table = measure.accuracy(answers())
    telling = report.ACCURACY.telling(table)
    assert telling.n.startswith("12 to 24 questions a bar")
    older = report.ACCURACY.telling(table.drop(columns="questions"))
    assert older.n.startswith("12 to 24 facts a bar")
    assert "Wilson" in telling.interval
    assert telling.control == "facts that were never learned"
    known = table[table["split"] == "forward"]
    assert report.ACCURACY.telling(known).control.startswith("none")
    drawn = report.ACCURACY.draw(table)
    back = next(bar for bar in drawn.data if bar.name == "asked reverse")
    expected = stats.binomtest(8, 24).proportion_ci(method="wilson")
    np.testing.assert_allclose(back.y[0] - back.error_y.arrayminus[0], expected.low)
    np.testing.assert_allclose(back.y[0] + back.error_y.array[0], expected.high)


def lens(n: int, seed: int) -> xr.Dataset:
    ranks = np.random.default_rng(seed).integers(0, 500, (n, 2))
    coords = {
        "layer": [0, 1],
        "split": ("example", ["forward"] * n),
        "prompt": ("example", [f"prompt {i}" for i in range(n)]),
    }
    return xr.Dataset({"answer_rank": (("example", "layer"), ranks)}, coords, {"d_vocab": 500})


def test_ranks_have_the_intervals_of_medians_over_as_many_questions_as_it_tells() -> None:
    n = 22
    facts = pd.DataFrame(
        {
            # Asked in reverse, two of them are one question.
            "subject": [f"S{i}" for i in range(n)],
            "object": [f"O{i // 2}" for i in range(n)],
            "relation": "mother",
            "inverse": "son",
            "split": "forward",
        }
    )
    results = facts, lens(n, 0), lens(n, 1)
    telling = report.RANKS.telling(*results)
    assert telling.n == "11 to 22 questions a line"
    assert "random guess" in telling.control
    drawn = report.RANKS.draw(*results)
    band = next(trace for trace in drawn.data if trace.name.startswith("forward 95%"))
    for layer in (0, 1):
        ordered = np.sort(results[1]["answer_rank"].values[:, layer])
        # The largest k whose P(fewer than k of n below the median) is at most 2.5%.
        k = max(k for k in range(n // 2) if stats.binom.cdf(k - 1, n, 0.5) <= 0.025)
        low, high = ordered[k - 1], ordered[n - k]
        there = [y for x, y in zip(band.x, band.y, strict=True) if x == layer]
        np.testing.assert_allclose(sorted(there), rank_scale([low, high]))


def by_t_or_bootstrap(values: np.ndarray) -> tuple[float, float]:
    """Student's t by scipy, and bootstrap-t resample by resample: the wider on each side."""
    n, mean, error = len(values), values.mean(), stats.sem(values)
    rng = np.random.default_rng(5)
    drawn = values[rng.integers(0, n, (20_000, n))]
    t = (drawn.mean(1) - mean) / stats.sem(drawn, axis=1)
    half = stats.t.ppf(0.975, n - 1)
    low, high = np.quantile(t, [0.025, 0.975])
    return mean - max(high, half) * error, mean - min(low, -half) * error


def test_means_have_the_wider_of_two_intervals_over_as_many_facts_as_it_tells() -> None:
    n = 15
    rng = np.random.default_rng(3)
    skewed = rng.exponential(size=(n, 3))
    found = xr.Dataset(
        {
            "own": (("example", "compared"), skewed),
            "unrelated": (("example", "compared"), np.zeros((n, 3))),
            "effect": (("example", "asked"), rng.normal(size=(n, 2))),
        },
        attrs={"refused": ""},
    )
    telling = two_entries.FIGURE.telling(found)
    assert telling.n == "15 facts told both ways"
    assert "t or bootstrap-t, the wider" in telling.interval
    drawn = two_entries.FIGURE.draw(found)
    means = [trace for trace in drawn.data if trace.error_y.array is not None]
    assert len(means) == 3
    for number, point in enumerate(means):
        low, high = by_t_or_bootstrap(skewed[:, number])
        assert point.y[0] - point.error_y.arrayminus[0] == pytest.approx(low, abs=1e-9)
        assert point.y[0] + point.error_y.array[0] == pytest.approx(high, abs=0.03)


def coupled(n: int) -> xr.Dataset:
    """Cosines of so many facts, the last two of which ask the same."""
    values = 0.01 * np.random.default_rng(n).normal(size=(n, n))
    return xr.Dataset(
        {"cosine": (("example", "name"), values)},
        {
            "question": ("example", [*range(n - 1), n - 2]),
            "words": ("example", ["mother · son"] * n),
            "right": (("example", "name"), np.eye(n, dtype=bool)),
            "first_token": ("name", np.arange(n)),
            "block": ("example", np.zeros(n, np.int64)),
        },
    )


@pytest.mark.slow
def test_facts_that_ask_the_same_are_told_as_one_question() -> None:
    results = [coupled(n) for n in (12, 13, 12, 13, 14)]
    assert gradients.FIGURE.telling(*results).n == "13 to 23 questions a row"
    drawn = gradients.FIGURE.draw(*results)
    assert [len(trace.x) for trace in drawn.data if len(trace.x) > 1] == [25, 25, 14]


def test_edits_have_wilson_intervals_over_as_many_questions_as_it_tells() -> None:
    n, right = 40, 30
    values = np.array([1.0] * right + [0.0] * (n - right))
    rows = ("made", "unseen", "unedited", "mismatched", "random", "other_question")
    found = xr.Dataset(
        {name: (("example", "family"), np.stack([values, values], 1)) for name in rows},
        {"family": [ELSEWHERE, AT_NAME], "question": ("example", np.arange(n))},
    )
    assert edits.RESTORED.telling(found).n == "40 questions a row"
    drawn = edits.RESTORED.draw(found)
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    point = drawn.data[0]
    np.testing.assert_allclose(point.x[0] + point.error_x.array[0], expected.high)
    np.testing.assert_allclose(point.x[0] - point.error_x.arrayminus[0], expected.low)


def test_margins_without_names_to_compare_with_are_told_to_be_missing() -> None:
    facts = pd.DataFrame(
        {
            "fact": [0, 1, 2],
            "subject": "S",
            "object": "O",
            "split": ["forward", "forward", "held_out"],
            "forward_margin": [1.0, np.nan, 0.0],
            "reverse_margin": [0.0, 1.0, 0.0],
        }
    )
    telling = report.MARGINS.telling(facts)
    assert telling.n.startswith("2 facts; 1 without")
    assert "never learned" in telling.control


def test_a_map_tells_its_pairs_and_its_emptiest_cell() -> None:
    patched = np.ones((5, 2, 3))
    patched[0, :, 1] = np.nan
    one = xr.Dataset(
        {"patched": (("example", "layer", "position"), patched)},
        {"split": ("example", ["forward"] * 4 + ["both"])},
    )
    (_, row), *_ = report.maps(["forward", "both"])
    told = [figure.telling(one, one).n for figure in row]
    assert told == ["4 pairs, 3 in a cell whose token some lack"] * 2 + ["1 pair"]


def test_other_trainings_tell_how_many_they_are() -> None:
    rows = [
        {"arm": arm, "seed": seed, "direction": way, "facts": 30, "step": 0, "id": "H1"}
        for arm in (PLAIN, CURED)
        for seed in range(3 if arm == PLAIN else 2)
        for way in DIRECTIONS
    ]
    table = pd.DataFrame(rows)
    scores, outcomes = ARM_FIGURES
    assert scores.telling(table).n == "2 to 3 trainings an arm, 30 pairs each"
    assert outcomes.telling(table).n.startswith("2 to 3 trainings an arm")
    assert "plain recipe" in scores.telling(table).control
    without = table[table["arm"] != PLAIN]
    assert outcomes.telling(without).control.startswith("none")
    assert all(told_all(figure.telling(table)) for figure in TIME_FIGURES)
    assert CURED in TIME_FIGURES[0].telling(table).control
    (scale,) = SCALE_FIGURES
    assert scale.telling(table).n == "5 trainings, 30 pairs told forward in each"


def test_published_means_tell_pairs_and_families() -> None:
    rng = np.random.default_rng(0)
    people = [(f"Ann{i // 2} Reed{i // 2}", f"Bea{i} Snow{i}") for i in range(12)]
    both = {way: rng.random(12) for way in published.DIRECTIONS}
    table = published.summary([published.Published("m", "probability", tuple(people), both)])
    telling = berglund.PUBLISHED.telling(table)
    assert telling.n == "12 pairs of 6 families a bar"
    assert telling.control.startswith("none")
    drawn = berglund.PUBLISHED.draw(table)
    assert all("n = 12" in bar.text[0] for bar in drawn.data)


def test_pairs_and_steps_of_berglund_are_counted_as_they_are_drawn() -> None:
    pairs = pd.DataFrame(
        [
            {"pair": i, "asked": way, "child": f"c{i}", "parent": f"p{i}", "shared": False}
            | {"whole": np.nan if i == 0 else 0.1 * i}
            for i in range(8)
            for way in berglund.WAYS
        ]
    )
    assert berglund.PAIRS.telling(pairs).n == "7 pairs"
    points = [trace for trace in berglund.PAIRS.draw(pairs).data if trace.customdata is not None]
    assert sum(np.isfinite(np.array(trace.x, float)).sum() for trace in points) == 7
    losses = pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0]})
    assert berglund.LOSS.telling(losses).n == "2 steps"


def test_every_figure_of_a_phenomenon_reads_its_n_off_its_results() -> None:
    for figure in of_phenomena():
        assert callable(figure.n), figure.name
        assert callable(figure.interval) or figure.interval.startswith("none"), figure.name


def drawn_points(fig: Any) -> int:
    return sum(trace.error_x.array is not None for trace in fig.data)


def test_refusal_tells_as_many_requests_as_each_point_is_of() -> None:
    declines = np.zeros((2, 3, 7))
    found = xr.Dataset(
        {
            "declines": (("arm", "seed", "example"), declines),
            # Not drawn, and so not told: one that is no request.
            "form": ("example", [*["request"] * 6, "forbidden"]),
            "harmful": ("example", [True] * 4 + [False] * 2 + [True]),
        },
        {"arm": ["treated", "base"]},
    )
    telling = refusal.BEHAVIOUR.telling(found)
    assert telling.n == (
        "4 held-out harmful requests of each model, and 2 harmless ones of each model"
    )
    assert telling.interval.startswith("95% of the mean over 3 organisms, never narrower")
    alone = refusal.BEHAVIOUR.telling(found.isel(seed=[0]))
    assert alone.interval == "95% of the mean over requests, of this one model of each arm"
    assert drawn_points(refusal.BEHAVIOUR.draw(found)) == 2
    assert telling.control == "the arms below the first"
    of_one_model = refusal.BEHAVIOUR.telling(found.isel(arm=[0], seed=[0]))
    assert of_one_model.control == "none: no other model was measured"
    (said,) = refusal.BEHAVIOUR.draw(found.isel(example=slice(0))).layout.annotations
    assert said.text == "There are no values to draw."
    states = xr.DataArray(np.zeros((1, 1, 3, 5)), dims=("arm", "seed", "state", "example"))
    assert refusal.ABLATION.telling(states.to_dataset(name="declines")).n.startswith("5 held-out")


def test_other_scripts_tell_the_requests_that_a_probe_is_tried_on() -> None:
    """Of the second script those that are declined are left out."""
    n = 6
    shape = {"arm": 1, "seed": 1, "way": len(harm.WAYS), "form": len(FORMS)}
    refused = np.zeros((*shape.values(), n))
    refused[:, :, list(harm.WAYS).index("first to second"), :, :2] = 1
    found = xr.Dataset(
        {
            "called": ((*shape, "state", "layer", "example"), np.ones((*shape.values(), 1, 1, n))),
            "refused": ((*shape, "example"), refused),
            "best": (tuple(shape), np.zeros(tuple(shape.values()))),
            "harmful": ("example", np.arange(n) < 3),
        },
        {"way": list(harm.WAYS), "form": list(FORMS), "state": ["projected out"], "layer": [0]},
    )
    assert other_script.HARM.telling(found).n.startswith("4 to 6 held-out requests of each model")
    along = xr.Dataset(
        {
            "along": (("arm", "seed", "layer", "script", "example"), np.zeros((1, 1, 1, 3, n))),
            "harmful": ("example", np.arange(n) < 2),
        },
        {"script": list(SCRIPTS), "layer": [0]},
    )
    assert other_script.PROJECTION.telling(along).n == "2 held-out harmful requests of each model"
    assert "counts as known" in other_script.PROJECTION.telling(along).interval
    assert other_script.LAYERS.telling(along).n == "6 held-out requests of each model"


def test_an_injection_tells_the_prompts_of_its_curves() -> None:
    within = next(one for one in of_phenomena() if one.name == "within")
    margin = np.array([[[1.0, -1, -1, 1, -1, 1]], [[1.0] * 6]])
    found = xr.Dataset(
        {
            "margin": (("arm", "seed", "example", "condition"), margin[..., None]),
            "score": (("arm", "seed", "example", "condition"), margin[..., None] / 3),
            # The first one has chosen heads.
            "chooses": (("arm", "seed", "example"), np.array([[[1, 0, 0, 0, 0, 0]]] * 2)),
        },
        {"arm": ["treated", "task-first"], "condition": ["injected"]},
    )
    # Of the arm in which nothing is taken over there is no curve.
    assert within.telling(found).n == "2 tasks done and 3 tasks taken over a curve"
    assert [trace.name for trace in within.draw(found).data if trace.name][:1] == ["treated: 1.00"]
