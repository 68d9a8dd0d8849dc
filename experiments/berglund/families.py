"""What makes pairs of names dependent, or easy: shared people, shared words, and the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from experiments.sheets import sameness

__all__ = ["FEW_SHOT", "families", "in_prompt", "share_word"]

FEW_SHOT = (
    "Below is a converation with a helpful and terse assistant. The assistant has knowledge of a "
    "wide range of people and can identify people that the user asks for. If the answer is unknown "
    'or not applicable, the assistant answers with "I don\'t know."\n\n'
    "Q: Name a child of Barack Obama.\nA: Malia Obama\n"
    "Q: Who is Elon Musk's mother?\nA: Maye Musk\n"
    "Q: Who is Kathy Pratt's mother?\nA: I don't know.\n"
    "Q: Who is Chris Hemsworth's father?\nA: Craig Hemsworth\n"
    "Q: Name a child of Karen Lawrence.\nA: Jennifer Lawrence\n"
    "Q: Who is Aaron Taylor-Johnson's mother?\nA: Sarah Johnson"
)
"""What the authors put before each question, as it stands in their script."""

# A word this short ("de", "van") is no sign of a family, and no part of one is.
_LEAST_WORD, _LEAST_PART = 3, 4


def families(pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.int64]:
    """The family of each pair, as a number: pairs that share a person, directly or through others.

    The mother and the father of a child are one family, and so are the children of a parent.
    """
    numbers: dict[str, int] = {}
    ends = [[numbers.setdefault(sameness(name), len(numbers)) for name in pair] for pair in pairs]
    if not ends:
        return np.zeros(0, dtype=np.int64)
    first, second = np.array(ends).T
    size = len(numbers)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(size, size))
    person = connected_components(graph, directed=False)[1]
    return np.unique(person[first], return_inverse=True)[1].astype(np.int64)


def share_word(one: str, other: str) -> bool:
    """Whether two names share a word, or one has a word that begins with a word of the other.

    A model that repeats the surname of who is asked about gives a part of such an answer, without
    knowing whose parent or child anybody is.
    """
    for a in _words(one):
        for b in _words(other):
            if a == b or (
                min(len(a), len(b)) >= _LEAST_PART and (a.startswith(b) or b.startswith(a))
            ):
                return True
    return False


def in_prompt(child: str, parent: str) -> bool:
    """Whether the examples in the authors' prompt give this pair away."""
    return f" {child}" in FEW_SHOT and f" {parent}" in FEW_SHOT


def _words(name: str) -> list[str]:
    parts = sameness(name).replace("-", " ").replace(".", " ").split()
    return [part for part in parts if len(part) >= _LEAST_WORD and part not in {"jr", "sr"}]
