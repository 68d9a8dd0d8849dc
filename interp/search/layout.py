"""Prompts with free tokens: where these stand, and whether a text of theirs reads back as they are.

Searches work on token ids, but who uses a suffix pastes text, and a tokenizer may cut that text
otherwise than the ids were put together: what was measured is then of tokens that nobody can write.
So a suffix counts only if the whole prompt with it, and the answer behind, reads back exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.errors import PromptError
from interp.model.model import Model
from interp.model.vocabulary import quoted
from interp.prompts.tokens import check_length, check_vocabulary

MARKER = "{suffix}"
"""Where the free tokens stand in a prompt; at its end where it has no such mark."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Prompts around free tokens.

    Attributes:
        before, after: text of each prompt around the free tokens.
        head, tail: the same as token ids, BOS included; every suffix leaves them as they are.
        continuations: texts that are read after the prompts, one for each prompt in each.
        following: the token ids of these.
    """

    model: Model
    before: tuple[str, ...]
    after: tuple[str, ...]
    head: tuple[Tokens, ...]
    tail: tuple[Tokens, ...]
    continuations: tuple[tuple[str, ...], ...] = ()
    following: tuple[tuple[Tokens, ...], ...] = ()

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Sequence[str],
        suffix: str,
        continuations: Sequence[Sequence[str]] = (),
    ) -> tuple[Layout, Tokens]:
        """The prompts with their free tokens, which hold `suffix` at first, and its tokens.

        Raises:
            PromptError: no prompts, several marks in one, or a suffix that has no tokens of its
                own in some prompt, or others than in the first.
        """
        before, after = split(prompts)
        if not suffix:
            raise PromptError("The suffix has no text; give some, or a number of tokens.")
        n = len(before)
        rows = [ids for ids, _ in model.encode([*before, *(t + suffix for t in before)])]
        heads, longer = rows[:n], rows[n:]
        tokens = tuple(longer[0][len(heads[0]) :])
        for i in range(n):
            if not tokens or longer[i] != [*heads[i], *tokens]:
                raise PromptError(_merges(suffix, i, before[i]))
        texts = tuple(a + suffix + b for a, b in zip(before, after, strict=True))
        wholes = [ids for ids, _ in model.encode(texts)]
        for i in range(n):
            if wholes[i][: len(longer[i])] != longer[i]:
                raise PromptError(_merges(suffix, i, texts[i]))
        tails = tuple(tuple(ids[len(front) :]) for ids, front in zip(wholes, longer, strict=True))
        following = []
        for column in continuations:
            read = model.encode([a + b for a, b in zip(texts, column, strict=True)])
            following.append(
                tuple(
                    tuple(ids[len(whole) :]) for (ids, _), whole in zip(read, wholes, strict=True)
                )
            )
        check_length(model, max(map(len, wholes)), "prompts")
        return (
            cls(
                model,
                before,
                after,
                tuple(map(tuple, heads)),
                tails,
                tuple(map(tuple, continuations)),
                tuple(following),
            ),
            tokens,
        )

    def __len__(self) -> int:
        return len(self.before)

    def row(self, example: int, tokens: Sequence[int]) -> list[int]:
        """The token ids of one prompt with these free tokens."""
        return [*self.head[example], *tokens, *self.tail[example]]

    def text(self, tokens: Sequence[int], example: int = 0) -> str:
        """The free tokens as text, as they are written in one of the prompts."""
        before = self.model.decode(self.head[example])
        whole = self.model.decode([*self.head[example], *tokens])
        # Some tokenizers show a word's leading space only behind another word.
        return whole[len(before) :] if whole.startswith(before) else self.model.decode(tokens)

    def whole(self, text: str) -> tuple[str, ...]:
        """The prompts with this text in the place of the free tokens."""
        return tuple(a + text + b for a, b in zip(self.before, self.after, strict=True))

    def reads_back(self, tokens: Sequence[int]) -> bool:
        """Whether the text of these tokens is read as they are, in every prompt."""
        text = self.text(tokens)
        wholes = self.whole(text)
        asked = [list(wholes)]
        wanted = [[self.row(i, tokens) for i in range(len(self))]]
        for column, following in zip(self.continuations, self.following, strict=True):
            asked.append([a + b for a, b in zip(wholes, column, strict=True)])
            wanted.append([[*w, *f] for w, f in zip(wanted[0], following, strict=True)])
        # The first prompt alone tells most that are read otherwise.
        if self._read([asked[0][0]]) != [wanted[0][0]]:
            return False
        return self._read([t for column in asked for t in column]) == [
            ids for column in wanted for ids in column
        ]

    def read_back(self, many: Sequence[Sequence[int]]) -> list[bool]:
        """Which of some free tokens are read as they are in the first prompt."""
        texts = [self.before[0] + self.text(tokens) + self.after[0] for tokens in many]
        read = self._read(texts)
        return [ids == self.row(0, tokens) for ids, tokens in zip(read, many, strict=True)]

    def _read(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        try:
            return [ids for ids, _ in self.model.encode(texts, check=False)]
        except PromptError:  # half a character, or a word without a token, in one of them
            if len(texts) == 1:
                return [[]]
            return [ids for text in texts for ids in self._read([text])]


def split(prompts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts before and after the free tokens.

    Raises:
        PromptError: no prompts, something else than text, or several marks in one.
    """
    if not prompts:
        raise PromptError("There are no prompts; give at least one.")
    before, after = [], []
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise PromptError(f"Each of the prompts must be text; number {number} is not.")
        pieces = prompt.split(MARKER)
        if len(pieces) > 2:
            raise PromptError(
                f"Prompt {number} has {len(pieces) - 1} places for the suffix ({MARKER}); leave "
                "one, or none for a suffix at its end."
            )
        before.append(pieces[0])
        after.append(pieces[1] if len(pieces) == 2 else "")
    return tuple(before), tuple(after)


def check_tokens(model: Model, tokens: Sequence[int], what: str) -> None:
    """Raise a PromptError for ids that are no tokens of text."""
    check_vocabulary(model, list(tokens), what)
    special = set(model.tokenizer.all_special_ids).intersection(tokens)
    if special:
        raise PromptError(
            f"The {what} hold the special token {quoted(model.token_strings([min(special)])[0])}, "
            "which nobody writes; leave it out."
        )


def _merges(suffix: str, example: int, text: str) -> str:
    return (
        f"The suffix {quoted(suffix)} does not read as the same tokens in prompt {example} "
        f"({quoted(text)}) as in the first: it melts into what stands beside it, or has no tokens; "
        "begin it with a space, and let what follows begin with one."
    )
