"""Two runs of one study beside each other: numbers, words, and the code beside figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import streamlit as st

from app.compute import comparing
from app.panels.comparing.runs import kinds_of, stored_alone
from app.text import two_snippets
from experiments.records import RunRecord
from experiments.two_runs import compare_accuracy, compare_verdicts
from interp.errors import SiteError
from interp.figures import contrast_map, patching_map, rank_lines
from interp.stats import (
    difference_intervals,
    mean_interval,
    mean_intervals,
    share_difference,
)
from tests.app.material import HOSTILE
from tests.app.mirror import N, install_mirror, mirrored
from tests.app.pages import Open, assert_fine, html
from tests.app.text.test_snippets import values

MAP = "patching_ask_resid_pre"
GROUP = ("kind", "all")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunRecord]]:
    """Runs that differ in one cell, in two prompts, in nine, and in depth."""
    folder = tmp_path_factory.mktemp("mirror")
    install_mirror(folder / "site-packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "site-packages"))
        st.cache_resource.clear()
        root = folder / "runs"
        yield {
            "plain": mirrored(root / "plain"),
            "more": mirrored(root / "more", 1, more=1.0, other=2),
            "new": mirrored(root / "new", 2, more=1.0, other=9),
            "deep": mirrored(root / "deep", 3, blocks=3),
        }
    st.cache_resource.clear()


def by_hand(record: RunRecord) -> tuple[list[str], np.ndarray]:
    """Prompts and changes [example, layer, position] of a run."""
    result = record.dataset(MAP)
    change = result["patched"].values - result["corrupt"].values[:, None, None]
    return result["clean_prompt"].values.tolist(), change


@pytest.mark.slow
def test_pairs_are_the_same_where_prompts_and_answers_are(runs: dict[str, RunRecord]) -> None:
    first, second = (runs[name].dataset(MAP) for name in ("plain", "more"))
    shuffled = second.isel(example=np.random.default_rng(0).permutation(N))
    found = comparing.matched(first, shuffled)
    assert (found.paired, found.shared, found.n) == (True, N - 2, (N, N))
    assert found.first["clean_prompt"].values.tolist() == [f"{HOSTILE} {i} is" for i in range(2, N)]
    assert found.second["item"].values.tolist() == found.first["item"].values.tolist()
    assert found.odd == ((f"{HOSTILE} 0 is", "that is"), ("new 0 is", "that is"))
    # An answer of another name makes it another question.
    answers = ["else", *first["answer"].values[1:]]
    other = first.assign_coords(answer=("example", answers))
    assert comparing.matched(first, other).shared == N - 1
    apart = comparing.matched(first, runs["new"].dataset(MAP))
    assert (apart.paired, apart.shared, apart.n) == (False, N - 9, (N, N))
    assert apart.first["item"].size == N
    with pytest.raises(SiteError, match="does not tell the 'foil'"):
        comparing.matched(first, second.drop_vars("foil"))


@pytest.mark.slow
def test_the_code_of_maps_makes_the_maps(runs: dict[str, RunRecord], run_code: Any) -> None:
    paths = runs["plain"].path, runs["more"].path
    code = two_snippets.stored_contrast(paths, MAP, GROUP, comparing.KEY)
    drawn = values(run_code(code))
    names, one = by_hand(runs["plain"])
    others, other = by_hand(runs["more"])
    rows = [(i, others.index(name)) for i, name in enumerate(names) if name in others]
    difference = np.stack([one[i] - other[j] for i, j in rows])
    low, high = mean_intervals(np.moveaxis(difference, 0, -1))
    expected = np.where((low > 0) | (high < 0), difference.mean(0), np.nan)
    np.testing.assert_allclose(drawn, expected)
    assert drawn[-1, -1] == pytest.approx(-1, abs=0.2)
    given = {"value": "change", "limit": 9.0}
    code = two_snippets.stored_map(paths, MAP, GROUP, comparing.KEY, "b", given)
    np.testing.assert_allclose(
        values(run_code(code)), other[[j for _, j in rows]].mean(0), atol=1e-9
    )


@pytest.mark.slow
def test_the_code_of_other_pairs_compares_means(runs: dict[str, RunRecord], run_code: Any) -> None:
    paths = runs["plain"].path, runs["new"].path
    drawn = values(run_code(two_snippets.stored_contrast(paths, MAP, GROUP, None)))
    one, other = (np.moveaxis(by_hand(runs[name])[1], 0, -1) for name in ("plain", "new"))
    low, high = difference_intervals(one, other)
    expected = np.where((low > 0) | (high < 0), one.mean(-1) - other.mean(-1), np.nan)
    np.testing.assert_allclose(drawn, expected)
    given = {"value": "change"}
    made = run_code(two_snippets.stored_map(paths, MAP, GROUP, None, "a", given))
    drawn = values(patching_map(runs["plain"].dataset(MAP), value="change"))
    np.testing.assert_allclose(values(made), drawn)


@pytest.mark.slow
def test_the_code_of_ranks_and_tables(
    runs: dict[str, RunRecord], run_code: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = runs["plain"], runs["more"]
    paths = one.path, other.path
    made = run_code(two_snippets.ranks(paths, "lens_ask", GROUP, 100))
    lenses = {"A": one.dataset("lens_ask"), "B": other.dataset("lens_ask")}
    assert made == rank_lines(lenses, chance=100)
    exec(two_snippets.verdicts(paths), {})
    assert capsys.readouterr().out.strip() == (
        compare_verdicts(one.verdicts, other.verdicts).to_string().strip()
    )
    exec(two_snippets.accuracy(paths, "items", ["ask"], "kind", {"ask": ""}), {})
    tables = one.table("items"), other.table("items")
    assert capsys.readouterr().out.strip() == (
        compare_accuracy(*tables, ["ask"], "kind").to_string().strip()
    )


@pytest.mark.slow
def test_accuracies_are_compared_on_the_same_examples(runs: dict[str, RunRecord]) -> None:
    first, second = runs["plain"].table("items"), runs["more"].table("items")
    shuffled = second.sample(frac=1, random_state=0)
    (row,) = compare_accuracy(first, shuffled, ["ask"], "kind").to_dict("records")
    # The first two have other prompts: 4 of 10 are right, and 8 of 10.
    assert (row["paired"], row["n_shared"], row["n_a"], row["n_b"]) == (True, 10, 10, 10)
    assert (row["right_a"], row["right_b"]) == (0.4, 0.8)
    assert row["difference"] == pytest.approx(-0.4)
    assert row["difference_low"] < -0.4 < row["difference_high"] < 0.1
    (row,) = compare_accuracy(first, runs["new"].table("items"), ["ask"], "kind").to_dict("records")
    assert (row["paired"], row["n_shared"], row["n_a"], row["n_b"]) == (False, 3, N, N)
    assert row["difference"] == pytest.approx(6 / 12 - 10 / 12)
    # What stands twice is taken twice, and not four times; it is no evidence of its own.
    twice = pd.concat([first, first])
    (row,) = compare_accuracy(twice, twice, ["ask"], "kind").to_dict("records")
    assert row["n_a"] == 2 * N
    assert row["difference"] == 0
    (alone,) = compare_accuracy(first, first, ["ask"], "kind").to_dict("records")
    # But for the quantile, which of few clusters is Student's.
    assert 1 <= (row["high_a"] - row["low_a"]) / (alone["high_a"] - alone["low_a"]) < 1.15


@pytest.mark.parametrize("other", [0, N])
def test_questions_on_one_thing_count_as_one(other: int) -> None:
    """Each thing is asked about in four wordings, and told apart by its name alone."""
    rng = np.random.default_rng(0)
    things = np.repeat(np.arange(N), 4)
    tables = []
    for shift in (0, other):
        asked = [f"{thing + shift} in words {i % 4}" for i, thing in enumerate(things)]
        right = np.repeat(rng.random(N) < 0.5, 4)
        names = [f"thing {thing + shift}" for thing in things]
        tables.append(
            pd.DataFrame(
                {"kind": "all", "ask_prompt": asked, "ask_answer": " so", "ask_correct": right}
            ).assign(thing=names)
        )
    (loose,) = compare_accuracy(*tables, ["ask"], "kind").to_dict("records")
    (row,) = compare_accuracy(*tables, ["ask"], "kind", {"ask": "thing"}).to_dict("records")
    assert row["paired"] is loose["paired"] is (other == 0)
    one, two = (table["ask_correct"].to_numpy(float) for table in tables)
    few, both = one[::4], two[::4]
    if row["paired"]:
        ends = mean_interval(one - two, things, bounds=(-1.0, 1.0))
    else:
        ends = share_difference(few, both, paired=False)
    width = row["difference_high"] - row["difference_low"]
    assert 0.99 <= width / (ends[1] - ends[0]) < 1.15
    # Four times as many that are not independent are no four times as much.
    assert width > 1.5 * (loose["difference_high"] - loose["difference_low"])


def test_kinds_and_results_of_one_run_alone_are_told() -> None:
    kinds, said = kinds_of(["x", "a_b", "x"], ["x", "<i>c"])
    assert kinds == ["x"]
    assert said.startswith("Only A has “a b”: B was asked nothing of the kind")
    assert "Only B has “<i>c”: A was asked" in said
    assert kinds_of(["x"], ["x"]) == (["x"], "")
    assert stored_alone(["p", "q"], ["p"]).startswith("Only A has stored q: B has not come")
    assert stored_alone([], [f"r{i}" for i in range(9)]).count("r") >= 6
    assert "and 3 more" in stored_alone([], [f"r{i}" for i in range(9)])


def test_verdicts_of_either_run_are_told(runs: dict[str, RunRecord]) -> None:
    one, other = runs["plain"].verdicts, runs["more"].verdicts
    found = compare_verdicts(one, ())
    assert found.loc[0, "outcome_a"] == "rejected"
    assert found.loc[0, "outcome_b"] is None
    assert compare_verdicts((), other).loc[0, "estimate_b"] == 1.0
    assert compare_verdicts((), ()).empty
    reworded = (type(one[0])(**{**vars(one[0]), "claim": "Less."}),)
    assert not compare_verdicts(one, reworded).loc[0, "same_claim"]


def root_of(runs: dict[str, RunRecord]) -> Path:
    return runs["plain"].path.parent


def drawn(page: Any) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]


@pytest.mark.slow
def test_the_page_of_two_runs(open_page: Open, runs: dict[str, RunRecord]) -> None:
    query = {"page": "compare", "a": "run=plain", "b": "run=more"}
    page = open_page(root_of(runs), query=query)
    assert_fine(page)
    said = html(page)
    assert "Rejected" in said
    assert "Supported" in said
    assert "≠" in said
    assert "<img" not in said
    assert "−40 points [" in said
    page = open_page(root_of(runs), query=query | {"shown": "patching"})
    assert_fine(page)
    said = html(page)
    assert "10 pairs have the same prompts and answers in both runs (of 12 in A" in said
    assert "<img" not in said
    assert "Same questions" in said
    a, b, difference = drawn(page)
    one, other = (next(t for t in fig["data"] if t["name"] == "values") for fig in (a, b))
    # One colour scale for both, and one of its own, with 0 in its middle, for the difference.
    assert (one["zmin"], one["zmax"]) == (other["zmin"], other["zmax"])
    own = next(t for t in difference["data"] if t["name"] == "values")
    assert own["zmin"] == -own["zmax"]
    assert own["zmax"] < one["zmax"]


@pytest.mark.slow
def test_other_depth_and_other_pairs_are_said(open_page: Open, runs: dict[str, RunRecord]) -> None:
    query = {"page": "compare", "a": "run=plain", "shown": "patching"}
    page = open_page(root_of(runs), query=query | {"b": "run=deep"})
    assert_fine(page)
    assert "A has 2 blocks and B 3" in html(page)
    assert len(drawn(page)) == 2
    page = open_page(root_of(runs), query=query | {"b": "run=new", "site": "z"})
    assert_fine(page)
    assert "too few to compare one by one" in html(page)
    assert len(drawn(page)) == 3
    page = open_page(root_of(runs), query=query | {"b": "run=new", "site": "mlp_out"})
    assert_fine(page)
    assert "A and B have not stored this." in html(page)
    page = open_page(root_of(runs), query=query | {"b": "run=../../etc"})
    assert "not here" in str(page.error[0].value)


def test_contrast_of_a_run_with_itself_is_none(runs: dict[str, RunRecord]) -> None:
    one = runs["plain"].dataset(MAP)
    found = comparing.matched(one, one)
    assert np.isnan(values(contrast_map(found.first, found.second))).all()
