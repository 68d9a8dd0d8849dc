"""Which token of one prompt stands for which of another.

Prompts of unequal length are cut at their named spans. Inside each piece tokens are matched from
the right, because in a causal model the last token of a name is the one that has read all of it.
The same labels ("subject -1") line up clean with corrupted and example with example, so that
results of many pairs fit on one axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from interp.errors import PromptError

Range = tuple[int, int]
"""Tokens from the first number up to, not including, the second."""


@dataclass(frozen=True)
class Alignment:
    """The position axis that all pairs share.

    Attributes:
        labels: the name of each slot of the axis, first to last ("subject -1", "end -1").
        spans: the piece of the prompt that each slot belongs to ("subject", "end").
        clean: token index of each slot in the clean prompt [example, slot]; -1 where it has none.
        corrupt: the same for the corrupted prompt.
    """

    labels: tuple[str, ...]
    spans: tuple[str, ...]
    clean: npt.NDArray[np.int64]
    corrupt: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, examples: Sequence[int]) -> Alignment:
        """The same axis for some of the examples."""
        index = list(examples)
        return Alignment(self.labels, self.spans, self.clean[index], self.corrupt[index])

    def slots(self, chosen: Sequence[int | str] | None) -> tuple[int, ...]:
        """The slots that are meant by numbers, labels ("subject -1") or spans ("subject").

        Raises:
            PromptError: there is no such slot.
        """
        if chosen is None:
            return tuple(range(len(self)))
        found: set[int] = set()
        for name in chosen:
            if isinstance(name, int) and 0 <= name < len(self):
                found.add(name)
                continue
            named = [i for i in range(len(self)) if name in (self.labels[i], self.spans[i])]
            if isinstance(name, int) or not named:
                raise PromptError(
                    f"Position {name!r} is out of range: the pairs have positions 0 to "
                    f"{len(self) - 1} ({', '.join(self.labels)})."
                )
            found.update(named)
        if not found:
            raise PromptError("There are no positions to patch; name at least one.")
        return tuple(sorted(found))


def token_range(text: str, offsets: Sequence[Range], start: int, end: int) -> Range:
    """The tokens that cover the characters from `start` to `end`.

    A token counts if it shares a character with the span. The space before it belongs to it, as a
    part of its first token or as a token of its own: SentencePiece writes one of two names in the
    one way and one in the other, and what stands before them must still be matched.
    """
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and a < b]
    if not inside:
        raise ValueError("no token covers these characters")
    first = inside[0]
    while first and set(text[slice(*offsets[first - 1])]) == {" "}:
        first -= 1
    return first, inside[-1] + 1


def by_index(lengths: Sequence[int]) -> Alignment:
    """Token by token from the left, for pairs whose two prompts have the same length."""
    width = max(lengths)
    index = np.tile(np.arange(width), (len(lengths), 1))
    index[index >= np.asarray(lengths)[:, None]] = -1
    labels = tuple(str(i) for i in range(width))
    return Alignment(labels, ("prompt",) * width, index, index.copy())


def by_spans(
    clean_lengths: Sequence[int],
    corrupt_lengths: Sequence[int],
    clean_spans: Sequence[Mapping[str, Range]],
    corrupt_spans: Sequence[Mapping[str, Range]],
) -> Alignment:
    """Piece by piece, from the right inside each piece.

    The pieces are the named spans and what lies between them: "start" before the first span, the
    name of the span before it with a "+" in the middle ("subject+"), "end" after the last one.

    Raises:
        PromptError: spans overlap, or do not come in the same order in all prompts.
    """
    clean = [_pieces(n, spans) for n, spans in zip(clean_lengths, clean_spans, strict=True)]
    corrupt = [_pieces(n, spans) for n, spans in zip(corrupt_lengths, corrupt_spans, strict=True)]
    order = [name for name, _ in clean[0]]
    for pieces in (*clean, *corrupt):
        if [name for name, _ in pieces] != order:
            raise PromptError(
                "The spans do not come in the same order in all prompts; align prompts of one "
                "template at a time."
            )
    labels: list[str] = []
    names: list[str] = []
    columns: list[list[tuple[int, int]]] = []
    for piece, name in enumerate(order):
        pairs = [(c[piece][1], k[piece][1]) for c, k in zip(clean, corrupt, strict=True)]
        depth = max(min(_size(a), _size(b)) for a, b in pairs)
        for back in range(depth, 0, -1):
            labels.append(f"{name} -{back}")
            names.append(name)
            columns.append([_from_right(a, b, back) for a, b in pairs])
    index = np.array(columns, dtype=np.int64)  # [slot, example, run]
    return Alignment(tuple(labels), tuple(names), index[:, :, 0].T.copy(), index[:, :, 1].T.copy())


def _pieces(length: int, spans: Mapping[str, Range]) -> list[tuple[str, Range]]:
    pieces: list[tuple[str, Range]] = []
    reached, before = 0, "start"
    for name, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        if start < reached:
            raise PromptError(f"The span '{name}' overlaps the one before it; name distinct spans.")
        pieces += [(before, (reached, start)), (name, (start, end))]
        reached, before = end, f"{name}+"
    # Empty pieces stay: another example may have tokens there.
    return [*pieces, ("end", (reached, length))]


def _size(piece: Range) -> int:
    return piece[1] - piece[0]


def _from_right(clean: Range, corrupt: Range, back: int) -> tuple[int, int]:
    if back > _size(clean) or back > _size(corrupt):
        return -1, -1
    return clean[1] - back, corrupt[1] - back
