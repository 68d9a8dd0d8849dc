"""Scores of answers are Hugging Face's log-probabilities; completions are its greedy ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp import score_answers
from interp.errors import PromptError
from interp.generation.answers import complete
from tests.interp import reference
from tests.interp.tiny import N_CTX, N_SPECIAL, NAMES, VOCABULARY, Tiny, words

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is", "who"]
ANSWERS = [" Gus Hal", " Ida", " Jo Ann Bo", " Eve"]


def greedy(tiny: Tiny, text: str, n: int) -> list[int]:
    """Hugging Face's own greedy decoding, which here never stops early."""
    ids = torch.tensor([tiny.ids(text)])
    out = tiny.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        eos_token_id=[],
        pad_token_id=0,
    )
    found: list[int] = out[0, ids.shape[1] :].tolist()
    return found


def test_scores_are_hugging_faces_logprobs_one_by_one(tiny: Tiny) -> None:
    found = score_answers(tiny.model, PROMPTS, ANSWERS)
    for example, (text, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        prompt, continuation = tiny.ids(text), words(answer)
        row = found.isel(example=example)
        whole = reference.continuation_logprob(tiny, prompt, continuation)
        first = reference.continuation_logprob(tiny, prompt, continuation[:1])
        assert float(row["logprob"]) == pytest.approx(whole, abs=1e-4)
        assert float(row["first_logprob"]) == pytest.approx(first, abs=1e-4)
        but_last = reference.continuation_logprob(tiny, prompt, continuation[:-1])
        assert float(row["last_logprob"]) == pytest.approx(whole - but_last, abs=1e-4)
        last = reference.logits(tiny, prompt)[-1]
        assert int(row["rank"]) == int((last > last[continuation[0]]).sum())
        assert int(row["n_tokens"]) == len(continuation)
        assert str(row["prompt"].values) == text
        assert str(row["answer"].values) == answer


@pytest.mark.slow
def test_an_answer_is_correct_if_greedy_decoding_gives_all_of_it(tiny: Tiny) -> None:
    best = {f"so {name} is": greedy(tiny, f"so {name} is", 3) for name in NAMES}
    # Special tokens are no words, and cannot be asked for as text.
    best = {text: ids for text, ids in best.items() if min(ids) >= N_SPECIAL}
    assert len(best) >= 3

    def written(ids: list[int]) -> str:
        return " " + " ".join(VOCABULARY[i] for i in ids)

    def another(token: int) -> int:
        return N_SPECIAL + (token + 1) % (len(VOCABULARY) - N_SPECIAL)

    prompts = list(best)
    right = score_answers(tiny.model, prompts, [written(ids) for ids in best.values()])
    assert right["correct"].all()
    assert (right["rank"] == 0).all()
    for place in range(3):
        spoilt = [
            [another(i) if at == place else i for at, i in enumerate(ids)] for ids in best.values()
        ]
        wrong = score_answers(tiny.model, prompts, [written(ids) for ids in spoilt])
        assert not wrong["correct"].any()
        assert (wrong["rank"] == 0).all() == (place > 0)


def greedy_words(tiny: Tiny, text: str, n: int) -> list[str]:
    """Special tokens leave no trace in text."""
    return [VOCABULARY[i] for i in greedy(tiny, text, n) if i >= N_SPECIAL]


@pytest.mark.slow
def test_completions_are_hugging_faces_greedy_ones(tiny: Tiny) -> None:
    for n in (1, 4):
        expected = [greedy_words(tiny, text, n) for text in PROMPTS]
        assert [text.split() for text in complete(tiny.model, PROMPTS, n)] == expected
    assert len({tuple(row) for row in expected}) > 1  # prompts differ in what follows


def test_each_prompt_may_have_its_own_number_of_tokens(tiny: Tiny) -> None:
    counts = [3, 0, 1, 2]
    expected = [
        greedy_words(tiny, text, n) if n else [] for text, n in zip(PROMPTS, counts, strict=True)
    ]
    assert [text.split() for text in complete(tiny.model, PROMPTS, counts)] == expected


@pytest.mark.slow
def test_one_by_one_gives_the_same(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    together = score_answers(tiny.model, PROMPTS, ANSWERS)
    continued = complete(tiny.model, PROMPTS, 3)
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    seen: list[tuple[int, int]] = []
    alone = score_answers(tiny.model, PROMPTS, ANSWERS, progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for name in ("logprob", "first_logprob"):
        np.testing.assert_allclose(alone[name], together[name], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(alone["rank"], together["rank"])
    assert complete(tiny.model, PROMPTS, 3) == continued


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([], [], "no prompts"),
        (["we saw"], [" Ann", " Bo"], "2 answers for 1 prompts"),
        (["we saw", ""], [" Ann", " Bo"], "empty"),
        (["we saw"], [""], "no tokens"),
        (["we saw"], ["more"], "merges"),
        (["we saw"], [7], "must be text"),
        ([" ".join(["we"] * (N_CTX - 2))], [" Ann Bo Cy"], f"takes {N_CTX + 1} tokens"),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(
    llama: Tiny, prompts: Any, answers: Any, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        score_answers(llama.model, prompts, answers)


def test_an_answer_may_reach_the_end_of_the_context(llama: Tiny) -> None:
    """Its last token is predicted, not read."""
    prompt = " ".join(["we"] * (N_CTX - 2))
    found = score_answers(llama.model, [prompt], [" Ann Bo"])
    expected = reference.logprobs(llama, [*llama.ids(prompt), *words("Ann")])
    total = float(expected[-2, words("Ann")[0]] + expected[-1, words("Bo")[0]])
    assert float(found["logprob"][0]) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("n_tokens", [[1, 2, 3], [1], -1, [2, 2, 2, -1]])
def test_numbers_of_tokens_that_do_not_fit_are_refused(llama: Tiny, n_tokens: Any) -> None:
    with pytest.raises(PromptError, match="give one for each"):
        complete(llama.model, PROMPTS, n_tokens)


def test_a_continuation_must_fit_into_the_context(llama: Tiny) -> None:
    with pytest.raises(PromptError, match="reads at most"):
        complete(llama.model, ["we saw"], N_CTX)
