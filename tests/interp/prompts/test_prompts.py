"""Prompts become the right tokens, and what does not fit together is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import Model, PromptPairs, load_model
from interp.errors import PromptError
from interp.prompts.pairs import forced
from interp.prompts.tokens import TokenBatch, tokenise
from tests.interp.tiny import BOS, N_CTX, VOCABULARY, Tiny, build_tokenizer, save, words

CLEAN, CORRUPT = "we saw Ann near Rome and", "we saw Bo near Rome and"


def test_text_becomes_its_words_after_bos(tiny: Tiny) -> None:
    texts = ["we saw Ann", "so", "the friend of Bo Cy is near home ."]
    batch = tokenise(tiny.model, texts)
    assert batch.texts == tuple(texts)
    assert [batch.row(i) for i in range(3)] == [tiny.ids(text) for text in texts]
    assert batch.lengths.tolist() == [len(tiny.ids(text)) for text in texts]
    for row, length in zip(batch.ids.tolist(), batch.lengths.tolist(), strict=True):
        assert set(row[length:]) <= {0}
    for text, offsets in zip(texts, batch.offsets, strict=True):
        assert offsets is not None
        assert [text[a:b] for a, b in offsets] == [""] * len(tiny.bos) + text.split()


def test_one_text_is_a_batch_of_one(llama: Tiny) -> None:
    assert tokenise(llama.model, CLEAN).row(0) == llama.ids(CLEAN)


def test_token_ids_are_taken_as_they_are(tiny: Tiny) -> None:
    ids = torch.tensor([words("we saw Ann"), words("so Bo is")], dtype=torch.int32)
    batch = tokenise(tiny.model, ids)
    assert batch.ids.tolist() == ids.tolist()  # no BOS is added
    assert batch.ids.dtype == torch.long
    assert batch.lengths.tolist() == [3, 3]
    assert batch.offsets == (None, None)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "no prompts"),
        ("", "empty"),
        (["we saw", "  "], "Number 1 of the prompts is empty"),
        (["we saw", 3], "number 1 is not"),
        ([" ".join(["we"] * N_CTX)], f"takes {N_CTX + 1} tokens"),
        (torch.zeros(0, 3, dtype=torch.long), "no prompts"),
        (torch.zeros(2, 0, dtype=torch.long), "shape"),
        (torch.tensor([1, 2]), "shape"),
        (torch.tensor([[1.0, 2.0]]), "integers"),
        (torch.tensor([[1, len(VOCABULARY)]]), "vocabulary"),
        (torch.tensor([[-1, 2]]), "vocabulary"),
        (torch.ones(1, N_CTX + 1, dtype=torch.long), f"takes {N_CTX + 1} tokens"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(llama: Tiny, prompts: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        tokenise(llama.model, prompts)


def test_a_prompt_may_fill_the_context(llama: Tiny) -> None:
    assert tokenise(llama.model, " ".join(["we"] * (N_CTX - 1))).lengths.tolist() == [N_CTX]


@pytest.fixture(scope="module")
def larger_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose tokenizer has learned a word that it has no embedding for."""
    folder = save("llama", tmp_path_factory.mktemp("larger"))
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["Zed"])
    tokenizer.save_pretrained(folder)
    return load_model(folder)


@pytest.mark.slow
def test_words_without_an_embedding_are_refused(larger_vocabulary: Model) -> None:
    assert larger_vocabulary.token_ids("Zed")[-1] == len(VOCABULARY)
    with pytest.raises(PromptError, match="vocabulary"):
        tokenise(larger_vocabulary, ["we saw Zed"])
    with pytest.raises(PromptError, match="vocabulary"):
        PromptPairs(larger_vocabulary, [CLEAN], [CORRUPT], [" Zed"], [" Bo"])


def pairs(tiny: Tiny, **changes: Any) -> PromptPairs:
    given: dict[str, Any] = {
        "clean": [CLEAN, "so Fay is"],
        "corrupt": [CORRUPT, "so Gus is"],
        "answers": [" Gus Hal", " Jo"],
        "foils": [" Ida", " Cy Dee Eve"],
    }
    return PromptPairs(tiny.model, **{**given, **changes})


def test_answers_are_the_words_after_the_prompt(tiny: Tiny) -> None:
    found = pairs(tiny)
    assert len(found) == 2
    assert found.answer_ids == (tuple(words("Gus Hal")), tuple(words("Jo")))
    assert found.foil_ids == (tuple(words("Ida")), tuple(words("Cy Dee Eve")))
    assert [answer.split() for answer in found.answers] == [["Gus", "Hal"], ["Jo"]]
    assert found.first_tokens("answer").tolist() == words("Gus Jo")
    assert found.first_tokens("foil").tolist() == words("Ida Cy")


