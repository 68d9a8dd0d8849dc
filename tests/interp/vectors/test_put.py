"""A table of vectors, row by row a whole pass of Hugging Face's model with torch's own hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import ArgumentError, MetricError, PromptError, SiteError
from interp.sites import shape_at
from interp.vectors.put import put_vectors
from interp.vectors.table import Vectors
from tests.interp.vectors.whole_passes import Built

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo is"]
ANSWERS = ["Gus Jo", "Ida", "Cy Riga Bonn"]
SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "mlp_act",
    "q",
    "k",
    "v",
    "z",
)
ROWS = 12


def random_table(built: Built, site: str, by_head: bool = False) -> Vectors:
    """Rows of one to four cells, in any layers and at any tokens, several of them of one token."""
    model, rng = built.model, np.random.default_rng(0)
    shape = shape_at(model, site)
    columns: dict[str, list[int]] = {n: [] for n in ("example", "layer", "position", "row", "head")}
    for row in range(ROWS):
        example = int(rng.integers(len(PROMPTS)))
        length = len(built.ids(PROMPTS[example]))
        places = np.array(
            [
                (a, b, c)
                for a in range(model.n_layers)
                for b in range(length)
                for c in range(shape[0] if by_head else 1)
            ]
        )
        for layer, position, head in rng.permutation(places)[: rng.integers(1, 5)]:
            columns["example"].append(example)
            columns["layer"].append(int(layer))
            columns["position"].append(int(position) - (length if rng.random() < 0.3 else 0))
            columns["row"].append(row)
            columns["head"].append(int(head))
    head = columns.pop("head")
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(7, *(shape[1:] if by_head else shape), generator=generator)
    vector = rng.integers(7, size=len(head))
    return Vectors(site, values, vector=vector, head=head if by_head else None, **columns)


def expected(built: Built, table: Vectors) -> list[float]:
    """The log-probability of each row's answer, one pass for each."""
    out = []
    cells = np.arange(len(table.example))
    for row in np.unique(np.asarray(table.row)):
        writes = []
        for cell in cells[np.asarray(table.row) == row]:
            example = table.example[cell]
            position = table.position[cell] % len(built.ids(PROMPTS[example]))
            where: Any = position if table.head is None else (position, table.head[cell])
            writes.append((table.layer[cell], where, table.values[table.vector[cell]]))
        out.append(built.logprob(table.site, PROMPTS[example], ANSWERS[example], writes))
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("site", "by_head"), [*((s, False) for s in SITES), ("z", True), ("k", True)]
)
def test_each_row_is_a_whole_pass(built: Built, site: str, by_head: bool) -> None:
    if site == "resid_mid" and built.layout.parallel:
        pytest.skip("parallel blocks have no such stream")
    table = random_table(built, site, by_head)
    answers = [f" {answer}" for answer in ANSWERS]
    found = put_vectors(built.model, PROMPTS, table, answers=answers)
    assert found["patched"].dims == ("row",)
    np.testing.assert_allclose(found["patched"], expected(built, table), rtol=1e-5, atol=1e-5)
    plain = [built.logprob(site, p, a, []) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    np.testing.assert_allclose(found["unpatched"], plain, rtol=1e-5, atol=1e-5)
    moved = found["patched"].values - found["unpatched"].values[found["row_example"].values]
    assert np.median(np.abs(moved)) > 0.05
    few = put_vectors(built.model, PROMPTS, table, answers=answers, batch_size=5)
    np.testing.assert_allclose(few["patched"], found["patched"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_one_example_and_one_row_at_a_time(gpt2: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(gpt2, "z")
    answers = [f" {answer}" for answer in ANSWERS]
    whole = put_vectors(gpt2.model, PROMPTS, table, answers=answers, next_tokens=2)
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda _model: 1)
    few = put_vectors(gpt2.model, PROMPTS, table, answers=answers, next_tokens=2)
    for name in whole:
        if whole[name].dtype.kind == "f":
            np.testing.assert_allclose(few[name], whole[name], rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(few[name], whole[name])


def table(**changed: Any) -> Vectors:
    cells = {"values": torch.ones(2, 32), "example": [0, 1], "layer": [0, 1], "position": [1, -1]}
    return Vectors(**{"site": "resid_pre", **cells, **changed})


def test_next_tokens_are_the_likeliest_of_a_whole_pass(gpt2: Built) -> None:
    found = put_vectors(gpt2.model, PROMPTS, table(), next_tokens=3)
    assert set(found) == {"top_token", "top_prob", "unpatched_top_token", "unpatched_top_prob"}
    for row, (layer, position) in enumerate([(0, 1), (1, -1)]):
        ids = gpt2.ids(PROMPTS[row])
        logits = gpt2.logits("resid_pre", ids, [(layer, position, torch.ones(32))])[-1]
        top = logits.softmax(-1).topk(3)
        np.testing.assert_allclose(found["top_prob"][row], top.values, atol=1e-5)
        assert list(found["top_token"][row].values) == gpt2.model.token_strings(
            top.indices.tolist()
        )
    for example, text in enumerate(PROMPTS):
        top = gpt2.logits("resid_pre", gpt2.ids(text), [])[-1].softmax(-1).topk(3)
        np.testing.assert_allclose(found["unpatched_top_prob"][example], top.values, atol=1e-5)


def test_next_tokens_and_a_metric_of_whole_answers_come_from_one_walk(gpt2: Built) -> None:
    answers = [f" {answer}" for answer in ANSWERS]
    both = put_vectors(gpt2.model, PROMPTS, table(), answers=answers, next_tokens=2)
    tokens = put_vectors(gpt2.model, PROMPTS, table(), next_tokens=2)
    np.testing.assert_array_equal(both["top_token"], tokens["top_token"])
    np.testing.assert_allclose(both["top_prob"], tokens["top_prob"], atol=1e-6)
    scores = put_vectors(gpt2.model, PROMPTS, table(), answers=answers)
    np.testing.assert_allclose(both["patched"], scores["patched"], atol=1e-6)


def test_nothing_is_left_behind(gpt2: Built) -> None:
    """No hooks, no random numbers drawn, no gradients, the vectors as they were."""
    values = torch.ones(2, 32, requires_grad=True)
    state, before = torch.get_rng_state(), gpt2.model.fingerprint
    steps: list[tuple[int, int]] = []
    put_vectors(
        gpt2.model,
        PROMPTS,
        table(values=values, site="attn_out"),
        next_tokens=1,
        progress=lambda done, of: steps.append((done, of)),
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert gpt2.model.fingerprint == before
    assert values.grad is None
    assert bool((values == 1).all())
    assert steps[-1] == (2, 2)

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put_vectors(gpt2.model, PROMPTS, table(site="attn_out"), next_tokens=1, progress=stop)
    assert gpt2.model.fingerprint == before


def test_vectors_of_another_dtype_are_written_in_the_models(gpt2: Built) -> None:
    values = torch.randn(2, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    double = put_vectors(gpt2.model, PROMPTS, table(values=values), next_tokens=1)
    single = put_vectors(gpt2.model, PROMPTS, table(values=values.float()), next_tokens=1)
    np.testing.assert_array_equal(double["top_prob"], single["top_prob"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"site": "resid"}, "Unknown site"),
        ({"site": "pattern"}, "no vectors"),
        ({"values": torch.ones(2, 31)}, "have the shape"),
        ({"values": torch.ones(32)}, "have the shape"),
        ({"values": torch.full((2, 32), torch.nan)}, "finite"),
        ({"values": torch.ones(2, 32, dtype=torch.long)}, "finite numbers"),
        ({"values": torch.full((2, 32), 1e300, dtype=torch.float64)}, "too large"),
        ({"example": []}, "a cell at least"),
        ({"example": [], "layer": [], "position": [], "values": torch.ones(0, 32)}, "a cell"),
        ({"layer": [0]}, "for each"),
        ({"layer": [0, 2]}, "Layer 2 is out of range"),
        ({"layer": [-1, 0]}, "Layer -1 is out of range"),
        ({"layer": np.array([0.5, 1.0])}, "whole number"),
        ({"example": [0, 3]}, "no prompt 3"),
        ({"example": [-1, 0]}, "no prompt -1"),
        ({"position": [1, 4]}, "Prompt 1 has 4 tokens and no position 4"),
        ({"position": [-9, 0]}, "no position -9"),
        ({"vector": [0, 2]}, "Vector 2 is out of range"),
        ({"head": [0, 1]}, "no heads"),
        ({"site": "z", "values": torch.ones(2, 8), "head": [0, 4]}, "Head 4 is out of range"),
        ({"site": "z", "values": torch.ones(2, 8)}, "have the shape"),
        ({"row": [0, 2]}, "without gaps"),
        ({"row": [1, 1]}, "from 0"),
        ({"row": [0, 0]}, "same example"),
        (
            {"row": [0, 0], "example": [0, 0], "layer": [1, 1], "position": [1, 1 - 8]},
            "one place twice",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    gpt2: Built, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises((SiteError, PromptError), match=message) as caught:
        put_vectors(gpt2.model, PROMPTS, table(**changed), next_tokens=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1])
def test_a_pass_has_a_row_at_least(gpt2: Built, size: int) -> None:
    with pytest.raises(ArgumentError, match="at least one row"):
        put_vectors(gpt2.model, PROMPTS, table(), next_tokens=1, batch_size=size)


def test_something_must_be_read(gpt2: Built) -> None:
    with pytest.raises(PromptError, match="answers"):
        put_vectors(gpt2.model, PROMPTS, table())
    with pytest.raises(MetricError, match="cannot be kept"):
        put_vectors(gpt2.model, PROMPTS, table(), next_tokens=10**6)
    with pytest.raises(MetricError, match="Unknown metric"):
        put_vectors(gpt2.model, PROMPTS, table(), "logprob", next_tokens=1)
    with pytest.raises(PromptError, match="empty"):
        put_vectors(gpt2.model, [""], table(), next_tokens=1)
