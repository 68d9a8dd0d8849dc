"""What a tokenizer cannot read is refused and named, wherever text comes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cache import ActivationStore
from interp import (
    JacobianLens,
    PromptPairs,
    attention_patterns,
    capture,
    direct_logit_attribution,
    dose_response,
    estimate,
    fit_jacobian_lens,
    generate,
    logit_lens,
    logits,
    score_answers,
    span_mask,
    sweep,
)
from interp.errors import PromptError
from interp.generation.answers import complete
from interp.harvest import harvest
from interp.patching import patch_once
from interp.prompts.corpus import read_rows
from interp.prompts.tokens import tokenise
from interp.weights.association import association_matrix
from probes import collect
from tests.interp.tiny import BOS, D_MODEL, UNK, VOCABULARY, Tiny, words

DIRECTION = torch.ones(D_MODEL)
CLEAN, CORRUPT = "we saw Ann near Rome and", "we saw Bo near Rome and"
LETTERS = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz_")}


def pairs(tiny: Tiny, **changes: Any) -> PromptPairs:
    given: dict[str, Any] = {
        "clean": [CLEAN],
        "corrupt": [CORRUPT],
        "answers": [" Gus Hal"],
        "foils": [" Ida"],
    }
    return PromptPairs(tiny.model, **{**given, **changes})


def wrapped(backend: Any, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def byte_pairs(**options: Any) -> Any:
    """Letters as tokens; what else there is depends on the options."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Metaspace

    more = [UNK] if "unk_token" in options else []
    if options.get("byte_fallback"):
        more += [f"<0x{number:02X}>" for number in range(256)]
    vocabulary = {**LETTERS, "▁": 27, **{token: 28 + i for i, token in enumerate(more)}}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[], **options))
    backend.pre_tokenizer = Metaspace()
    return backend


