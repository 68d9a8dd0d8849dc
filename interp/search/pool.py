"""Which tokens a search may use."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from interp.errors import PromptError
from interp.model.model import Model
from interp.model.vocabulary import unknown_ids
from interp.search.layout import check_tokens

Pool = Sequence[str] | Sequence[int]
"""Token ids, or texts: every token that stands in them."""

Indices = npt.NDArray[np.int64]


def token_pool(model: Model, pool: Pool | None) -> Indices:
    """The allowed tokens, ascending and without special ones.

    Args:
        pool: what is allowed; if left out every token that decodes to text which encodes to it
            again.

    Raises:
        PromptError: fewer than two tokens are left, ids that the model does not know, or texts of
            words that it does not know.
    """
    if pool is None:
        found = _writable(model)
    elif isinstance(pool, str) or not all(isinstance(one, int | str | np.integer) for one in pool):
        raise PromptError("Give the pool as a list of token ids, or of texts.")
    elif all(isinstance(one, str) for one in pool):
        rows = model.encode([str(one) for one in pool], what="texts of the pool")
        found = {i for ids, _ in rows for i in ids} - _excluded(model)
    else:
        if any(isinstance(one, str) for one in pool):
            raise PromptError("Give the pool as token ids or as texts, not as both.")
        found = {int(one) for one in pool}
        check_tokens(model, sorted(found), "tokens of the pool")
        found -= _excluded(model)
    if len(found) < 2:
        raise PromptError("The pool holds fewer than two tokens of text; give more.")
    return np.array(sorted(found), dtype=np.int64)


def digest(pool: Indices) -> str:
    """What tells one pool from another."""
    return hashlib.sha256(pool.tobytes()).hexdigest()[:16]


def _excluded(model: Model) -> set[int]:
    return {*model.tokenizer.all_special_ids, *unknown_ids(model.tokenizer)}


def _writable(model: Model) -> set[int]:
    tokenizer = model.tokenizer
    ids = sorted(set(range(min(len(tokenizer), model.d_vocab))) - _excluded(model))
    known = [i for i in ids if tokenizer.convert_ids_to_tokens(i) is not None]
    # With and without the space that a word may begin with.
    shown = model.token_strings(known)
    bare = [text.removeprefix(" ") for text in shown]
    start = int(model.prepends_bos)
    found = set()
    for texts in (shown, bare):
        some = [(i, text) for i, text in zip(known, texts, strict=True) if _is_text(text)]
        rows = model.encode([text for _, text in some], check=False) if some else []
        for (i, _), (read, _) in zip(some, rows, strict=True):
            # A piece of a word may stand behind a mark for the word's beginning.
            if read[start:] and read[-1] == i and not model.decode(read[start:-1]).strip():
                found.add(i)
    return found


def _is_text(text: str) -> bool:
    """Whether it can be pasted: no half of a character, nothing that is not shown."""
    shown = all(c.isprintable() or c == "\n" for c in text)
    return bool(text) and shown and "\ufffd" not in text
