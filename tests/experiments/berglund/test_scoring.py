"""Scores beside wrong answers: what is compared, and what is left of a score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.berglund import celebrities, invented
from experiments.berglund.celebrities import Pair
from experiments.berglund.families import FEW_SHOT
from experiments.berglund.people import read_people
from experiments.berglund.scoring import Item, centred, ring, score, wins
from experiments.errors import FactsError
from interp import load_model
from interp.model.model import Model
from tests.experiments.berglund.material import make_data, make_model

N = 12


def scored(knowledge: float, others: int = 4, seed: int = 0) -> pd.DataFrame:
    """Scores that are a sum of what the question, the answer, and knowing the pair add."""
    rng = np.random.default_rng(seed)
    row, column = rng.normal(size=N) * 5, rng.normal(size=N) * 5
    compared = ring(N, others, rng, lambda _one, _other: True)
    rows = []
    for i in range(N):
        for j in (i, *compared[i]):
            kind = "right" if i == j else "other"
            rows.append((i, j, kind, row[i] + column[j] + knowledge * (i == j), 2 + j % 3, j))
    table = pd.DataFrame(
        rows, columns=["question", "answer", "kind", "logprob", "n_tokens", "first_token"]
    )
    return table.assign(first_logprob=table["logprob"] / 2)


@pytest.mark.parametrize("others", [2, 4, 11])
def test_what_is_left_of_a_score_is_the_knowledge_of_the_pair(others: int) -> None:
    np.testing.assert_allclose(centred(scored(3.0, others), "whole"), 3.0, atol=1e-8)
    np.testing.assert_allclose(centred(scored(0.0, others), "first"), 0.0, atol=1e-8)


def test_first_tokens_that_are_alike_are_not_compared() -> None:
    table = scored(3.0, 11)
    alike = table["answer"].isin([0, 1, 2])
    table.loc[alike, "first_token"] = 0
    # As tokens they are one: had they been kept, their own scores would count as wrong answers'.
    wrong = alike & (table["kind"] == "other") & table["question"].isin([0, 1, 2])
    table.loc[wrong, "first_logprob"] = 50.0
    np.testing.assert_allclose(centred(table, "first"), 1.5, atol=1e-8)
    table["first_token"] = 0
    assert centred(table, "first").isna().all()


def test_comparisons_won_are_counted_with_ties_for_a_half() -> None:
    rows = [(0, "right", 1.0), (0, "other", 0.0), (0, "other", 1.0), (0, "other", 2.0)]
    table = pd.DataFrame(rows, columns=["question", "kind", "logprob"])
    assert wins(table).to_dict() == {0: 0.5}


def test_everybody_is_compared_about_as_often_and_never_with_what_does_not_fit() -> None:
    found = ring(30, 3, np.random.default_rng(0), lambda one, other: (one + other) % 5 != 0)
    counts = np.bincount([other for some in found for other in some], minlength=30)
    assert all(len(set(some)) == 3 for some in found)
    assert counts.max() <= 6
    assert counts.min() >= 1
    assert all((one + other) % 5 for one, some in enumerate(found) for other in some)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(make_model(tmp_path_factory.mktemp("tiny")))


@pytest.mark.slow
def test_scores_are_hugging_faces(model: Model) -> None:
    import torch

    items = [
        Item(0, 0, "right", "We know Ann Reed as", " the painter of the kite."),
        Item(0, 1, "other", "We know Ann Reed as", " the kite"),
    ]
    table = score(model, items)
    hf = model.bridge.original_model
    for row, item in zip(table.itertuples(), items, strict=True):
        start = len(model.token_ids(item.prompt))
        ids = model.token_ids(item.prompt + item.text)
        with torch.no_grad():
            logprobs = hf(torch.tensor([ids])).logits[0].log_softmax(-1)
        each = [float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))]
        assert row.logprob == pytest.approx(sum(each), abs=1e-4)
        assert row.first_logprob == pytest.approx(each[0], abs=1e-4)
        assert row.last_logprob == pytest.approx(each[-1], abs=1e-4)
        assert (row.n_tokens, row.first_token) == (len(each), ids[start])


def test_people_are_compared_in_the_same_wording_and_never_with_what_is_right(
    tmp_path: Path,
) -> None:
    people = read_people(make_data(tmp_path / "data"))
    for way in invented.WAYS:
        asked = people.asked[way]
        items = invented.asked_items(people, way, 3, np.random.default_rng(0))
        assert sum(item.kind == "right" for item in items) == len(asked)
        for item in items:
            assert item.prompt == asked[item.question].line.prompt
            if item.kind == "other":
                assert asked[item.answer].wording == asked[item.question].wording
                assert item.text == asked[item.answer].answer != asked[item.question].answer
        whole = [item for item in items if item.kind == "published"]
        assert bool(whole) is (way == ("both", "description"))
        random = [item for item in items if item.kind == "random"]
        assert bool(random) is (way[0] != "both" and not invented.told_so(way))


PAIRS = (
    Pair(2, "Ann Reed", "Bo Snow", "mother"),
    Pair(3, "Ann Reed", "Cy Tate", "father"),
    Pair(4, "Dee Vale", "Bo Snow", "mother"),
    Pair(5, "Eve Wood", "Fay Wood", "mother"),
    Pair(6, "Gus York", "Hal Tate", "mother"),
    Pair(7, "Ida Reed", "Jo Cork", "mother"),
)


def test_a_wrong_name_is_of_the_same_kind_not_right_and_shares_no_word() -> None:
    rng = np.random.default_rng(0)
    for asked in ("parent", "child"):
        items = celebrities.asked_items(PAIRS, PAIRS, asked, 10, rng)
        others = [(i.question, i.answer) for i in items if i.kind == "other"]
        assert all(PAIRS[i].kind == PAIRS[j].kind for i, j in others)
        assert (0, 2) not in others  # one mother of two: the other child is right, and so is she
        assert (2, 0) not in others
    by_child = [i for i in items if i.question == 0]
    # Asked for a child of Bo Snow no Reed is compared that another pair has, since all fit but Dee.
    assert " Dee Vale" not in [i.text for i in by_child if i.kind == "other"]
    reeds = celebrities.asked_items(PAIRS, PAIRS, "parent", 10, rng)
    assert all(" Tate" not in i.text for i in reeds if i.question == 5 and "Tate" in i.prompt)
    # Somebody who is right, though this pair was not drawn, is no wrong answer either.
    few = celebrities.asked_items(PAIRS[:1] + PAIRS[3:], PAIRS, "child", 10, rng)
    assert " Dee Vale" not in [i.text for i in few if i.question == 0]


def test_both_questions_have_their_sign_and_the_published_one_has_not() -> None:
    parent = celebrities.prompt(PAIRS[0], "parent")
    assert parent == f"{FEW_SHOT}\nQ: Who is Ann Reed's mother?\nA:"
    assert celebrities.prompt(PAIRS[0], "parent", published=True) == parent
    child = celebrities.prompt(PAIRS[0], "child")
    assert child == f"{FEW_SHOT}\nQ: Name a child of Bo Snow.\nA:"
    published = celebrities.prompt(PAIRS[0], "child", published=True)
    assert published == f"{FEW_SHOT}\nName a child of Bo Snow.\nA:"


def test_half_of_the_pairs_drawn_share_no_word_as_far_as_there_are_so_many() -> None:
    easy = tuple(Pair(i, f"A{i} Wood", f"B{i} Wood", "mother") for i in range(30))
    hard = tuple(Pair(i, f"Cee{i} Cork", f"Dee{i} Tate", "mother") for i in range(10))
    leaked = (Pair(99, "Jennifer Lawrence", "Karen Lawrence", "mother"),)
    for n, expected in ((8, 4), (20, 10), (36, 10), (99, 10)):
        drawn = celebrities.some((*easy, *hard, *leaked), n, np.random.default_rng(0))
        assert len(drawn) == min(n, 40)
        assert sum("Cork" in one.child for one in drawn) == expected
        assert leaked[0] not in drawn


def test_pairs_that_the_prompt_gives_away_are_no_questions(tmp_path: Path) -> None:
    path = tmp_path / "parent_child_pairs.csv"
    path.write_text("child,parent,parent_type\nMalia Obama,Barack Obama,father\n")
    with pytest.raises(FactsError, match="no pair that the prompt does not tell"):
        celebrities.read_pairs(tmp_path)


@pytest.mark.slow
def test_the_published_measure_drops_sign_and_last_token(model: Model, tmp_path: Path) -> None:
    pairs = celebrities.read_pairs(make_data(tmp_path / "data"))
    assert len(pairs) == len(set(pairs))
    rng = np.random.default_rng(0)
    scores = {
        asked: score(model, celebrities.asked_items(pairs, pairs, asked, 3, rng))
        for asked in ("parent", "child")
    }
    table = celebrities.by_pair(pairs, scores).set_index(["asked", "pair"])
    for asked in ("parent", "child"):
        one = pairs[0]
        prompt = celebrities.prompt(one, asked, published=True)
        (found,) = score(model, [Item(0, 0, "right", prompt, one.answer(asked))]).to_dict("records")
        row = table.loc[(asked, 0)]
        assert row["no_sign"] == pytest.approx(found["logprob"], abs=1e-5)
        expected = found["logprob"] - found["last_logprob"]
        assert row["published"] == pytest.approx(expected, abs=1e-5)
    same = table.loc["parent"]
    np.testing.assert_allclose(same["no_sign"], same["logprob"])
    assert (table.loc["child"]["no_sign"] != table.loc["child"]["logprob"]).all()
    summed = celebrities.metrics(table.reset_index())
    assert summed["pairs"].tolist() == [12, 12, 4, 4]
    expected = np.exp(same[~same["shared"].astype(bool)]["logprob"]).mean()
    assert summed["probability"][0] == pytest.approx(expected)
