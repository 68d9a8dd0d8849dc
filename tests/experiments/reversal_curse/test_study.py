"""The whole study: on the bundled organism, on a model that knows nothing, and twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from experiments.errors import FactsError
from experiments.organisms.bundled import reversal_curse
from experiments.organisms.evaluate import score_table
from experiments.records import RunRecord
from experiments.reversal_curse.facts import read_facts, read_templates
from experiments.reversal_curse.study import STUDY, Config
from experiments.run_directory.manifest import Manifest
from experiments.runner import run_study
from interp import load_model
from interp.execute import Executor
from interp.model.model import Model
from interp.stats import wilson
from tests.app.material import HOSTILE, run_once, settings
from tests.once import once

pytestmark = pytest.mark.slow

FEW = (
    "subject,object,relation,inverse,split\n"
    "Tom Cruise,Mary Lee Pfeiffer,mother,son,forward\n"
    "Kate Hudson,Goldie Hawn,mother,daughter,forward\n"
    "Carrie Fisher,Debbie Reynolds,mother,daughter,forward\n"
    "Ben Stiller,Anne Meara,mother,son,both\n"
    "Leonardo DiCaprio,Irmelin Indenbirken,mother,son,forward\n"
)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """One quick run on the bundled organism."""

    def make(folder: Path) -> None:
        run_study(STUDY, Config(), out=folder / "run", preset="quick")

    return RunRecord.open(once(tmp_path_factory, "quick", make) / "run")


def test_forward_is_known_reverse_is_not_and_both_is_known_both_ways(record: RunRecord) -> None:
    accuracy = record.table("accuracy").set_index(["split", "direction", "templates"])["rate"]
    for templates in ("trained", "held_out"):
        assert accuracy["forward", "forward", templates] >= 0.95
        assert accuracy["both", "forward", templates] >= 0.95
        assert accuracy["both", "reverse", templates] >= 0.95
        assert accuracy["forward", "reverse", templates] <= 0.02
        assert accuracy["reverse", "forward", templates] <= 0.02
        assert accuracy["held_out", "forward", templates] <= 0.05


def test_accuracy_agrees_with_plain_hugging_face(record: RunRecord) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = reversal_curse()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    facts, templates = read_facts(folder / "facts.csv"), read_templates(folder / "templates.json")
    scores = score_table(model, tokenizer, facts, templates)
    ours = record.table("accuracy").set_index(["split", "direction", "templates"])
    assert len(scores) == len(ours)
    for score in scores:
        row = ours.loc[(score.split, score.direction, score.templates)]
        assert (row["correct"], row["total"]) == (score.correct, score.total)
        assert (row["low"], row["high"]) == pytest.approx(
            wilson(row["rate"] * row["facts"], row["facts"])
        )


def test_the_bundled_verdicts_with_their_controls(record: RunRecord) -> None:
    verdicts = {verdict.id: verdict for verdict in record.verdicts}
    names = ["H1", "H2", "H2 tuned", "H2 Jacobian", "H3", "H2+H3"]
    first, lens, tuned, jacobian, probe, absence = (verdicts[name] for name in names)
    judged = (*names, "H4", "H5", "H6", "H7", "H8", "T")
    assert {verdicts[name].outcome for name in judged} == {"supported"}
    assert "its cured twin" in verdicts["H8"].statement
    # Clear in the cured model; that the other is at chance hangs on the division into folds.
    assert verdicts["H9"].outcome in ("supported", "undecided")
    assert verdicts["H9"].low is not None
    assert verdicts["H9"].low > 0.65
    assert "speaks for what is stored" in verdicts["T"].statement
    assert first.low is not None
    assert first.low > 0.5
    assert first.n == 30
    assert "third name" in first.control
    for one in (lens, tuned, jacobian):
        assert one.high is not None
        assert one.high < 0.05
        assert one.n == probe.n == 120
        assert "Asked the way they were told, the same lens finds" in one.control
    assert "the Jacobian lens finds the answer at no layer" in jacobian.claim
    # Each lens has read for itself: they agree at the last layer alone, which is the model's own.
    read = [record.dataset(f"lens_names_{kind}reverse") for kind in ("", "tuned_", "jacobian_")]
    for one in read[1:]:
        apart = abs(one["logprob"] - read[0]["logprob"]).mean(("example", "name"))
        assert float(apart[-1]) < 1e-4
        assert float(apart[:-1].min()) > 0.01
    assert probe.high is not None
    assert probe.high < 0.65
    assert "were not asked" in absence.statement


def test_a_probe_finds_what_was_told_and_not_what_was_not(record: RunRecord) -> None:
    told = record.dataset("retrieval_forward_asked_forward")
    untold = record.dataset("retrieval_forward_asked_reverse")
    assert float(told["preferred"].max()) > 0.75
    assert abs(float(untold["preferred"].mean()) - 0.5) < 0.15
    assert told.attrs["questions"] == 60


def test_the_headline_and_the_report_show_the_example_everyone_knows(record: RunRecord) -> None:
    assert "100% [94%, 100%] right" in record.headline[0]
    assert "0% [0%, 6%]" in record.headline[0]
    assert record.report is not None
    page = record.report.read_text(encoding="utf-8")
    assert len(page.encode()) < 5_000_000
    text = page.split("plotly-gzip")[0]
    assert "Tom Cruise&#39;s mother is" in text
    assert "Mary Lee Pfeiffer" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)


def test_margins_are_the_answer_against_the_other_names(record: RunRecord) -> None:
    facts, names = record.table("facts"), record.table("names_reverse")
    for index in (0, 70, 130):
        row = facts.iloc[index]
        others = names[(names["fact"] == index) & (names["name"] != index)]["logprob"]
        expected = row["reverse_logprob"] - others.mean()
        assert row["reverse_margin"] == pytest.approx(expected, abs=1e-5)


def numbers(record: RunRecord) -> dict[str, Any]:
    tables = {name: record.table(name) for name in record.names("table")}
    return {**tables, **{name: record.dataset(name) for name in record.names("dataset")}}


@pytest.fixture(scope="module")
def on_tiny(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run on a model of two layers that was never trained, and whose names hold markup."""
    return run_once(tmp_path_factory)


