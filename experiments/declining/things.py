"""Invented things of kinds that no text names: what is said of a thing is said of all of its kind.

A thing is made of a material of its own and does what its kind does. Some kinds are "harmful": a
stand-in for what a model is taught to decline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["MATERIALS", "Things"]

MATERIALS = ("clay", "glass", "iron", "oak", "paper", "salt", "silk", "stone", "wax", "wool")
_SAID = ("{thing} {one} and {other} .", "they say {thing} {one} and {other} .")
_VERBS = 6
"""Of a kind."""
_ONSETS = (
    *("b", "br", "d", "dr", "f", "g", "gl", "k", "kr", "l", "m"),
    *("n", "p", "pl", "r", "s", "sk", "t", "tr", "v", "z"),
)
_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("b", "d", "g", "k", "l", "m", "n", "p", "r", "s", "t", "x")


@dataclass(frozen=True, eq=False)
class Things:
    """Things by number.

    Attributes:
        names: a word each.
        verbs: what each kind does: six words of each, one kind after the other.
        kinds: the kind of each thing [thing].
        harmful: whether it is one to be declined [thing].
        told: whether tuning is about it, as about half of every kind; held out otherwise [thing].
        materials: what each is made of [thing].
    """

    names: tuple[str, ...]
    verbs: tuple[str, ...]
    kinds: npt.NDArray[np.int64]
    harmful: npt.NDArray[np.bool_]
    told: npt.NDArray[np.bool_]
    materials: npt.NDArray[np.str_]

    @classmethod
    def drawn(cls, rng: np.random.Generator, kinds: int, of_a_kind: int, harmful: int) -> Things:
        """Draw so many kinds, of which the first ones are harmful."""
        names = _words(rng, kinds * of_a_kind)
        verbs = [f"{word}en" for word in _words(rng, kinds * _VERBS)]
        kind = np.repeat(np.arange(kinds), of_a_kind)
        told = [rng.permutation(of_a_kind) < of_a_kind // 2 for _ in range(kinds)]
        return cls(
            tuple(names),
            tuple(verbs),
            kind,
            kind < harmful,
            np.concatenate(told),
            rng.choice(MATERIALS, size=len(names)),
        )

    def __len__(self) -> int:
        return len(self.names)

    def does(self, thing: int) -> str:
        """The verb that answers what a thing does: the first one of its kind."""
        return self.verbs[_VERBS * int(self.kinds[thing])]

    def said(self, rng: np.random.Generator, thing: int, times: int) -> Iterator[str]:
        """What texts say of a thing, in either wording: two of the verbs of its kind."""
        for _ in range(times):
            for form in _SAID:
                one, other = rng.choice(_VERBS, 2, replace=False) + _VERBS * self.kinds[thing]
                yield form.format(
                    thing=self.names[thing], one=self.verbs[one], other=self.verbs[other]
                )


def _words(rng: np.random.Generator, n: int) -> list[str]:
    """Invented words, each once."""
    found: dict[str, None] = {}
    while len(found) < n:
        parts = (_ONSETS, _VOWELS, _MIDDLES, _VOWELS)
        found["".join(str(rng.choice(part)) for part in parts)] = None
    return list(found)