@pytest.mark.parametrize("run", ["clean", "corrupt"])
@pytest.mark.parametrize("read", ["prompt", "answer", "foil"])
def test_a_reading_forces_all_but_the_last_token(tiny: Tiny, run: str, read: str) -> None:
    found = pairs(tiny)
    texts = {"clean": [CLEAN, "so Fay is"], "corrupt": [CORRUPT, "so Gus is"]}[run]
    after = {"prompt": ["", ""], "answer": ["Gus Hal", "Jo"], "foil": ["Ida", "Cy Dee Eve"]}[read]
    reading = found.reading(run, read)
    for row, (text, words_after) in enumerate(zip(texts, after, strict=True)):
        prompt, continuation = tiny.ids(text), words(words_after)
        whole = [*prompt, *continuation[:-1]]
        assert reading.ids[row, : len(whole)].tolist() == whole
        wanted = {len(prompt) - 1 + step: token for step, token in enumerate(continuation)}
        targets, positions = reading.targets[row].tolist(), reading.positions[row].tolist()
        read_at = {p: t for p, t in zip(positions, targets, strict=True) if t >= 0}
        assert read_at == wanted
        assert positions[0] == len(prompt) - 1
        assert max(positions) < len(whole)


def test_continuations_of_different_lengths_share_a_width(tiny: Tiny) -> None:
    batch = tokenise(tiny.model, ["we saw", "so"])
    reading = forced(batch, [(5, 6, 7), (8,)])
    n = len(tiny.bos)
    assert reading.targets.tolist() == [[5, 6, 7], [8, -1, -1]]
    assert reading.positions.tolist() == [[n + 1, n + 2, n + 3], [n, n, n]]
    assert reading.ids.tolist() == [
        [*tiny.ids("we saw"), 5, 6],
        [*tiny.ids("so"), 0, 0, 0],
    ]