def unigram() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace

    pieces = [("<unk>", 0.0), ("▁", -3.0), *((letter, -2.0) for letter in LETTERS)]
    backend = Tokenizer(Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = Metaspace()
    return wrapped(backend, unk_token=UNK)


def word_level(unk: str | None) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    known = {"a": 0, "b": 1, **({unk: 2} if unk else {})}
    backend = Tokenizer(WordLevel(known, **({"unk_token": unk} if unk else {})))
    backend.pre_tokenizer = WhitespaceSplit()
    return wrapped(backend)  # which is not told of the unknown token


def byte_level() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    backend = Tokenizer(BPE(vocab={**alphabet, "<|endoftext|>": 256}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return wrapped(backend, unk_token="<|endoftext|>", bos_token="<|endoftext|>")


def folding() -> Any:
    """Like BERT's: capitals and accents are folded, and what is no character is removed."""
    from tokenizers import Tokenizer, normalizers
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import BertPreTokenizer

    backend = Tokenizer(WordPiece({"[UNK]": 0, "a": 1, "jose": 2}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    backend.pre_tokenizer = BertPreTokenizer()
    return wrapped(backend, unk_token="[UNK]")


def removing() -> Any:
    """A normaliser that takes a letter out."""
    from tokenizers.normalizers import Replace

    backend = byte_pairs(byte_fallback=True)
    backend.normalizer = Replace("q", "")
    return wrapped(backend)


# By tokenizer: what it reads, and what it does not, with what is named.
READ: dict[str, tuple[Callable[[], Any], list[str], dict[str, str]]] = {
    "words": (lambda: word_level(UNK), ["a b", f"a {UNK} b"], {"a Zed b Ux": "'Zed', 'Ux'"}),
    "words, none for the unknown": (lambda: word_level(None), ["a b"], {"a Zed": "'Zed'"}),
    "pairs": (
        lambda: wrapped(byte_pairs(unk_token=UNK, fuse_unk=True)),
        ["naive"],
        {"na\u00efve x": "'\u00ef'", "a \u65e5\u672c": "'\u65e5\u672c'"},
    ),
    "pairs, none for the unknown": (
        lambda: wrapped(byte_pairs()),
        ["naive cafe\n"],
        {
            "na\u00efve x": "'na\u00efve'",
            "na\u00efve ": "'na\u00efve'",
            "a caf\u00e9 b c d": "'caf\u00e9'",
            "a \u65e5\u672c b": "'\u65e5\u672c'",
            "Ab": "'Ab'",
            "b a☃ c": "'a☃'",
        },
    ),
    "pairs, with bytes": (
        lambda: wrapped(byte_pairs(byte_fallback=True, unk_token=UNK), unk_token=UNK),
        ["na\u00efve \u65e5\u672c \U0001f9ff"],
        {},
    ),
    "unigrams": (unigram, ["naive", UNK], {"a na\u00efve \u2603": "'\u00ef', '\u2603'"}),
    "bytes": (byte_level, ["na\u00efve \u65e5\u672c \n", "a<|endoftext|>b"], {}),
    "folded": (
        folding,
        ["Jos\u00e9 A", "Jose\u0301 a\x00", "[UNK] a"],
        {"Zed jos\u00e9": "'Zed'", "a\ufffd a": "'a\\ufffd'|'a\ufffd'"},
    ),
    "a letter taken out": (removing, ["cat"], {"a quick cat": "'quick'", "q": "'q'"}),
}


@pytest.mark.parametrize("kind", READ)
def test_what_a_tokenizer_does_not_know_is_named(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, known, unknown = READ[kind]
    monkeypatch.setattr(llama.model, "tokenizer", make())
    for text in known:
        assert llama.model.encode([text])[0][0]
    for text, named in unknown.items():
        with pytest.raises(PromptError, match=rf"({named}) \(number 1 of the texts\)") as caught:
            llama.model.encode([known[0], text])
        assert "\n" not in str(caught.value)


def test_a_slow_tokenizer_names_them_too(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = llama.model.tokenizer

    class Slow:
        is_fast = False
        unk_token = UNK

        def __call__(self, texts: list[str], **rest: Any) -> Any:
            return fast(texts, **{k: v for k, v in rest.items() if k == "add_special_tokens"})

        def __getattr__(self, name: str) -> Any:
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(fast, name)

    monkeypatch.setattr(llama.model, "tokenizer", Slow())
    assert llama.model.token_ids(f"we {UNK} Ann") == words(f"{BOS} we {UNK} Ann")
    with pytest.raises(PromptError, match=r"does not know 'Zed', 'Ux' \(in the prompt\)"):
        tokenise(llama.model, f"we Zed {UNK} Ux")


def test_one_of_several_texts_has_a_number(llama: Tiny) -> None:
    with pytest.raises(PromptError, match=r"\(in the prompt\)"):
        tokenise(llama.model, [STRANGE])
    with pytest.raises(PromptError, match=r"\(number 1 of the prompts\)"):
        tokenise(llama.model, ["Ann", STRANGE])


def test_the_unknown_token_may_be_meant(llama: Tiny) -> None:
    meant = [*llama.bos, *words(f"we {UNK} Ann")]
    assert tokenise(llama.model, f"we {UNK} Ann").row(0) == meant
    assert tokenise(llama.model, torch.tensor([meant])).row(0) == meant
    assert pairs(llama, answers=[f" {UNK}"]).answer_ids == ((VOCABULARY.index(UNK),),)


STRANGE = "we saw Zed near Rome and"
JACOBIAN = JacobianLens({0: torch.eye(D_MODEL)}, 1)
ENTRANCES: dict[str, Callable[[Tiny, Path], object]] = {
    "clean": lambda t, _: pairs(t, clean=[STRANGE]),
    "corrupt": lambda t, _: pairs(t, corrupt=[STRANGE]),
    "answers": lambda t, _: pairs(t, answers=[" Gus Zed"]),
    "foils": lambda t, _: pairs(t, foils=[" Zed"]),
    "capture": lambda t, _: capture(t.model, [STRANGE], "resid_post"),
    "store": lambda t, path: ActivationStore(path / "s").get(t.model, [STRANGE], "resid_post"),
    "logits": lambda t, _: logits(t.model, STRANGE),
    "lens": lambda t, _: logit_lens(t.model, STRANGE),
    "lens answer": lambda t, _: logit_lens(t.model, CLEAN, " Zed"),
    "lens candidates": lambda t, _: logit_lens(t.model, [CLEAN], [[" Bo", " Zed"]]),
    "generation": lambda t, _: generate(t.model, [STRANGE], max_new_tokens=1),
    "completion": lambda t, _: complete(t.model, [STRANGE], 1),
    "score, prompt": lambda t, _: score_answers(t.model, [STRANGE], [" Bo"]),
    "score, answer": lambda t, _: score_answers(t.model, [CLEAN], [" Zed"]),
    "attention": lambda t, _: attention_patterns(t.model, [STRANGE]),
    "attribution": lambda t, _: direct_logit_attribution(t.model, [STRANGE], [" Bo"]),
    "doses": lambda t, _: dose_response(
        t.model, [STRANGE], DIRECTION, [0.0], sites="resid_post.1", answers=[" Bo"]
    ),
    "mask": lambda t, _: span_mask(t.model, [STRANGE], ["Zed"]),
    "mean": lambda t, _: sweep(t.model, pairs(t), "z", source="mean", reference=[STRANGE]),
    "association": lambda t, _: association_matrix(t.model, ["Zed", "Bo"], ["Ann", "Cy"]),
    "probes": lambda t, _: collect(t.model, [STRANGE], "resid_post"),
    "Jacobian lens": lambda t, _: fit_jacobian_lens(t.model, [STRANGE], skip_first=1),
    "its directions": lambda t, _: JACOBIAN.lens_vectors(t.model, "Zed", 0),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_no_entrance_lets_unknown_words_in(llama: Tiny, tmp_path: Path, entrance: str) -> None:
    with pytest.raises(PromptError, match=f"does not know 'Zed'.*'{UNK}'"):
        ENTRANCES[entrance](llama, tmp_path)


def test_half_a_character_is_no_text(llama: Tiny) -> None:
    for call in (
        lambda: tokenise(llama.model, "we \ud800 saw"),
        lambda: pairs(llama, answers=[" \udfff"]),
        lambda: read_rows(llama.model, ["we saw", "\udcff"], context=8),
    ):
        with pytest.raises(PromptError, match="lone surrogate") as caught:
            call()
        str(caught.value).encode()  # the message is text itself


def test_a_corpus_is_read_and_its_unknown_words_counted(llama: Tiny) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_rows(llama.model, ["we saw Ann", f"so {UNK} is"], context=8)
    with pytest.warns(UserWarning, match="2 of 9 tokens stand for words that it does not know"):
        read_rows(llama.model, ["we saw Zed", f"so {UNK} is", "Ux and then"], context=8)
    with pytest.raises(PromptError, match="cannot read this text: 3 of 5 tokens"):
        read_rows(llama.model, ["we saw Zed", "Ux Vy"], context=8)


def test_a_harvest_tells_of_them(llama: Tiny, tmp_path: Path) -> None:
    with (
        ActivationStore(tmp_path / "store") as store,
        pytest.warns(UserWarning, match="1 of 3 tokens"),
    ):
        harvest(llama.model, ["we saw Zed"], "resid_post.0", store, context=8)


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (lambda: wrapped(byte_pairs()), "na\u00efve cafe", "1 of 10 characters are left out"),
        (lambda: word_level(None), "a Zed b", "does not know 'Zed'"),
    ],
)
def test_a_corpus_loses_no_character_without_a_word(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch, make: Any, text: str, message: str
) -> None:
    monkeypatch.setattr(llama.model, "tokenizer", make())
    monkeypatch.setattr(type(llama.model), "prepends_bos", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((UserWarning, PromptError), match=message):
            read_rows(llama.model, [text], context=20)


def test_an_answer_is_not_its_own_foil(llama: Tiny) -> None:
    for answers, foils in (([" Bo"], [" Bo"]), ([" Bo Cy"], ["  Bo   Cy"])):
        with pytest.raises(PromptError, match="The answer is its own foil"):
            pairs(llama, answers=answers, foils=foils)
    one = torch.tensor([5])
    with pytest.raises(PromptError, match="its own foil"):
        pairs(llama, answers=one, foils=one)


def test_two_prompts_of_the_same_tokens_are_refused(llama: Tiny) -> None:
    with pytest.raises(PromptError, match="the same to llama"):
        pairs(llama, corrupt=["we  saw Ann near Rome and"])
    assert len(pairs(llama, corrupt=[CLEAN])) == 1  # a prompt beside itself is meant


ALIKE: dict[str, Callable[[Tiny, PromptPairs], object]] = {
    "sweep": lambda t, p: sweep(t.model, p, "resid_post"),
    "estimate": lambda t, p: estimate(t.model, p, "z", "logit_diff"),
    "patch_once": lambda t, p: patch_once(t.model, p, "resid_post", 0, position=1),
    "attribution": lambda t, p: direct_logit_attribution(t.model, p),
    "attribution of text": lambda t, p: direct_logit_attribution(
        t.model, [CLEAN], [" Gus Hal"], [" Gus Ida"]
    ),
    "doses": lambda t, p: dose_response(t.model, p, DIRECTION, [0.0], sites="resid_post.1"),
}


@pytest.mark.parametrize("instrument", ALIKE)
def test_answers_that_begin_alike_are_not_compared_by_their_first_tokens(
    llama: Tiny, instrument: str
) -> None:
    alike = pairs(llama, answers=[" Gus Hal"], foils=[" Gus Ida"])
    with pytest.raises(PromptError, match="begin with the same token"):
        ALIKE[instrument](llama, alike)


@pytest.mark.slow
def test_whole_answers_may_begin_alike(llama: Tiny) -> None:
    alike = pairs(llama, answers=[" Gus Hal"], foils=[" Gus Ida"])
    found = sweep(llama.model, alike, "resid_post", "logprob_diff", layers=[2])
    assert float(found["clean"][0]) != 0
    assert sweep(llama.model, alike, "resid_post", "rank", layers=[2])["clean"].notnull().all()


def test_a_lens_says_which_tokens_it_follows(llama: Tiny) -> None:
    with pytest.raises(PromptError, match="' Gus Hal' and ' Gus Ida' of prompt 0"):
        logit_lens(llama.model, [CLEAN], [[" Gus Hal", " Gus Ida"]])
    found = logit_lens(llama.model, [CLEAN], [[" Gus Hal", " Bo"]])
    assert found["answer_token"].values.tolist() == [["Gus", "Bo"]]
