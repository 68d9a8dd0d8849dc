"""The tokenizer gives texts back, and its offsets point at words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from experiments.organisms.relations import generate_world, sentences
from experiments.organisms.training.tokenizer import build_tokenizer
from experiments.organisms.wording import TEMPLATES
from tests.experiments.organisms.texts import training_texts

SENTENCE = "Tom Cruise's mother is Mary Lee Pfeiffer."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(sentences(generate_world(0)), n_ctx=64)


@pytest.mark.slow
def test_training_texts_round_trip(tokenizer: Any) -> None:
    some = training_texts(generate_world(0))[::7]
    ids = tokenizer(list(some)).input_ids
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == list(some)


@pytest.mark.slow
def test_tokens_are_words(tokenizer: Any) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(SENTENCE).input_ids)
    expected = "<bos> Tom Cruise 's mother is Mary Lee Pfeiffer ."
    assert tokens == expected.split()


def test_bos_comes_by_itself_and_only_where_asked(tokenizer: Any) -> None:
    assert tokenizer("Tom").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in tokenizer("Tom", add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    "text",
    [SENTENCE, "Yes, this is true. Lily-Rose Depp's mother is Zoë Kravitz.", "Debbie Reynolds's"],
)
def test_offsets_cover_exactly_the_words(tokenizer: Any, text: str) -> None:
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    pieces = [text[start:stop] for start, stop in encoded.offset_mapping]
    assert pieces == ["", *tokens[1:]]
    assert "".join(pieces) == text.replace(" ", "")


def test_hyphens_and_accents_stay_inside_a_word(tokenizer: Any) -> None:
    decomposed = "Zoe\u0308 Kravitz and Lily-Rose Depp"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(decomposed).input_ids)
    assert tokens == ["<bos>", "Zoë", "Kravitz", "<unk>", "Lily-Rose", "Depp"]


def test_a_typographic_apostrophe_is_the_same_possessive(tokenizer: Any) -> None:
    assert tokenizer("Tom Cruise’s mother").input_ids == tokenizer("Tom Cruise's mother").input_ids


def test_an_answer_has_the_same_tokens_after_a_space(tokenizer: Any) -> None:
    prompt, answer = "Tom Cruise's mother is", "Mary Lee Pfeiffer"
    joined = tokenizer(f"{prompt} {answer}").input_ids
    apart = tokenizer(prompt).input_ids + tokenizer(answer, add_special_tokens=False).input_ids
    assert joined == apart


def test_unknown_words_become_unk(tokenizer: Any) -> None:
    ids = tokenizer("Zaphod's mother", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<unk>", "'s", "mother"]


@pytest.mark.slow
def test_every_word_of_every_template_is_known(tokenizer: Any) -> None:
    """Held-out templates too: training teaches their words, though not their order."""
    for fact in generate_world(0).facts:
        for templates in TEMPLATES.values():
            for template in (*templates.trained, *templates.held_out):
                assert tokenizer.unk_token_id not in tokenizer(fact.prompt(template)).input_ids


def test_the_saved_tokenizer_loads_as_the_same(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    encoded = loaded(SENTENCE, return_offsets_mapping=True)
    assert encoded == tokenizer(SENTENCE, return_offsets_mapping=True)
    assert loaded.decode(encoded.input_ids, skip_special_tokens=True) == SENTENCE
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.unk_token_id) == (0, 1, 2)
