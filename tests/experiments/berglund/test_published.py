"""The published table: its figures, its intervals, and files that are not what they were."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.berglund.families import FEW_SHOT, families, in_prompt, share_word
from experiments.berglund.published import SUFFIX, read_published, summary
from experiments.errors import FactsError

# Parent given child, child given parent, in percent.
FIGURES = {
    "gpt-3.5-turbo": (34.8, 11.9),
    "davinci": (9.9, 4.4),
    "llama-7b": (8.0, 0.87),
    "llama-30b": (7.8, 0.26),
    "llama-65b": (8.1, 1.7),
}


@pytest.fixture
def results(shared: Path) -> Path:
    return shared / "data/reversal_curse"


@pytest.mark.slow
@pytest.mark.shared
def test_the_published_figures_come_out(results: Path) -> None:
    table = summary(read_published(results))
    assert set(table["model"]) == set(FIGURES)
    means = table[table["among"] == "all"].set_index(["model", "asked"])
    for model, figures in FIGURES.items():
        for asked, figure in zip(("parent", "child"), figures, strict=True):
            row = means.loc[(model, asked)]
            digits = 1 if figure >= 1 else 2
            assert round(100 * row["mean"], digits) == figure
            assert row["low"] < row["mean"] < row["high"]
            assert row["pairs"] == 1513
        assert means.loc[(model, "difference"), "low"] > 0
    assert (table["high"] - table["low"] > 0.9 * (table["pair_high"] - table["pair_low"])).all()


@pytest.mark.slow
@pytest.mark.shared
def test_intervals_agree_with_families_drawn_again_and_again(results: Path) -> None:
    """A percentile bootstrap over families, written out."""
    (davinci,) = [one for one in read_published(results) if one.model == "davinci"]
    values, which = davinci.probability["parent"], families(davinci.pairs)
    sums, counts = np.bincount(which, values), np.bincount(which)
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(sums), size=(4000, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    row = summary([davinci]).iloc[0]
    assert row["low"] == pytest.approx(low, abs=0.002)
    assert row["high"] == pytest.approx(high, abs=0.002)


@pytest.mark.slow
@pytest.mark.shared
def test_three_of_the_pairs_stand_in_the_prompt_and_most_share_a_word(results: Path) -> None:
    pairs = read_published(results)[0].pairs
    leaked = [pair for pair in pairs if in_prompt(*pair)]
    assert len(leaked) == 3
    assert all(child in FEW_SHOT and parent in FEW_SHOT for child, parent in leaked)
    shared = [pair for pair in pairs if share_word(*pair)]
    assert 0.7 < len(shared) / len(pairs) < 0.8


@pytest.mark.slow
@pytest.mark.shared
def test_the_code_of_the_page_runs(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[3] / "docs/berglund.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    (tmp_path / "berglund").symlink_to(results)
    monkeypatch.chdir(tmp_path)
    found: dict[str, pd.DataFrame] = {}
    exec(compile(code, "berglund.md", "exec"), found)
    assert len(found["kept"]) == 5
    text = page.read_text(encoding="utf-8")
    for row in found["table"][found["table"]["among"] == "all"].itertuples():
        line = next(line for line in text.splitlines() if line.startswith(f"| {row.model} |"))
        numbers = [float(cell) for cell in re.findall(r"\d+\.\d+", line.split("|", 2)[2])]
        at = {"parent": 0, "child": 3, "difference": 6}[row.asked]
        told = np.array(numbers[at : at + 3])
        np.testing.assert_allclose(told, 100 * np.array([row.mean, row.low, row.high]), atol=0.051)


def test_families_are_joined_through_others() -> None:
    pairs = [("a", "b"), ("a", "c"), ("d", "c"), ("e", "f"), ("b", "g"), ("H", "i"), ("h", "j")]
    assert families(pairs).tolist() == [0, 0, 0, 1, 0, 2, 2]
    assert families([]).tolist() == []


@pytest.mark.parametrize(
    ("one", "other", "shares"),
    [
        ("Kate Mara", "Timothy Christopher Mara", True),
        ("Tim Roth", "Timothy Smith", False),  # "Tim" is too short to be told from a chance
        ("Aaron Taylor-Johnson", "Sarah Johnson", True),
        ("Robert Downey Jr.", "Bea Frost Jr.", False),
        ("Jo Li", "Ann Li", False),
        ("Samuel Wright", "Sam Wrighton", True),
        ("Golshifteh Farahani", "Fahimeh Rahim Nia", False),
        ("Penélope Cruz", "Eduardo Cruz", True),
    ],
)
def test_a_shared_word_is_a_whole_one_or_the_beginning_of_one(
    one: str, other: str, shares: bool
) -> None:
    assert share_word(one, other) is shares
    assert share_word(other, one) is shares


HEAD = "child,parent,parent_type,child_prediction,m_parent_logprob,m_child_logprob\n"
ROWS = "".join(f"C{i} X,P{i} Y,mother,,-{i}.5,-0.25\n" for i in range(6))


def write(folder: Path, text: str, name: str = "m") -> Path:
    (folder / f"{name}{SUFFIX}").write_text(text, encoding="utf-8")
    return folder


def test_logarithms_and_shares_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, HEAD + ROWS)
    shares = HEAD.replace("m_parent_logprob,m_child_logprob", "m_can_find_parent,m_can_find_child")
    write(tmp_path, shares + "".join(f"C{i} X,P{i} Y,mother,,0.{i},1\n" for i in range(6)), "n")
    logs, tries = read_published(tmp_path)
    np.testing.assert_allclose(logs.probability["parent"], np.exp(-np.arange(6) - 0.5))
    np.testing.assert_allclose(tries.probability["parent"], np.arange(6) / 10)
    assert (logs.measure, tries.measure) == ("probability", "share of 10 answers")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (HEAD, "is empty"),
        (HEAD + ROWS[:-2], "ends within a line"),
        (HEAD + ROWS.replace("-3.5", "?"), "'?' in line 5"),
        (HEAD + ROWS.replace("-3.5", "0.7"), "no log-probability"),
        (HEAD + ROWS.replace("-3.5", "nan"), "no log-probability"),
        (HEAD + ROWS.replace("-3.5", "-inf"), "no log-probability"),
        (HEAD + ROWS.replace("P3 Y", ""), "an empty name in line 5"),
        (HEAD + ROWS.replace("-3.5,", ""), "5 cells in line 5"),
        (HEAD.replace("m_child_logprob", "x") + ROWS, "no column for each direction"),
        (HEAD.replace("parent,", "p,", 1) + ROWS, "no column 'parent'"),
        (HEAD + ROWS.replace("C2", "C\u200b2"), "U+200B"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(FactsError) as refused:
        read_published(write(tmp_path, text))
    assert words in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[31m", "a\u202eb", "a\udcff"])
def test_a_file_whose_name_cannot_be_written_down_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, HEAD + ROWS, name)
    with pytest.raises(FactsError, match="names no model that could be written down; rename it"):
        read_published(tmp_path)


def test_a_missing_folder_and_one_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FactsError, match="There is no folder"):
        read_published(tmp_path / "none")
    with pytest.raises(FactsError, match="holds no file named MODEL"):
        read_published(tmp_path)


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:400]))


def other(path: Path) -> None:
    path.write_text(path.read_text().replace("Kate Mara", "Rooney Mara"))


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("damage", [cut, other])
def test_files_that_were_cut_between_lines_or_changed_are_refused(
    results: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for name in (f"davinci{SUFFIX}", f"llama-7b{SUFFIX}", "parent_child_pairs.csv"):
        shutil.copy(results / name, tmp_path / name)
    read_published(tmp_path)
    damage(tmp_path / f"llama-7b{SUFFIX}")
    with pytest.raises(FactsError, match="do not list the same pairs"):
        read_published(tmp_path)
    (tmp_path / f"davinci{SUFFIX}").unlink()  # the list of pairs tells it alone
    with pytest.raises(FactsError, match="do not list the same pairs"):
        read_published(tmp_path)


def test_few_pairs_have_no_interval(tmp_path: Path) -> None:
    table = summary(read_published(write(tmp_path, HEAD + ROWS[: ROWS.index("C3")])))
    assert table["low"].isna()[2]
    assert pd.notna(table["mean"]).all()
