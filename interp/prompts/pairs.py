"""Pairs of prompts that differ in one thing, with the answers that tell them apart."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cache.arguments import typed
from interp.errors import PromptError
from interp.model.model import Model
from interp.model.vocabulary import check_known, quoted
from interp.notebook import Cell, cut, ends, picture
from interp.prompts import alignment
from interp.prompts.alignment import Alignment, Range
from interp.prompts.tokens import Prompts, TokenBatch, check_length, check_vocabulary, pad, tokenise

Run = Literal["clean", "corrupt"]
_BOTH: tuple[Run, Run] = ("clean", "corrupt")
Read = Literal["prompt", "answer", "foil"]
Answers = Sequence[str] | Int[Tensor, "example token"] | Int[Tensor, " example"]
# Pairs and positions that a notebook shows.
_PAIRS, _SLOTS = 5, 24
Spans = Mapping[str, Sequence[str | tuple[str, str]]]


@dataclass(frozen=True)
class Reading:
    """Sequences to run, and where to read which token in them.

    Attributes:
        ids: token ids [example, position], right-padded: the prompt, then the continuation that
            is forced (all but its last token).
        positions: where the logits are read [example, read]; the last prompt token comes first.
        targets: the token that is looked for at each [example, read]; -1 where there is none.
    """

    ids: Int[Tensor, "example position"]
    positions: Int[Tensor, "example read"]
    targets: Int[Tensor, "example read"]


@typed
class PromptPairs:
    """Clean and corrupted prompts, aligned position by position.

    Args:
        model: the model whose tokenizer reads the prompts.
        clean: prompts that the model answers rightly, as text or token ids [example, position].
        corrupt: the same prompts with one thing changed.
        answers: what should follow each clean prompt, taken as written (" Paris", with its
            space), or token ids [example] or [example, token].
        foils: what should follow each corrupted prompt; needed by metrics of a difference.
        spans: named parts of the prompts, {"subject": [("Tom Cruise", "Brad Pitt"), …]}: for each
            example the words in the clean and in the corrupted prompt, or one text for both.
            Needed where a pair's two prompts have different lengths.

    Attributes:
        alignment: the position axis that all pairs share.
        answer_ids, foil_ids: token ids of each answer and foil.
        spans: the words of each span in the clean and in the corrupted prompt [example].

    Raises:
        PromptError: lists of different lengths, an answer without tokens or merging with its
            prompt, prompts of unequal length without spans, a span that is not in its prompt;
            words that the tokenizer does not know, an answer that is its own foil, or two prompts
            that the tokenizer cannot tell apart.
    """

    def __init__(
        self,
        model: Model,
        clean: Prompts,
        corrupt: Prompts,
        answers: Answers,
        foils: Answers | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.clean = tokenise(model, clean, what="clean prompts")
        self.corrupt = tokenise(model, corrupt, what="corrupted prompts")
        if len(self.clean) != len(self.corrupt):
            raise PromptError(
                f"There are {len(self.clean)} clean and {len(self.corrupt)} corrupted prompts; "
                "give one of each for every pair."
            )
        self.answer_ids = _continuations(model, self.clean, answers, "answers")
        self.foil_ids = None if foils is None else _continuations(model, self.clean, foils, "foils")
        self._check_answers(model, answers, foils)
        self.answers = tuple(model.decode(ids) for ids in self.answer_ids)
        self.foils = (
            None if self.foil_ids is None else tuple(model.decode(ids) for ids in self.foil_ids)
        )
        self._check_differences(model)
        self.alignment = align(self.clean, self.corrupt, spans)
        self.spans = {
            name: tuple((one, one) if isinstance(one, str) else (one[0], one[1]) for one in texts)
            for name, texts in (spans or {}).items()
        }
        self._check_lengths(model)
        # What stands at each position can be told from the texts, unless ids were given.
        known = all(found is not None for found in (*self.clean.offsets, *self.corrupt.offsets))
        rows = () if known else (self.clean.ids.flatten(), self.corrupt.ids.flatten())
        used = {int(i) for row in rows for i in row.tolist()}
        self._tokens = {i: model.token_strings([i])[0] for i in used}

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        pairs = f"{len(self)} pair{'s' if len(self) != 1 else ''}"
        if not len(self):
            return f"PromptPairs({pairs})"
        clean, corrupt, answer = map(
            _short, (self.clean.texts[0], self.corrupt.texts[0], self.answers[0])
        )
        foil = f" or {_short(self.foils[0])}" if self.foils else ""
        return (
            f"PromptPairs({pairs}, {len(self.alignment)} positions; "
            f"first: {clean} | {corrupt} → {answer}{foil})"
        )

    def _repr_html_(self) -> str:
        first, last = ends(len(self.positions), _SLOTS)
        gap = [Cell("…")] if last else []
        columns = ["pair", "run", *(self.positions[i] for i in first), *("…" for _ in gap)]
        columns += [*(self.positions[i] for i in last), "next", *(["not"] if self.foils else [])]
        rows = []
        for pair in range(min(len(self), _PAIRS)):
            clean, corrupt = (self._slots(run, pair) for run in _BOTH)
            for run, mine, other in (("clean", clean, corrupt), ("corrupt", corrupt, clean)):
                cells = [
                    Cell(a, marked=a != b, token=True) for a, b in zip(mine, other, strict=True)
                ]
                row = [Cell(str(pair)), Cell(run), *(cells[i] for i in first), *gap]
                row += [*(cells[i] for i in last), Cell(self.answers[pair], token=True)]
                rows.append([*row, *([Cell(self.foils[pair], token=True)] if self.foils else [])])
        more = len(self) - _PAIRS
        note = f"… and {more:,} more pair{'s' if more != 1 else ''}" if more > 0 else ""
        what = f"{len(self):,} pair{'s' if len(self) != 1 else ''}"
        return picture(f"PromptPairs: {what}, {len(self.positions)} positions", columns, rows, note)

    def _slots(self, run: Run, pair: int) -> list[str]:
        """The token at each position of the axis that the pairs share, "" where there is none."""
        batch = self.prompts(run)
        offsets = batch.offsets[pair]
        ids = batch.row(pair)
        if offsets is None:
            tokens = [self._tokens[i] for i in ids]
        else:
            tokens = [batch.texts[pair][a:b] if b > a else "BOS" for a, b in offsets]
        where = self.alignment.clean if run == "clean" else self.alignment.corrupt
        return [tokens[int(i)] if i >= 0 else "" for i in where[pair]]

    @property
    def positions(self) -> tuple[str, ...]:
        """The labels of the position axis, such as "subject -1"."""
        return self.alignment.labels

    def subset(self, examples: Sequence[int]) -> PromptPairs:
        """Some of the pairs, on the position axis of all of them."""
        some = copy.copy(self)
        some.clean, some.corrupt = self.clean.subset(examples), self.corrupt.subset(examples)
        some.answer_ids = tuple(self.answer_ids[i] for i in examples)
        some.answers = tuple(self.answers[i] for i in examples)
        if self.foil_ids is not None and self.foils is not None:
            some.foil_ids = tuple(self.foil_ids[i] for i in examples)
            some.foils = tuple(self.foils[i] for i in examples)
        some.alignment = self.alignment.subset(examples)
        some.spans = {name: tuple(words[i] for i in examples) for name, words in self.spans.items()}
        return some

    def prompts(self, run: Run) -> TokenBatch:
        return self.clean if run == "clean" else self.corrupt

    def reading(self, run: Run, read: Read) -> Reading:
        """The sequences of one run, with the answer or the foil forced where `read` says so."""
        prompts = self.prompts(run)
        if read == "prompt":
            continuations: tuple[tuple[int, ...], ...] = ((),) * len(self)
        else:
            continuations = self.answer_ids if read == "answer" else self._foil_ids()
        return forced(prompts, continuations)

    def first_tokens(self, read: Literal["answer", "foil"]) -> Int[Tensor, " example"]:
        """The first token of each answer or foil [example]."""
        ids = self.answer_ids if read == "answer" else self._foil_ids()
        return torch.tensor([continuation[0] for continuation in ids])

    def check_first_tokens(self, examples: Iterable[int] | None = None) -> None:
        """Raise a PromptError where an answer and its foil begin alike: nothing else is compared.

        Args:
            examples: the pairs to look at; all if left out.
        """
        for i in range(len(self)) if examples is None else examples:
            if self.answer_ids[i][0] == self._foil_ids()[i][0]:
                answer, foil = self.answers[i], (self.foils or ())[i]
                raise PromptError(
                    f"The answer {quoted(answer)} and the foil {quoted(foil)}{self._which(i)} "
                    "begin with the same token, and only first tokens are compared here; choose "
                    "another foil, or in Python the metric 'logprob_diff', which compares "
                    "whole answers."
                )

    def _which(self, i: int) -> str:
        """Which pair is meant, where there are several."""
        return f" of pair {i}" if len(self) > 1 else ""

    def _foil_ids(self) -> tuple[tuple[int, ...], ...]:
        if self.foil_ids is None:
            raise PromptError("This metric compares with a foil; give PromptPairs its foils=….")
        return self.foil_ids

    def _check_answers(self, model: Model, answers: Answers, foils: Answers | None) -> None:
        """The same tokens must be read after either prompt of a pair."""
        for given, ids, what in (
            (answers, self.answer_ids, "answers"),
            (foils, self.foil_ids, "foils"),
        ):
            if given is not None and _continuations(model, self.corrupt, given, what) != ids:
                raise PromptError(
                    f"Some of the {what} have other tokens after the corrupted prompt than after "
                    "the clean one; end both prompts alike."
                )

    def _check_differences(self, model: Model) -> None:
        """What is compared must differ, or every number would be 0 by construction."""
        for i, (one, other) in enumerate(zip(self.clean.texts, self.corrupt.texts, strict=True)):
            if one != other and self.clean.row(i) == self.corrupt.row(i):
                raise PromptError(
                    f"The two prompts{self._which(i)} are the same to {model.name}, whose "
                    f"tokenizer does not tell {quoted(one)} from {quoted(other)}; change "
                    "one of them."
                )
        for i, (answer, foil) in enumerate(zip(self.answer_ids, self.foil_ids or (), strict=False)):
            if answer == foil:
                raise PromptError(
                    f"The answer{self._which(i)} is its own foil ({quoted(model.decode(answer))}), "
                    "so every difference between them would be 0; give another foil."
                )

    def _check_lengths(self, model: Model) -> None:
        longest = max(len(ids) for group in (self.answer_ids, self.foil_ids or ()) for ids in group)
        length = int(max(self.clean.lengths.max(), self.corrupt.lengths.max())) + longest - 1
        check_length(model, length, "prompts with their answers")


def forced(prompts: TokenBatch, continuations: Sequence[tuple[int, ...]]) -> Reading:
    """Each prompt with its continuation after it, to be read token by token."""
    rows = [[*prompts.row(i), *continuation[:-1]] for i, continuation in enumerate(continuations)]
    width = max(1, max(len(c) for c in continuations))
    targets = torch.full((len(rows), width), -1)
    for number, continuation in enumerate(continuations):
        targets[number, : len(continuation)] = torch.tensor(continuation, dtype=torch.long)
    # Reads beyond a short answer repeat its last position and are left out by target -1.
    last = torch.tensor([max(1, len(c)) - 1 for c in continuations])
    steps = torch.minimum(torch.arange(width)[None, :], last[:, None])
    return Reading(pad(rows, prompts.texts).ids, (prompts.lengths - 1)[:, None] + steps, targets)


def _continuations(
    model: Model, prompts: TokenBatch, given: Answers, what: str
) -> tuple[tuple[int, ...], ...]:
    if len(given) != len(prompts):
        raise PromptError(
            f"There are {len(given)} {what} for {len(prompts)} prompts; give one for each."
        )
    if isinstance(given, Tensor):
        rows = given[:, None] if given.ndim == 1 else given
        if rows.ndim != 2 or rows.shape[1] == 0 or rows.is_floating_point():
            raise PromptError(f"Token ids of {what} must be integers of shape [example, token].")
        check_vocabulary(model, [int(rows.min()), int(rows.max())], what)
        return tuple(tuple(int(i) for i in row) for row in rows)
    return continuations(model, prompts, given, what)


def continuations(
    model: Model, prompts: TokenBatch, answers: Sequence[str], what: str = "answers"
) -> tuple[tuple[int, ...], ...]:
    """For each prompt the tokens that its answer adds when it is written right after it.

    Tokenised together with the prompt, because many tokenizers treat the start of a text
    differently from the middle.

    Args:
        what: what to call the answers in an error.

    Raises:
        PromptError: an answer has no tokens, melts into its prompt's last one, or is not known to
            the tokenizer.
    """
    for number, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise PromptError(f"Each answer must be text; number {number} is not.")
    texts = [text + answer for text, answer in zip(prompts.texts, answers, strict=True)]
    wholes = model.encode(texts, what=what, check=False)
    out = []
    for number, ((whole, _), answer) in enumerate(zip(wholes, answers, strict=True)):
        length = int(prompts.lengths[number])
        if whole[:length] != prompts.row(number):
            raise PromptError(
                f"The answer '{answer}' merges with the end of '{prompts.texts[number]}' into "
                "other tokens; start the answer with a space."
            )
        if len(whole) == length:
            raise PromptError(f"The answer '{answer}' has no tokens; give visible text.")
        check_vocabulary(model, whole[length:], what)
        out.append(tuple(whole[length:]))
    # Now that no word is one that was merged.
    bos = int(model.prepends_bos)
    without = [(ids[bos:], offsets and offsets[bos:]) for ids, offsets in wholes]
    check_known(model.tokenizer, model.name, texts, without, what)
    return tuple(out)


def _short(text: str) -> str:
    return repr(cut(text, 40))


def align(clean: TokenBatch, corrupt: TokenBatch, spans: Spans | None) -> Alignment:
    """The position axis of some pairs; of single prompts, where both are the same.

    Raises:
        PromptError: prompts of unequal length without spans, or spans that they do not hold.
    """
    if not spans:
        unequal = np.nonzero((clean.lengths != corrupt.lengths).numpy())[0]
        if len(unequal):
            i = int(unequal[0])
            raise PromptError(
                f"Pair {i} has prompts of {int(clean.lengths[i])} and {int(corrupt.lengths[i])} "
                "tokens; name spans=… so that they can be aligned."
            )
        return alignment.by_index(clean.lengths.tolist())
    for name, texts in spans.items():
        if name in ("start", "end") or name.endswith("+"):
            raise PromptError(f"The span name '{name}' is taken; choose another.")
        if len(texts) != len(clean):
            raise PromptError(
                f"The span '{name}' is given for {len(texts)} of {len(clean)} pairs; give all."
            )
    found = [
        [
            {
                name: find_span(
                    batch, i, texts[i] if isinstance(texts[i], str) else texts[i][run], name
                )
                for name, texts in spans.items()
            }
            for i in range(len(batch))
        ]
        for run, batch in enumerate((clean, corrupt))
    ]
    return alignment.by_spans(clean.lengths.tolist(), corrupt.lengths.tolist(), found[0], found[1])


def find_span(batch: TokenBatch, example: int, words: str | tuple[str, str], name: str) -> Range:
    """The tokens (first, after the last) of some words in a prompt; `name` is for errors.

    Raises:
        PromptError: they are not there, or several times, or the tokenizer cannot tell.
    """
    text, offsets = batch.texts[example], batch.offsets[example]
    if offsets is None:
        raise PromptError(
            "Spans are found by their characters, which token ids and slow tokenizers do not give; "
            "pass the prompts as text to a model with a fast tokenizer."
        )
    found = occurrences(text, str(words)) if str(words).strip() else []
    if not found:
        raise PromptError(f"The span '{name}' ('{words}') is not in the prompt '{text}'.")
    if len(found) > 1:
        raise PromptError(
            f"The span '{name}' ('{words}') stands {len(found)} times in the prompt '{text}'; name "
            "a longer piece that stands there once."
        )
    return alignment.token_range(text, offsets, found[0], found[0] + len(words))


def occurrences(text: str, words: str) -> list[int]:
    """Where `words` stand in `text`: as whole words, or if they do so nowhere, inside of others."""
    left = r"(?<!\w)" if re.match(r"\w", words) else ""
    right = r"(?!\w)" if re.match(r"\w", words[-1]) else ""
    for pattern in (left + re.escape(words) + right, re.escape(words)):
        found = [match.start() for match in re.finditer(pattern, text)]
        if found:
            return found
    return []
