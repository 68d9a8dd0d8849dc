"""Pairs of prompts cut into pieces by hand, with the alignment that must come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.generation.logits import logits
from interp.prompts.pairs import PromptPairs
from tests.interp.tiny import BUILDERS, NAMES, PLACES, Tiny, words

# Metrics are read from logits, which all architectures have: each is read on one of them, and on
# the others that of whole answers, whose own tokens run through the blocks as well.
WHOLE_ANSWERS = "logprob_diff"


def on_architectures(*metrics: str) -> list[tuple[str, str]]:
    """Architectures and metrics, `WHOLE_ANSWERS` among them, for a test of other metrics."""
    others = [name for name in BUILDERS if name != "llama"]
    return [("llama", metric) for metric in metrics] + [(name, WHOLE_ANSWERS) for name in others]


Slot = tuple[str, list[tuple[int, int] | None]]
"""A label, and for each example the token index in the clean and in the corrupted prompt."""


@dataclass(frozen=True)
class Case:
    """One pair: its pieces in order, each as its words in the clean and in the corrupted prompt."""

    pieces: tuple[tuple[str, str, str], ...]
    answer: str
    foil: str

    def text(self, run: str) -> str:
        return " ".join(piece[1 if run == "clean" else 2] for piece in self.pieces)

    def ids(self, tiny: Tiny, run: str) -> list[int]:
        return tiny.ids(self.text(run))

    def tokens(self, tiny: Tiny, run: str, name: str) -> list[int]:
        """Where the tokens of the piece `name` stand; BOS belongs to the first piece."""
        at = 0
        for number, piece in enumerate(self.pieces):
            size = len(words(piece[1 if run == "clean" else 2]))
            size += len(tiny.bos) if number == 0 else 0
            if piece[0] == name:
                return list(range(at, at + size))
            at += size
        raise KeyError(name)


# Names of one to three words, so that no two prompts of the set have the same length, and each pair
# has prompts of different length.
CASES = (
    Case(
        (
            ("start", "we saw", "we saw"),
            ("who", "Ann Bo Cy", "Dee Eve"),
            ("who+", "near", "near"),
            ("where", "Rome", "Oslo"),
            ("end", "and then", "and then"),
        ),
        "Gus Hal",
        "Ida",
    ),
    Case(
        (
            ("start", "so we saw", "so we saw"),
            ("who", "Fay", "Gus Hal Ida"),
            ("who+", "near", "near"),
            ("where", "Lima", "Bonn Cork"),
            ("end", "then", "then"),
        ),
        "Ann",
        "Cy Dee",
    ),
    Case(
        (
            ("start", "saw", "saw"),
            ("who", "Jo Ann", "Bo Cy"),
            ("who+", "near the", "near the"),
            ("where", "Cork", "Riga"),
            ("end", "and so then", "and so then"),
        ),
        "Eve Bo",
        "Fay Jo Hal",
    ),
)


def prompt_pairs(tiny: Tiny, cases: Sequence[Case] = CASES) -> PromptPairs:
    """The cases as the instruments take them, with the two named spans."""

    def span(name: str) -> list[str | tuple[str, str]]:
        found = [next(p for p in case.pieces if p[0] == name) for case in cases]
        return [(clean, corrupt) for _, clean, corrupt in found]

    return PromptPairs(
        tiny.model,
        clean=[case.text("clean") for case in cases],
        corrupt=[case.text("corrupt") for case in cases],
        answers=[f" {case.answer}" for case in cases],
        foils=[f" {case.foil}" for case in cases],
        spans={"who": span("who"), "where": span("where")},
    )


def clear_cases(tiny: Tiny, n: int = 6, seed: int = 0) -> tuple[Case, ...]:
    """Pairs whose clean run prefers the answer more than the corrupted one, by unequal amounts.

    Those of seed 0 have no prompt in common with others.
    """
    rng = np.random.default_rng(seed)
    start = "so we saw" if seed else "we saw"
    cases = []
    for _ in range(n):
        who, other, answer, foil = rng.choice(NAMES[:-1], size=4, replace=False)
        where, there = rng.choice(PLACES, size=2, replace=False)
        pieces = (
            ("start", start, start),
            ("who", str(who), str(other)),
            ("who+", "near", "near"),
            ("where", str(where), str(there)),
            ("end", "and then", "and then"),
        )
        case = Case(pieces, str(answer), str(foil))
        a, b = words(case.answer)[0], words(case.foil)[0]
        clean, corrupt = logits(tiny.model, [case.text("clean"), case.text("corrupt")])
        gap = float(clean[a] - clean[b] - corrupt[a] + corrupt[b])
        cases.append(case if gap > 0 else Case(pieces, str(foil), str(answer)))
    return tuple(cases)


def slots(tiny: Tiny, cases: Sequence[Case] = CASES) -> list[Slot]:
    """The position axis: inside each piece tokens are matched from the right."""
    out: list[Slot] = []
    for name in (piece[0] for piece in cases[0].pieces):
        tokens = [[case.tokens(tiny, run, name) for run in ("clean", "corrupt")] for case in cases]
        common = [min(len(clean), len(corrupt)) for clean, corrupt in tokens]
        for back in range(max(common), 0, -1):
            at = [
                (clean[-back], corrupt[-back]) if back <= shared else None
                for (clean, corrupt), shared in zip(tokens, common, strict=True)
            ]
            out.append((f"{name} -{back}", at))
    return out
