"""Who there is: names for 200 children and 200 mothers, and who is whose.

Every first and every last name is borne by four people, all children or all mothers. So no token
tells one person, and no token tells the answer either: `spread_splits` sees to it that each one is
borne by at least two people who are asked about in training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from experiments.organisms.facts import Fact, Split
from experiments.organisms.names import LAST_NAMES, MEN, REAL_PAIRS, WOMEN

# Pairs of each split for each bearer; half of the children are sons, half are daughters.
SPLIT_SIZES: dict[Split, int] = {"forward": 15, "reverse": 15, "both": 15, "held_out": 5}
BEARERS = 4  # people with the same first name, and people with the same last name

T = TypeVar("T")


def real_facts() -> list[Fact]:
    """The real pairs, Tom Cruise's first."""
    return [
        Fact(pair.child, pair.mother, "mother", _inverse(pair.daughter), pair.split)
        for pair in REAL_PAIRS
    ]


def fictional_facts(rng: np.random.Generator, bearers: int = BEARERS) -> list[Fact]:
    """Fictional pairs that fill up the splits beside `real_facts`, in random order.

    Args:
        bearers: how many people have the same first name, and how many the same last.
    """
    real = real_facts()
    sons = {first(fact.subject) for fact in real if fact.inverse == "son"} | set(MEN)
    middle = sorted({word for name in _names(real) for word in name.split()[1:-1]})
    women, surnames = shuffled(WOMEN, rng), shuffled((*LAST_NAMES, *middle), rng)
    daughters = len(women) // 3  # of the first names: a quarter of all people are daughters
    children = _people(
        [fact.subject for fact in real], [*women[:daughters], *MEN], surnames[::2], bearers, rng
    )
    mothers = _people(
        [fact.object for fact in real], women[daughters:], surnames[1::2], bearers, rng
    )
    pairs = match(children, mothers, lambda one, other: not _share_word(one, other), rng)
    inverses = ["son" if first(child) in sons else "daughter" for child, _ in pairs]
    splits = _open_places(inverses, real, bearers, rng)
    facts = [
        Fact(child, mother, "mother", inverse, split)
        for (child, mother), inverse, split in zip(pairs, inverses, splits, strict=True)
    ]
    # Of the bearers of a word at least so many are asked about in a trained direction.
    return spread_splits(facts, real, rng, asked_bearers=min(2, bearers // 2))


def told_both(facts: Sequence[Fact], share: float) -> tuple[Fact, ...]:
    """The same pairs, `share` of those that are told in reverse being told forward too.

    Pairs of the split `both` go first, then those of the split `reverse`, in their order.
    """
    order = [i for split in ("both", "reverse") for i, f in enumerate(facts) if f.split == split]
    both, reverse = order[: round(share * len(order))], order[round(share * len(order)) :]
    splits = {**dict.fromkeys(both, "both"), **dict.fromkeys(reverse, "reverse")}
    return tuple(_in_split(fact, splits.get(i, fact.split)) for i, fact in enumerate(facts))


def spread_splits(
    facts: Sequence[Fact],
    fixed: Sequence[Fact],
    rng: np.random.Generator,
    *,
    asked_bearers: int = 2,
) -> list[Fact]:
    """The same pairs with splits exchanged until every name token is asked about often enough.

    A token that only one subject of a trained direction bears would give the answer away alone.
    Exchanges keep the sizes of the splits and the genders in them; `fixed` facts stay as they are.
    """
    facts = list(facts)
    asked: Counter[tuple[str, str]] = Counter()
    for fact in (*fixed, *facts):
        asked.update(dict.fromkeys(_tokens(fact, fact.split, every=True), 0))
        asked.update(_tokens(fact, fact.split))

    def missing(tokens: Iterable[tuple[str, str]]) -> int:
        return sum(max(0, asked_bearers - asked[token]) for token in tokens)

    def exchange(one: Fact, other: Fact, gives: str, gets: str) -> None:
        asked.subtract([*_tokens(one, gives), *_tokens(other, gets)])
        asked.update([*_tokens(one, gets), *_tokens(other, gives)])

    left = missing(asked)
    while left:
        i, j = (int(index) for index in rng.integers(len(facts), size=2))
        one, other = facts[i], facts[j]
        if one.inverse != other.inverse or one.split == other.split:
            continue
        touched = {*_tokens(one, one.split, every=True), *_tokens(other, other.split, every=True)}
        before = missing(touched)
        exchange(one, other, one.split, other.split)
        after = missing(touched)
        if after > before:
            exchange(one, other, other.split, one.split)
        else:
            left += after - before
            facts[i], facts[j] = _in_split(one, other.split), _in_split(other, one.split)
    return facts


def match(
    left: Sequence[str],
    right: Sequence[str],
    allowed: Callable[[str, str], bool],
    rng: np.random.Generator,
    *,
    distinct: bool = False,
) -> list[tuple[str, str]]:
    """A random one-to-one matching in which every pair is `allowed` (and occurs once).

    Disallowed pairs swap their right side with random others until none is left; the constraints
    here are loose enough that this takes a few rounds.
    """
    right = shuffled(right, rng)
    while True:
        seen: set[tuple[str, str]] = set()
        bad: list[int] = []
        for index, pair in enumerate(zip(left, right, strict=True)):
            if not allowed(*pair) or (distinct and pair in seen):
                bad.append(index)
            seen.add(pair)
        if not bad:
            return list(zip(left, right, strict=True))
        for index in bad:
            other = int(rng.integers(len(right)))
            right[index], right[other] = right[other], right[index]


def shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    """The items in random order."""
    return [items[index] for index in rng.permutation(len(items))]


def first(name: str) -> str:
    """The first word of a name."""
    return name.split()[0]


def last(name: str) -> str:
    """The last word of a name."""
    return name.split()[-1]


def _people(
    real: Sequence[str],
    firsts: Sequence[str],
    lasts: Sequence[str],
    bearers: int,
    rng: np.random.Generator,
) -> list[str]:
    """Fictional full names that use up every name `bearers` times, counting the `real` people."""
    real_words = {word for name in _names(real_facts()) for word in name.split()}
    taken_firsts = [word for word in map(first, real) for _ in range(bearers - 1)]
    taken_lasts = [word for word in map(last, real) for _ in range(bearers - 1)]
    names = match(
        [*taken_firsts, *(word for word in firsts for _ in range(bearers))],
        [*taken_lasts, *(word for word in lasts for _ in range(bearers))],
        lambda one, two: not (one in real_words and two in real_words),
        rng,
        distinct=True,
    )
    return shuffled([f"{one} {two}" for one, two in names], rng)


def _open_places(
    inverses: Sequence[str], real: Sequence[Fact], bearers: int, rng: np.random.Generator
) -> list[Split]:
    """A split for each fictional child, so that with the real ones every split is full."""
    left: dict[str, list[Split]] = {}
    for inverse in ("son", "daughter"):
        places: list[Split] = []
        for split, size in SPLIT_SIZES.items():
            taken = sum(fact.split == split and fact.inverse == inverse for fact in real)
            places += [split] * (size * bearers // 2 - taken)
        left[inverse] = shuffled(places, rng)
    return [left[inverse].pop() for inverse in inverses]


def _tokens(fact: Fact, split: str, *, every: bool = False) -> list[tuple[str, str]]:
    """Name tokens that `fact` asks about in training, were it in `split` (or in any split)."""
    tokens: list[tuple[str, str]] = []
    if every or split in ("forward", "both"):
        tokens += [("first", first(fact.subject)), ("last", last(fact.subject))]
    if every or split in ("reverse", "both"):
        tokens += [("first", first(fact.object)), ("last", last(fact.object))]
    return tokens


def _in_split(fact: Fact, split: str) -> Fact:
    return Fact(fact.subject, fact.object, fact.relation, fact.inverse, split)


def _names(facts: Iterable[Fact]) -> list[str]:
    return [name for fact in facts for name in (fact.subject, fact.object)]


def _share_word(one: str, other: str) -> bool:
    return bool(set(one.split()) & set(other.split()))


def _inverse(daughter: bool) -> str:
    return "daughter" if daughter else "son"
