"""What is found can be written: its text reads back as the very tokens that were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp import Model, greedy_coordinate_search, load_model, random_suffixes, score_answers
from interp.errors import PromptError
from interp.search.layout import Layout
from interp.search.pool import token_pool
from tests.interp.tiny import N_SPECIAL, VOCABULARY
from tests.interp.vectors.whole_passes import Built

TEXT = (
    "the cat sat on the mat, and the theatre stands at the sandy end; then they ran again and again"
)
PROMPTS = ["the cat{suffix} sat", "then{suffix}, and the mat", "the end{suffix}"]
ANSWERS = [" on", " again", " and they"]


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tokenizer whose tokens melt together: bytes, pairs of them, and words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>", name_or_path="bytes"
    )
    torch.manual_seed(0)
    size = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 48, "initializer_range": 0.5}
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=len(fast), **size)).eval()
    folder: Path = tmp_path_factory.mktemp("merging")
    hf.save_pretrained(folder)
    fast.save_pretrained(folder)
    return load_model(folder)


@pytest.mark.slow
def test_what_is_found_reads_back_and_scores_the_same(merging: Model) -> None:
    found = greedy_coordinate_search(
        merging, PROMPTS, ANSWERS, suffix=3, steps=12, candidates=80, top_k=30, seed=1
    )
    # Some swaps would have been read as other tokens.
    assert found["unwritable"].sum() > 5
    assert found["loss"][-1] < found["loss"][0] - 0.5
    texts = [prompt.replace("{suffix}", found.attrs["suffix"]) for prompt in PROMPTS]
    ids = found["token_id"][-1].values.tolist()
    for text, prompt in zip(texts, PROMPTS, strict=True):
        head = merging.token_ids(prompt.split("{suffix}")[0])
        assert merging.token_ids(text)[len(head) : len(head) + 3] == ids
    again = score_answers(merging, texts, ANSWERS)["logprob"]
    np.testing.assert_allclose(found["score"][-1], again, atol=1e-4)


@pytest.mark.slow
def test_tokens_that_melt_are_not_writable(merging: Model) -> None:
    layout, _ = Layout.of(merging, PROMPTS, " mat")
    assert layout.reads_back(tuple(merging.token_ids(" sat")[-1:]))
    # Two pieces of a word that the tokenizer would write as one token.
    whole = merging.token_ids(" the")[1:]
    assert len(whole) == 1
    pieces = [merging.tokenizer.convert_tokens_to_ids(one) for one in ("Ġ", "t", "h", "e")]
    assert None not in pieces
    assert not layout.reads_back(tuple(pieces))
    # One that melts into what follows it in the second prompt alone ("s" before " sat" does not).
    with pytest.raises(PromptError, match="melts"):
        Layout.of(merging, ["th{suffix}", "the{suffix}"], "e")


def test_the_default_pool_holds_what_can_be_written(merging: Model) -> None:
    pool = token_pool(merging, None).tolist()
    assert merging.tokenizer.bos_token_id not in pool
    texts = merging.token_strings(pool)
    assert not any("\ufffd" in text for text in texts)
    assert {" the", " cat", "a"} <= set(texts)
    assert len(pool) < len(merging.tokenizer)


def test_words_are_a_pool_without_special_tokens(gpt2: Built) -> None:
    assert token_pool(gpt2.model, None).tolist() == list(range(N_SPECIAL, len(VOCABULARY)))


@pytest.mark.slow
@pytest.mark.shared
def test_pieces_of_words_are_writable(shared: Path) -> None:
    """Of a SentencePiece vocabulary, whose tokens mostly continue a word."""
    stories = load_model(shared / "models" / "stories260K")
    pool = token_pool(stories, None)
    assert len(pool) > 150
    prompts = ["Once upon a time there was a{suffix} girl", "The cat saw a{suffix} and was so"]
    drawn = random_suffixes(stories, prompts, 5, length=3, seed=0)
    for text, tokens in zip(drawn["suffix"].values, drawn["token_id"].values, strict=True):
        for prompt in prompts:
            head = len(stories.token_ids(prompt.split("{suffix}")[0]))
            read: Any = stories.token_ids(prompt.replace("{suffix}", text))
            assert read[head : head + 3] == tokens.tolist()
