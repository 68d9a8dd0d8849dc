"""Two models, or two runs' maps, held against each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from app.compute.engine import Engine, ModelSpec
from experiments.explorer import Pair
from experiments.reporter import Progress
from interp.kinds import site_kind

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model

T = TypeVar("T")

KEY = ("clean_prompt", "corrupt_prompt", "answer", "foil")
"""What tells the pairs of stored maps apart: the same questions with the same answers."""


@dataclass(frozen=True)
class Matched:
    """Two stored maps of the examples that are compared.

    Attributes:
        first, second: the maps; of the same pairs in the same order, if `paired`.
        n: how many pairs each had before.
        shared: how many both have.
        odd: one that only the first has, and one that only the second has, as "clean" into
            "corrupt"; None where there is none.
    """

    first: xr.Dataset
    second: xr.Dataset
    n: tuple[int, int]
    shared: int
    paired: bool
    odd: tuple[tuple[str, str] | None, tuple[str, str] | None]


def matched(first: xr.Dataset, second: xr.Dataset) -> Matched:
    """The pairs with the same prompts and answers, where there are enough for an interval; else
    all, as independent samples.

    Raises:
        SiteError: a map does not tell its prompts.
    """
    from interp.errors import SiteError
    from interp.figures.contrast import shared_examples
    from interp.stats import LEAST_N

    n = first.sizes["example"], second.sizes["example"]
    for result in (first, second):
        missing = [name for name in KEY if name not in result.coords]
        if missing:
            raise SiteError(
                f"A stored map does not tell the '{missing[0]}' of its pairs, so that nobody knows "
                "which of them are the same in both runs."
            )
    names = [
        set(zip(*(one[k].values.tolist() for k in KEY), strict=True)) for one in (first, second)
    ]
    odd = tuple(
        next((where[:2] for where in sorted(mine - others)), None)
        for mine, others in (names, names[::-1])
    )
    shared = 0
    if names[0] & names[1]:
        both = shared_examples(first, second, KEY)
        shared = both[0].sizes["example"]
        if shared >= LEAST_N:
            return Matched(*both, n, shared, True, (odd[0], odd[1]))
    return Matched(first, second, n, shared, False, (odd[0], odd[1]))


def both(
    engine: Engine,
    one: ModelSpec,
    other: ModelSpec,
    key: tuple[Hashable, ...],
    work: Callable[[Model, Model], T],
) -> T:
    """The result of `work` on two models, kept or computed in turn."""
    # Each key holds both fingerprints: either folder may hold another model by now.
    names = tuple(
        engine.compute(spec, ("it",), lambda m: (m.fingerprint, m.tokenizer_fingerprint))
        for spec in (one, other)
    )
    name = ("both", *key, one, other, *names)
    return engine.compute(
        one, name, lambda base: engine.compute(other, name, lambda tuned: work(base, tuned))
    )


def activations(engine: Engine, one: ModelSpec, other: ModelSpec, prompt: str) -> xr.Dataset:
    """How far two models' activations lie apart on one prompt.

    Raises:
        ModelError: they are not of one shape, or read with other tokenizers.
    """
    from interp.comparison import activation_difference

    return both(
        engine,
        one,
        other,
        ("activations", prompt),
        lambda base, tuned: activation_difference(base, tuned, [prompt]),
    )


def swaps(
    engine: Engine,
    one: ModelSpec,
    other: ModelSpec,
    asked: tuple[str, str, str | None],
    progress: Progress | None = None,
) -> xr.Dataset:
    """Parts of either model put into the other one, on one prompt.

    Args:
        asked: prompt, answer and foil; see `metric_of`.

    Raises:
        ModelError: they are not of one shape, or read with other tokenizers.
    """
    from interp.comparison import swap_modules

    prompt, answer, foil = asked
    return both(
        engine,
        one,
        other,
        ("swaps", asked),
        lambda base, tuned: swap_modules(
            base,
            tuned,
            [prompt],
            metric_of(foil),
            answers=[answer],
            foils=None if foil is None else [foil],
            progress=progress,
        ),
    )


def metric_of(foil: str | None) -> str:
    """What is read of an answer: its first token beside the foil's, or alone."""
    return "first_token_logprob" if foil is None else "logit_diff"


def read_alike(engine: Engine, one: ModelSpec, other: ModelSpec, pair: Pair) -> bool:
    """Whether two models read a pair, and what should follow, as the same tokens of one
    vocabulary."""
    from interp.prompts.tokens import tokenise

    texts = (pair.clean, pair.corrupt, pair.clean + pair.answer, pair.corrupt + pair.foil)

    def read(model: Model) -> tuple[object, ...]:
        batch = tokenise(model, list(texts))
        rows = [batch.row(i) for i in range(len(texts))]
        found = [(tuple(np.asarray(row).tolist()), tuple(model.token_strings(row))) for row in rows]
        return (model.d_vocab, *found)

    found = [engine.compute(spec, ("read", texts), read) for spec in (one, other)]
    return found[0] == found[1]


def not_subtracted(
    engine: Engine, specs: tuple[ModelSpec, ModelSpec], pair: Pair, site: str
) -> str | None:
    """Why maps of one pair in two models cannot be subtracted; None where they can."""
    if specs[0] == specs[1]:
        return None
    one, other = (engine.about(spec) for spec in specs)
    if one.n_layers != other.n_layers:
        return (
            f"A has {one.n_layers} blocks and B {other.n_layers}: a block of the one stands for "
            "none of the other, so the maps are not subtracted."
        )
    if site_kind(site).per_head and one.n_heads != other.n_heads:
        return (
            f"A has {one.n_heads} heads a block and B {other.n_heads}, so the maps are not "
            "subtracted."
        )
    if not read_alike(engine, *specs, pair):
        return (
            "The two models read these prompts as different tokens, so that no cell of the one "
            "stands for a cell of the other: the maps are not subtracted."
        )
    return None
