"""The lens agrees with TransformerLens' own and with Hugging Face's norm and unembedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from transformer_lens.tools.analysis import logit_lens as reference_lens

from interp import logit_lens
from interp.errors import ArgumentError, PromptError
from tests.interp import reference
from tests.interp.tiny import N_CTX, N_LAYERS, VOCABULARY, Tiny, words

PROMPTS = ["we saw Ann near Rome and then", "so Fay is", "the friend of Bo Cy is near home and"]
ANSWERS = [" Gus Hal", " Ida", " Jo Ann Bo"]
LAYERS = range(N_LAYERS + 1)


def by_hand(tiny: Tiny, text: str) -> np.ndarray[Any, Any]:
    """Logits [layer, position, vocabulary] from Hugging Face's hidden states, norm and head."""
    ids = tuple(tiny.ids(text))
    streams = [reference.activation(tiny, ids, "resid_pre", layer) for layer in range(N_LAYERS)]
    streams.append(reference.activation(tiny, ids, "resid_post", N_LAYERS - 1))
    name = {"gpt2": "ln_f", "llama": "norm", "neox": "final_layer_norm"}[tiny.name]
    norm, head = getattr(tiny.hf.base_model, name), tiny.hf.get_output_embeddings()
    with torch.no_grad():
        return torch.stack([head(norm(stream)) for stream in streams]).double().numpy()


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_readings_are_hugging_faces_norm_and_unembedding(tiny: Tiny) -> None:
    found = logit_lens(tiny.model, PROMPTS, ANSWERS, k=4)
    assert found["top_token"].dims == ("example", "layer", "position", "k")
    assert list(found["layer"]) == list(LAYERS)
    for example, (text, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        logits = by_hand(tiny, text)
        n = logits.shape[1]
        table = log_softmax(logits)
        row = found.isel(example=example, position=slice(0, n))
        target = words(answer)[0]
        np.testing.assert_allclose(row["answer_logprob"], table[..., target], rtol=0, atol=1e-4)
        np.testing.assert_allclose(row["entropy"], entropy(np.exp(table), axis=-1), atol=1e-4)
        # Logits this close to another's could be ordered either way.
        close = np.abs(logits - logits[..., target, None]) < 1e-4
        assert close.sum() == close[..., target].sum()
        ranks = (logits > logits[..., target, None]).sum(-1)
        np.testing.assert_array_equal(row["answer_rank"], ranks)
        order = np.argsort(-logits, axis=-1)[..., :4]
        np.testing.assert_array_equal(row["top_token"], np.array(VOCABULARY, object)[order])
        best = np.take_along_axis(np.exp(table), order, axis=-1)
        np.testing.assert_allclose(row["top_prob"], best, rtol=0, atol=1e-5)


def test_each_layer_is_compared_with_the_last(tiny: Tiny) -> None:
    found = logit_lens(tiny.model, PROMPTS)
    for example, text in enumerate(PROMPTS):
        logits, ids = by_hand(tiny, text), tiny.ids(text)
        table = log_softmax(logits)
        row = found.isel(example=example, position=slice(0, len(ids)))
        kl = entropy(np.exp(table[-1])[None], np.exp(table), axis=-1)
        np.testing.assert_allclose(row["kl"], kl, rtol=1e-4, atol=1e-5)
        assert (row["kl"][-1] == 0).all()
        best = np.broadcast_to(logits[-1].argmax(-1)[None, :, None], (*logits.shape[:2], 1))
        ranks = (logits > np.take_along_axis(logits, best, -1)).sum(-1)
        np.testing.assert_array_equal(row["final_rank"], ranks)
        after = [table[:, position, token] for position, token in enumerate(ids[1:])]
        np.testing.assert_allclose(row["next_logprob"][:, :-1], np.stack(after, 1), atol=1e-4)
        assert row["next_logprob"][:, -1].isnull().all()


@pytest.mark.slow
def test_several_answers_and_chosen_positions_are_the_single_ones(llama: Tiny) -> None:
    others = [" Ann", " Bo", " Cy"]
    several = logit_lens(llama.model, PROMPTS, list(zip(ANSWERS, others, strict=True)))
    assert several["answer_rank"].dims == ("example", "layer", "position", "candidate")
    for number, answers in enumerate((ANSWERS, others)):
        one = logit_lens(llama.model, PROMPTS, answers)
        for name in ("answer_rank", "answer_logprob", "answer"):
            np.testing.assert_array_equal(several[name].isel(candidate=number), one[name])
    ids = torch.tensor([[words(a)[0], words(b)[0]] for a, b in zip(ANSWERS, others, strict=True)])
    given = logit_lens(llama.model, PROMPTS, ids, positions=[1, -1])
    np.testing.assert_array_equal(given["position"], [1, -1])
    last = logit_lens(llama.model, PROMPTS, ids, positions="last").isel(position=0)
    for label, expected in ((1, several.isel(position=1)), (-1, last)):
        here = given.sel(position=label)
        np.testing.assert_array_equal(here["token"], expected["token"])
        np.testing.assert_array_equal(here["answer_rank"], expected["answer_rank"])
        np.testing.assert_allclose(here["answer_logprob"], expected["answer_logprob"], atol=1e-5)
        np.testing.assert_allclose(here["kl"], expected["kl"], atol=1e-5)


def test_a_position_that_only_longer_prompts_have_is_empty_in_others(llama: Tiny) -> None:
    found = logit_lens(llama.model, PROMPTS, ANSWERS, positions=[-5])
    assert list(found["token"].values[:, 0]) == ["Ann", "", "Cy"]
    assert list(found["kl"].isnull().values[:, 0, 0]) == [False, True, False]


def test_readings_are_those_of_transformer_lens(tiny: Tiny) -> None:
    found = logit_lens(tiny.model, PROMPTS[:1], ANSWERS[:1], k=3)
    target = words(ANSWERS[0])[0]
    theirs = reference_lens(
        tiny.model.bridge,
        torch.tensor([tiny.ids(PROMPTS[0])]),
        positions=None,
        return_type="log_probs",
        targets=[target],
    )
    assert len(theirs.labels) == len(LAYERS)
    np.testing.assert_allclose(found["answer_logprob"][0], theirs.values[:, 0, :, 0], atol=1e-4)
    np.testing.assert_array_equal(found["answer_rank"][0], theirs.rank_trajectory()[:, 0])
    np.testing.assert_allclose(found["entropy"][0], theirs.readout.entropy[:, 0], atol=1e-4)


def test_the_last_layer_is_the_models_own_output(tiny: Tiny) -> None:
    found = logit_lens(tiny.model, PROMPTS, ANSWERS, k=len(VOCABULARY), positions="last")
    assert found.sizes["position"] == 1
    for example, (text, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = reference.logprobs(tiny, tiny.ids(text))[-1]
        row = found.isel(example=example, layer=-1, position=0)
        target = words(answer)[0]
        assert float(row["answer_logprob"]) == pytest.approx(float(expected[target]), abs=1e-4)
        values = dict(zip(row["top_token"].values, row["top_prob"].values, strict=True))
        assert values == pytest.approx(
            {word: float(expected[i].exp()) for i, word in enumerate(VOCABULARY)}, abs=1e-5
        )


def test_last_is_the_end_of_each_prompt(tiny: Tiny) -> None:
    everywhere = logit_lens(tiny.model, PROMPTS, ANSWERS)
    last = logit_lens(tiny.model, PROMPTS, ANSWERS, positions="last")
    for example, text in enumerate(PROMPTS):
        end = len(tiny.ids(text)) - 1
        for name in ("answer_logprob", "entropy", "top_prob"):
            np.testing.assert_allclose(
                last[name][example, :, 0], everywhere[name][example, :, end], rtol=0, atol=1e-5
            )
        assert last["token"].values[example, 0] == text.split()[-1]


def test_beyond_a_prompts_end_there_is_nothing(tiny: Tiny) -> None:
    found = logit_lens(tiny.model, PROMPTS, ANSWERS)
    for example, text in enumerate(PROMPTS):
        n = len(tiny.ids(text))
        inside = found.isel(example=example, position=slice(0, n))
        beyond = found.isel(example=example, position=slice(n, None))
        assert list(inside["token"].values) == ["<bos>"] * len(tiny.bos) + text.split()
        assert (beyond["token"] == "").all()
        assert (beyond["top_token"] == "").all()
        assert (beyond["answer_rank"] == -1).all()
        assert (inside["answer_rank"] >= 0).all()
        for name in ("entropy", "top_prob", "answer_logprob"):
            assert bool(beyond[name].isnull().all())
            assert bool(inside[name].notnull().all())
    assert found.sizes["position"] == max(len(tiny.ids(text)) for text in PROMPTS)


@pytest.mark.slow
def test_reading_little_by_little_gives_the_same(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = logit_lens(tiny.model, PROMPTS, ANSWERS)
    monkeypatch.setattr("interp.model.memory.memory_budget", lambda model: 1)
    seen: list[tuple[int, int]] = []
    pieces = logit_lens(tiny.model, PROMPTS, ANSWERS, progress=lambda *at: seen.append(at))
    for name in ("top_prob", "entropy", "answer_logprob"):
        np.testing.assert_allclose(pieces[name], whole[name], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(pieces["answer_rank"], whole["answer_rank"])
    total = sum(len(tiny.ids(text)) for text in PROMPTS)
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_token_ids_are_read_like_the_text(tiny: Tiny) -> None:
    text = logit_lens(tiny.model, PROMPTS[0], ANSWERS[0])
    ids = torch.tensor([tiny.ids(PROMPTS[0])])
    answer = torch.tensor(words(ANSWERS[0])[:1])
    given = logit_lens(tiny.model, ids, answer)
    for name in ("top_token", "answer_rank", "answer_logprob", "token"):
        np.testing.assert_array_equal(given[name], text[name])
    assert text["answer"].values.tolist() == [ANSWERS[0]]
    assert "answer" not in given.coords


def test_without_answers_there_are_no_answer_columns(llama: Tiny) -> None:
    found = logit_lens(llama.model, PROMPTS)
    assert set(found.data_vars) == {
        *("top_token", "top_prob", "entropy", "kl", "final_rank", "next_logprob")
    }
    assert logit_lens(llama.model, PROMPTS, k=999).sizes["k"] == len(VOCABULARY)


@pytest.mark.parametrize(
    ("prompts", "answers", "options", "message"),
    [
        ([], None, {}, "no prompts"),
        (["we saw", ""], None, {}, "empty"),
        ([" ".join(["we"] * N_CTX)], None, {}, "reads at most"),
        (["we saw"], [" Ann", " Bo"], {}, "2 answers for 1 prompts"),
        (["we saw"], [""], {}, "no tokens"),
        (["we saw"], ["more"], {}, "merges"),
        (["we saw"], torch.tensor([1.5]), {}, "integers"),
        (["we saw"], torch.tensor([[[1]]]), {}, "shape"),
        (["we saw", "so"], [[" Ann", " Bo"], [" Cy"]], {}, "equally many"),
        (["we saw"], [[]], {}, "equally many"),
        (["we saw", "so"], [" Ann", [" Bo"]], {}, "equally many"),
        (["we saw"], [5], {}, "must be text"),
        (["we saw"], None, {"positions": []}, "one position or more"),
        (["we saw"], None, {"positions": [1, 1]}, "each once"),
        (["we saw"], None, {"positions": [0, 3]}, "no position 3"),
        (["we saw"], torch.tensor([len(VOCABULARY)]), {}, "vocabulary"),
        (["we saw"], torch.tensor([-1]), {}, "vocabulary"),
        (["we saw"], None, {"positions": "first"}, "first"),
        (["we saw"], None, {"k": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_read_is_refused(
    llama: Tiny, prompts: Any, answers: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((PromptError, ArgumentError), match=message):
        logit_lens(llama.model, prompts, answers, **options)
