"""Text that a tokenizer cannot read: words it has no token for, and characters it leaves out.

Either becomes "<unk>", or nothing at all, without a word from the tokenizer; what is measured then
is of another text than the one that was given.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from interp.errors import PromptError

__all__ = [
    "check_known",
    "check_unicode",
    "count_unknown",
    "dropped_characters",
    "quoted",
    "unknown_ids",
    "unreadable",
]

Offsets = list[tuple[int, int]]

_NAMED = 5  # words in a message
# From corners of Unicode: a tokenizer that has neither bytes nor a token for the unknown drops one.
_RARE = ("\ue000", "\ua66e", "\u2603", "\U0001f9ff")
# Spaces, controls and marks of formatting, which many tokenizers leave out.
_INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf"}


def check_unicode(texts: Iterable[str], what: str) -> None:
    """Raise a PromptError for half a surrogate pair, which is no text."""
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"Number {number} of the {what} holds half of a character (a lone surrogate, at "
                f"{error.start} in {quoted(text)}); write the character whole."
            ) from error


def check_known(
    tokenizer: Any,
    name: str,
    texts: Sequence[str],
    encoded: Sequence[tuple[Sequence[int], Offsets | None]],
    what: str,
) -> None:
    """Raise a PromptError that names what the tokenizer could not read.

    A token for unknown words that the user wrote out ("<unk>") is meant, and stays. Accents and
    capitals that a tokenizer folds by design are no loss: their letters are still there.

    Args:
        name: of the model.
        encoded: for each of the texts its token ids and, where known, their characters.
        what: what to call the texts in an error.
    """
    unknown = unknown_ids(tokenizer)
    dropped = dropped_characters(tokenizer, texts)
    for number, (text, (ids, offsets)) in enumerate(zip(texts, encoded, strict=True)):
        strange = _unknown(tokenizer, text, ids, offsets, unknown)
        if strange:
            token = next(iter(unknown.values()))
            raise PromptError(
                f"{name} does not know {_listed(strange)} ({_which(number, texts, what)}) and "
                f"would read '{token}' instead; use words that its tokenizer knows."
            )
        lost = _lost(tokenizer, text, ids, offsets, dropped)
        if lost:
            raise PromptError(
                f"{name}'s tokenizer leaves out {_listed(lost)} ({_which(number, texts, what)}), "
                "or a part of it; use characters that it knows."
            )


def unknown_ids(tokenizer: Any) -> dict[int, str]:
    """The tokens that stand for what a tokenizer does not know, by id: none, one, rarely two."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    found = {}
    for token in (getattr(model, "unk_token", None), getattr(tokenizer, "unk_token", None)):
        number = None if token is None else tokenizer.convert_tokens_to_ids(str(token))
        if number is not None:
            found[int(number)] = str(token)
    return found


def count_unknown(tokenizer: Any, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> int:
    """How many tokens of some texts stand for what is unknown, without those written out."""
    unknown = unknown_ids(tokenizer)
    if not unknown:
        return 0
    count = 0
    for text, ids in zip(texts, rows, strict=True):
        written = sum(text.count(token) for token in unknown.values())
        count += max(0, sum(map(unknown.__contains__, ids)) - written)
    return count


def dropped_characters(tokenizer: Any, texts: Iterable[str]) -> set[str]:
    """The characters of some texts that a tokenizer leaves out, for want of a token."""
    unknown = unknown_ids(tokenizer)
    if not _dropped(tokenizer, _RARE, unknown):
        return set()
    found = set().union(*map(set, texts))
    return _dropped(tokenizer, [c for c in found if not _ignored(tokenizer, c)], unknown)


def unreadable(tokenizer: Any, name: str, texts: Sequence[str], what: str) -> PromptError:
    """The error for texts on which a tokenizer fails instead of leaving a word out."""
    for number, text in enumerate(texts):
        if _ids(tokenizer, text) is None:
            words = _words(text, lambda word: _ids(tokenizer, word) is None)
            return PromptError(
                f"{name} does not know {_listed(words or [text])} ({_which(number, texts, what)}); "
                "use words that its tokenizer knows."
            )
    return PromptError(f"{name}'s tokenizer cannot read the {what}; give plain text.")


def _which(number: int, texts: Sequence[str], what: str) -> str:
    """Which of some texts is meant, as people say it: an only one has no number."""
    return (
        f"number {number} of the {what}" if len(texts) > 1 else f"in the {what.removesuffix('s')}"
    )


def quoted(text: str) -> str:
    """A text in quotes on one line, cut where it is long."""
    short = text if len(text) <= 60 else text[:59] + "…"
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short) + "'"


