"""Places in prompts, as a person names them: a token or several that are taken together.

Numbers are counted as steering counts them, from the end where they are negative; names are those
of the position axis of pairs ("subject -1", "subject"), so that vectors are read and written where
everything else is.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import PromptError
from interp.prompts.alignment import Alignment
from interp.prompts.pairs import align
from interp.prompts.tokens import TokenBatch

__all__ = ["At", "TokenPlaces", "token_places"]

At = (
    int
    | str
    | Sequence[int | str]
    | Sequence[Sequence[int]]
    | Int[Tensor, "example token"]
    | Bool[Tensor, "example position"]
    | npt.NDArray[np.int64]
    | npt.NDArray[np.bool_]
)
"""One place: a token by its number (negative from the end), "last", a label ("subject -1") or a
span ("subject"); for each example the numbers of its tokens [[3, 4], [5]]; or a mask
[example, position]. Several places: a list of numbers and names."""

ByExample = Sequence[Sequence[int]] | Tensor
WordsBySpan = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class TokenPlaces:
    """Places in some prompts.

    Attributes:
        names: what each place is called.
        tokens: the token numbers of each [place][example], in the order in which they are given
            or stand; none where an example has no such place.
        several: whether a list of places was named, which a result has an axis for.
    """

    names: tuple[str, ...]
    tokens: tuple[tuple[tuple[int, ...], ...], ...]
    several: bool

    def __len__(self) -> int:
        return len(self.names)


def token_places(
    batch: TokenBatch, at: At | None, spans: WordsBySpan | None = None, *, what: str = "prompts"
) -> TokenPlaces:
    """The tokens that are meant by `at`; by None each token on its own.

    Args:
        spans: named parts of the prompts, {"subject": ["Tom Cruise", …]}: the words in each.
        what: what to call the prompts in an error: "source prompts".

    Raises:
        PromptError: a prompt has no such token, there is no such name, a place is named twice, or
            a span is not in its prompt.
    """
    axis = align(batch, batch, spans)
    at = _plain(at)
    if at is None:
        every = [_of_slots(axis, (slot,)) for slot in range(len(axis))]
        return TokenPlaces(axis.labels, tuple(every), True)
    if isinstance(at, int | str):
        return TokenPlaces((str(at),), (_one(batch, axis, at, spans, what),), False)
    if isinstance(at, Tensor | np.ndarray) or any(not isinstance(one, int | str) for one in at):
        return TokenPlaces(("given",), (_by_example(batch, cast("ByExample", at), what),), False)
    if not len(at):
        raise PromptError(f"No place in the {what} is named; name one, or leave it out for all.")
    names = tuple(str(one) for one in at)
    if len(set(names)) < len(names):
        raise PromptError(f"A place in the {what} is named twice; name distinct ones.")
    found = tuple(_one(batch, axis, one, spans, what) for one in cast("Sequence[int | str]", at))
    return TokenPlaces(names, found, True)


def _plain(at: At | None) -> At | None:
    """The same without NumPy's and torch's numbers, where it is one number or a list of some."""
    if isinstance(at, Tensor | np.ndarray | np.integer):
        values = np.asarray(at.cpu() if isinstance(at, Tensor) else at)
        return values.tolist() if values.ndim < 2 and values.dtype.kind in "iu" else at
    if isinstance(at, list | tuple):
        return [int(one) if isinstance(one, np.integer) else one for one in at]
    return at


def _one(
    batch: TokenBatch, axis: Alignment, at: int | str, spans: WordsBySpan | None, what: str
) -> tuple[tuple[int, ...], ...]:
    if isinstance(at, str) and at not in (*axis.labels, *axis.spans):
        if at != "last":
            hint = "" if spans else "; where names stand, spans tell: {'subject': ['Tom', …]}"
            raise PromptError(
                f"There is no place '{at}' in the {what}, which have "
                f"{', '.join(dict.fromkeys((*axis.spans, *axis.labels)))}{hint}."
            )
        at = -1
    if isinstance(at, str):
        return _of_slots(axis, axis.slots([at]))
    return _tokens(batch, [at], what)


def _tokens(batch: TokenBatch, numbers: Sequence[int], what: str) -> tuple[tuple[int, ...], ...]:
    lengths = batch.lengths.tolist()
    found = [[n if n >= 0 else length + n for n in numbers] for length in lengths]
    return _checked(found, [numbers] * len(lengths), lengths, what)


def _by_example(batch: TokenBatch, at: ByExample, what: str) -> tuple[tuple[int, ...], ...]:
    lengths = batch.lengths.tolist()
    if isinstance(at, Tensor | np.ndarray) and torch.as_tensor(at).dtype == torch.bool:
        mask = torch.as_tensor(at)
        if mask.ndim != 2 or mask.shape[0] != len(batch) or mask.shape[1] < max(lengths):
            raise PromptError(
                f"A mask of places in the {what} must be true or false for each "
                "[example, position]."
            )
        rows = [row.nonzero().flatten().tolist() for row in mask.cpu()]
    else:
        try:
            rows = [[operator.index(number) for number in row] for row in at]
        except TypeError:
            raise PromptError(
                f"Places in the {what} are given by numbers and names, or as lists of the numbers "
                "in each example."
            ) from None
    if len(rows) != len(batch):
        raise PromptError(
            f"Places are given for {len(rows)} of {len(batch)} {what}; give a list for each."
        )
    found = [
        [n if n >= 0 else length + n for n in row]
        for row, length in zip(rows, lengths, strict=True)
    ]
    return _checked(found, rows, lengths, what)


def _checked(
    found: Sequence[Sequence[int]],
    given: Sequence[Sequence[int]],
    lengths: Sequence[int],
    what: str,
) -> tuple[tuple[int, ...], ...]:
    for example, (tokens, length) in enumerate(zip(found, lengths, strict=True)):
        wrong = [at for at, token in enumerate(tokens) if not 0 <= token < length]
        if wrong:
            raise PromptError(
                f"Number {example} of the {what} has {length} tokens and no position "
                f"{given[example][wrong[0]]}."
            )
        if len(set(tokens)) < len(tokens):
            raise PromptError(
                f"A position is named twice for number {example} of the {what}; name each once."
            )
    return tuple(tuple(tokens) for tokens in found)


def _of_slots(axis: Alignment, slots: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    rows = axis.clean[:, list(slots)]
    return tuple(tuple(int(token) for token in row if token >= 0) for row in rows)