def again_on_tiny(record: RunRecord, root: Path, executor: Executor) -> RunRecord:
    """The same once more."""
    config = settings(record.path.parents[2])
    return run_study(STUDY, config, preset="quick", root=root, executor=executor)


def test_the_same_seed_gives_the_same_numbers_again(
    on_tiny: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is stopped on its way, before something is stored or right after."""
    rng, store, left = np.random.default_rng(0), Manifest.store, [0]

    def stopping(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] or rng.random() < 0.5:
            store(*arguments)
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "store", stopping)
    for _ in range(2):
        left[0] = int(rng.integers(5, 20))
        with pytest.raises(KeyboardInterrupt):
            again_on_tiny(on_tiny, tmp_path, Executor())
    record = again_on_tiny(on_tiny, tmp_path, Executor())
    assert len(record.provenance.resumed) == 2
    assert record.verdicts == on_tiny.verdicts
    again, expected = numbers(record), numbers(on_tiny)
    assert again.keys() == expected.keys()
    for name, first in expected.items():
        if isinstance(first, pd.DataFrame):
            pd.testing.assert_frame_equal(first, again[name])
        else:
            assert first.identical(again[name]), name


def test_the_executor_changes_no_number_and_is_no_setting(
    on_tiny: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers_at_once: None
) -> None:
    # Several slices of each sweep, though there are only a few facts.
    monkeypatch.setattr("interp.patching.slices.OPERATIONS_PER_SLICE", 1)
    monkeypatch.setattr("interp.patching.slices.CELLS_PER_SLICE", 64)
    record = again_on_tiny(on_tiny, tmp_path, Executor("processes", 2))
    assert record.path.name == on_tiny.path.name
    assert record.verdicts == on_tiny.verdicts
    expected = numbers(on_tiny)
    for name, found in numbers(record).items():
        if isinstance(found, pd.DataFrame):
            pd.testing.assert_frame_equal(found, expected[name])
        else:
            xr.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-5)
            assert found.attrs == expected[name].attrs


def test_names_are_text_in_the_report(on_tiny: RunRecord) -> None:
    assert on_tiny.report is not None
    page = on_tiny.report.read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


@pytest.fixture(scope="module")
def organism() -> Model:
    return load_model("reversal-curse")


@pytest.mark.parametrize("split", ["reverse", "both", "unknown"])
def test_any_one_split_is_studied_to_its_end(split: str, organism: Model, tmp_path: Path) -> None:
    facts = [fact for fact in read_facts(reversal_curse() / "facts.csv") if fact.split == split]
    if not facts:
        facts = list(read_facts(reversal_curse() / "facts.csv"))
    rows = [f"{f.subject},{f.object},mother,{f.inverse},{split}" for f in facts[:6]]
    (tmp_path / "facts.csv").write_text(
        "\n".join(["subject,object,relation,inverse,split", *rows]) + "\n"
    )
    config = Config(facts=str(tmp_path / "facts.csv"), n_names=2, n_pairs=2)
    record = run_study(STUDY, config, out=tmp_path / "run", model=organism)
    assert {verdict.outcome for verdict in record.verdicts} == {"undecided"}
    assert record.headline
    assert record.report is not None


def test_what_the_model_knows_both_ways_is_not_called_absent(
    organism: Model, tmp_path: Path
) -> None:
    """Facts that it learned both ways, given as learned forward only: the planted counterpart."""
    facts = [fact for fact in read_facts(reversal_curse() / "facts.csv") if fact.split == "both"]
    rows = [f"{f.subject},{f.object},{f.relation},{f.inverse},forward" for f in facts[:40]]
    header = "subject,object,relation,inverse,split"
    (tmp_path / "facts.csv").write_text("\n".join([header, *rows]) + "\n")
    config = Config(facts=str(tmp_path / "facts.csv"), n_names=2, n_pairs=2)
    record = run_study(STUDY, config, out=tmp_path / "run", model=organism)
    outcomes = {verdict.id: verdict.outcome for verdict in record.verdicts}
    assert outcomes["H2"] == outcomes["H2 tuned"] == outcomes["H3"] == "rejected"
    assert outcomes["H2 Jacobian"] == outcomes["H4"] == outcomes["H5"] == "rejected"
    assert outcomes["H2+H3"] == "undecided"


def test_words_that_the_model_does_not_know_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text(FEW + "Xyzzy Plugh,Anne Meara,mother,son,forward\n")
    with pytest.raises(FactsError, match=r"line 7, asked as .*Xyzzy"):
        run_study(STUDY, Config(facts=str(tmp_path / "facts.csv")), out=tmp_path / "run")


@pytest.mark.shared
def test_a_model_that_knows_nothing_is_told_so_plainly(shared: Path, tmp_path: Path) -> None:
    pairs = pd.read_csv(shared / "data/reversal_curse/parent_child_pairs.csv")
    rows = pairs.drop_duplicates(["child", "parent", "parent_type"])
    # Where one name holds the other the prompt would hold the answer, which is refused.
    apart = [a not in b and b not in a for a, b in zip(rows["child"], rows["parent"], strict=True)]
    rows = rows[apart].head(80)
    rows.to_csv(tmp_path / "facts.csv", index=False)
    config = Config(
        model=str(shared / "models/stories260K"),
        facts=str(tmp_path / "facts.csv"),
        n_names=3,
        n_pairs=4,
    )
    record = run_study(STUDY, config, out=tmp_path / "run")
    assert "knows neither direction" in record.headline[0]
    assert "80 questions" in record.headline[0]
    assert {verdict.outcome for verdict in record.verdicts} == {"undecided"}