def test_prompts_given_as_ids_take_answers_as_text_or_ids(tiny: Tiny) -> None:
    clean, corrupt = (torch.tensor([tiny.ids(text)]) for text in (CLEAN, CORRUPT))
    two = PromptPairs(tiny.model, clean, corrupt, torch.tensor([words("Gus Hal")]))
    assert two.answer_ids == (tuple(words("Gus Hal")),)
    one = PromptPairs(tiny.model, clean, corrupt, torch.tensor(words("Gus")))
    assert one.answer_ids == (tuple(words("Gus")),)
    assert one.foil_ids is None
    text = PromptPairs(tiny.model, clean, corrupt, [" Gus Hal"])
    assert text.answer_ids == (tuple(words("Gus Hal")),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": [CLEAN]}, "1 clean and 2 corrupted"),
        ({"answers": [" Gus"]}, "1 answers for 2 prompts"),
        ({"foils": [" Gus"] * 3}, "3 foils for 2 prompts"),
        ({"clean": [], "corrupt": []}, "no clean prompts"),
        ({"corrupt": ["", ""]}, "corrupted prompts is empty"),
        ({"answers": ["", " Jo"]}, "no tokens"),
        ({"answers": ["  ", " Jo"]}, "no tokens"),
        ({"answers": ["more", " Jo"]}, "merges with the end"),
        ({"answers": [3, 4]}, "must be text"),
        ({"answers": torch.tensor([1.0, 2.0])}, "integers"),
        ({"answers": torch.tensor([1, len(VOCABULARY)])}, "vocabulary"),
        ({"foils": torch.tensor([[1], [-1]])}, "vocabulary"),
        ({"answers": torch.zeros(2, 0, dtype=torch.long)}, "shape"),
        ({"answers": torch.zeros(2, 1, 1, dtype=torch.long)}, "shape"),
        ({"corrupt": [CORRUPT, "so Gus Hal is"]}, "Pair 1 .* name spans"),
        ({"spans": {"who": ["Ann"]}}, "1 of 2 pairs"),
        ({"spans": {"who": [("Ann", "Bo"), ("Fay", "Ida")]}}, "'Ida'.* not in the prompt"),
        ({"spans": {"who": [("Ann", "Bo"), ("", "Gus")]}}, "not in the prompt"),
        ({"spans": {"who": [("Ann", "Bo"), (" ", "Gus")]}}, "not in the prompt"),
        ({"spans": {"end": [("Ann", "Bo"), ("Fay", "Gus")]}}, "taken"),
        ({"spans": {"a+": [("Ann", "Bo"), ("Fay", "Gus")]}}, "taken"),
    ],
)
def test_pairs_that_do_not_fit_together_are_refused(
    llama: Tiny, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        pairs(llama, **changes)


@pytest.mark.parametrize("which", ["answers", "foils"])
def test_prompts_must_leave_room_for_their_answers(llama: Tiny, which: str) -> None:
    """The last token of an answer is only predicted, never read."""
    prompt = " ".join(["we"] * (N_CTX - 3))  # with BOS, two places are left
    given = {"answers": [" Bo"], "foils": [" Cy"]}
    fits = {**given, which: [" Ann Bo Cy"]}
    assert len(PromptPairs(llama.model, [prompt], [prompt], **fits)) == 1
    with pytest.raises(PromptError, match=f"takes {N_CTX + 1} tokens"):
        PromptPairs(llama.model, [prompt], [prompt], **{**given, which: [" Ann Bo Cy Dee"]})


def test_a_metric_of_foils_needs_foils(llama: Tiny) -> None:
    without = pairs(llama, foils=None)
    for use in (lambda: without.reading("clean", "foil"), lambda: without.first_tokens("foil")):
        with pytest.raises(PromptError, match="foils="):
            use()


def test_spans_cannot_be_found_in_token_ids(llama: Tiny) -> None:
    ids = [torch.tensor([llama.ids(text)]) for text in (CLEAN, CORRUPT)]
    with pytest.raises(PromptError, match="as text"):
        PromptPairs(llama.model, *ids, [" Gus"], [" Ida"], spans={"who": [("Ann", "Bo")]})


def test_spans_cannot_be_found_with_a_slow_tokenizer(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        """The same tokenizer, without offsets."""

        is_fast = False

        def __init__(self, fast: Any) -> None:
            self.fast = fast

        def __call__(self, texts: list[str], *, return_offsets_mapping: bool, **rest: Any) -> Any:
            if return_offsets_mapping:
                raise NotImplementedError
            return self.fast(texts, **rest)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.fast, name)

    monkeypatch.setattr(llama.model, "tokenizer", Slow(llama.model.tokenizer))
    assert pairs(llama).clean.row(0) == llama.ids(CLEAN)
    with pytest.raises(PromptError, match="fast tokenizer"):
        pairs(llama, spans={"who": [("Ann", "Bo"), ("Fay", "Gus")]})


def positions_of(batch: TokenBatch, example: int, label: str, of: PromptPairs) -> list[int]:
    index = of.alignment.clean if batch is of.clean else of.alignment.corrupt
    columns = [i for i, span in enumerate(of.alignment.spans) if span == label]
    return [int(index[example, i]) for i in columns if index[example, i] >= 0]


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("we saw Ann and Anna", "Ann", [2]),
        ("Anna saw Ann and Bo", "Ann", [2]),  # not the first half of Anna
        ("Anna saw Ann and Bo", " Ann", [2]),
        ("we saw Ann Bo and Ann", "Ann Bo", [2, 3]),
        ("we saw Anna", "Ann", [2]),  # only inside a word: the token that holds it
        ("who is Ann ?", "?", [3]),
    ],
)
def test_a_span_is_the_place_where_its_words_stand_whole(
    tiny: Tiny, text: str, span: str, expected: list[int]
) -> None:
    found = PromptPairs(tiny.model, [text], [text], [" Gus"], spans={"it": [span]})
    assert positions_of(found.clean, 0, "it", found) == [len(tiny.bos) + i for i in expected]


def test_a_span_that_stands_twice_is_refused(llama: Tiny) -> None:
    text = "we saw Ann and Ann"
    with pytest.raises(PromptError, match="2 times"):
        PromptPairs(llama.model, [text], [text], [" Gus"], spans={"it": ["Ann"]})


def test_no_spans_are_no_alignment_by_spans(llama: Tiny) -> None:
    with pytest.raises(PromptError, match="spans"):
        PromptPairs(llama.model, ["we saw Ann"], ["we saw Ann Bo"], [" Gus"], spans={})


def test_each_pair_may_name_one_text_or_two(llama: Tiny) -> None:
    both = pairs(llama, corrupt=[CLEAN, "so Gus is"], spans={"who": ["Ann", ("Fay", "Gus")]})
    assert positions_of(both.clean, 1, "who", both) == [2]
    assert positions_of(both.corrupt, 0, "who", both) == [3]


@pytest.mark.slow
def test_no_file_is_needed_besides_the_folder(tmp_path: Path, zoo: Callable[[str], Tiny]) -> None:
    """The model's own BOS rule is used, whatever the tokenizer would add by itself."""
    assert zoo("llama").model.prepends_bos
    assert not zoo("neox").model.prepends_bos
    tokenizer = build_tokenizer()
    assert tokenizer("we")["input_ids"] == words(f"{BOS} we")  # it would add one
    assert zoo("neox").model.token_ids("we") == words("we")
    assert zoo("llama").model.token_ids("we") == words(f"{BOS} we")  # and not two