def _unknown(
    tokenizer: Any,
    text: str,
    ids: Sequence[int],
    offsets: Offsets | None,
    unknown: dict[int, str],
) -> list[str]:
    """The words for which the unknown token stands, but for that token itself."""
    strange = [at for at, number in enumerate(ids) if number in unknown]
    if not strange:
        return []
    if offsets is not None:
        pieces = [(text[slice(*offsets[at])].strip(), unknown[ids[at]]) for at in strange]
        return list(dict.fromkeys(piece or text for piece, token in pieces if piece != token))
    if len(strange) <= sum(text.count(token) for token in unknown.values()):
        return []
    tokens = set(unknown.values())

    def stands_for(word: str) -> bool:
        return word not in tokens and not unknown.keys().isdisjoint(_ids(tokenizer, word) or ())

    return _words(text, stands_for) or [text.strip()]


def _lost(
    tokenizer: Any, text: str, ids: Sequence[int], offsets: Offsets | None, dropped: set[str]
) -> list[str]:
    """The words of which no token shows some character."""
    if not dropped.isdisjoint(text):
        # The offsets of such a tokenizer are wrong from the first character on that it drops.
        return _words(text, lambda word: not dropped.isdisjoint(word))
    if offsets is None:
        left = Counter(_plain(text)) - Counter(_plain(_decoded(tokenizer, ids)))
        return _words(text, lambda word: not left.keys().isdisjoint(_plain(word)))
    beyond, gaps = 0, []
    for start, stop in [*sorted(offsets), (len(text), len(text))]:
        if any(not _ignored(tokenizer, c) for c in text[beyond:start]):
            gaps.append((beyond, start))
        beyond = max(beyond, stop)
    return list(
        dict.fromkeys(
            match[0]
            for match in re.finditer(r"\S+", text)
            if any(match.start() < stop and start < match.end() for start, stop in gaps)
        )
    )


def _ignored(tokenizer: Any, character: str) -> bool:
    """Whether a character may go: an invisible one, or an accent that is folded by design."""
    category = unicodedata.category(character)
    if category in _INVISIBLE or character.isspace():
        return True
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return category == "Mn" and normalizer is not None and not normalizer.normalize_str(character)


def _dropped(tokenizer: Any, characters: Sequence[str], unknown: dict[int, str]) -> set[str]:
    """The characters that leave no token: some put one before every text, so three are tried."""
    # At once, since a call takes longer than what it does; alone where one of them is refused.
    texts = [times * c for c in characters for times in (1, 3)]
    rows: Sequence[list[int] | None] | None = _rows(tokenizer, texts) if texts else []
    if rows is None:
        rows = [_ids(tokenizer, text) for text in texts]

    def leaves_none(character: str, once: list[int] | None, thrice: list[int] | None) -> bool:
        if once is None or once != thrice or not unknown.keys().isdisjoint(once):
            return False
        return character.casefold() not in _decoded(tokenizer, once).casefold()

    tried = zip(characters, rows[::2], rows[1::2], strict=True)
    return {character for character, once, thrice in tried if leaves_none(character, once, thrice)}


def _ids(tokenizer: Any, text: str) -> list[int] | None:
    """The tokens of a text; None where the tokenizer fails on it."""
    rows = _rows(tokenizer, [text])
    return None if rows is None else rows[0]


def _rows(tokenizer: Any, texts: Sequence[str]) -> list[list[int]] | None:
    try:
        return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    except Exception:  # tokenizers raises bare ones for a word without a token
        return None


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _plain(text: str) -> Iterator[str]:
    """Letters and digits, without case and accents."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return (character for character in folded if character.isalnum())


def _words(text: str, wanted: Callable[[str], bool]) -> list[str]:
    return [word for word in dict.fromkeys(text.split()) if wanted(word)]


def _listed(words: Sequence[str]) -> str:
    shown = ", ".join(map(quoted, words[:_NAMED]))
    more = len(words) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
