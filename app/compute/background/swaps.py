"""Parts of two models put into each other, as a job."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from app.compute import comparing
from app.compute.background.request import Form, Request, check_alike, in_one
from app.compute.background.spot_checks import DRAWN, check_numbers, drawn
from app.compute.engine import Engine, ModelSpec

if TYPE_CHECKING:
    import xarray as xr

    from interp.comparison.pair import ModelPair
    from interp.comparison.parts import Part
    from interp.model.model import Model

Question = tuple[str, str, str | None]
"""Prompt, answer and foil."""


def request(
    engine: Engine, one: ModelSpec, other: ModelSpec, asked: Question
) -> Request[xr.Dataset]:
    """Each module of the one model in the other one, alone and cumulatively.

    Raises:
        ModelError: one of them cannot be loaded.
    """
    who = engine.compute(
        other, ("who are you",), lambda model: (model.fingerprint, model.tokenizer_fingerprint)
    )

    def read(stored: xr.Dataset, base: Model) -> xr.Dataset:
        # Under a name of its own: what is read is looked at each time.
        name = ("swaps read", secrets.token_hex())
        engine.compute(other, name, lambda tuned: _check(stored, base, tuned, asked))
        return stored

    return Request(
        one,
        ("swaps", asked, who),
        f"Module swaps of {one.source} and {other.source}: “{asked[0]}”",
        in_one(lambda base, tell: comparing.swaps(engine, one, other, asked, tell)),
        "hybrids run",
        Form(
            lambda found: found,
            read,
            f"Both models and up to {DRAWN} swaps, drawn at random, were run again.",
        ),
        others=(who[0],),
    )


def _check(stored: xr.Dataset, base: Model, tuned: Model, asked: Question) -> None:
    """Raise a ValueError unless what was read is of this request, and of these models."""
    import xarray as xr

    from interp.comparison.pair import ModelPair
    from interp.comparison.parts import EMBEDDING, UNEMBEDDING, owners, parts_of
    from interp.comparison.reading import readable
    from interp.comparison.swaps import BOTH_ENDS

    parts = parts_of(base)
    tied = any({EMBEDDING, UNEMBEDDING} <= set(some) for some in owners(base, parts).values())
    ends = [BOTH_ENDS] if tied else []
    prompt, answer, foil = asked
    metric = comparing.metric_of(foil)
    pair = ModelPair.of(base, tuned)
    read = readable(pair, [prompt], [answer], None if foil is None else [foil])
    one = np.zeros(1, np.float32)
    like = xr.Dataset(
        {
            "swapped": (
                ("example", "into", "order", "part"),
                np.zeros((1, 2, 3, len(parts) + len(ends)), np.float32),
            ),
            "base": ("example", one),
            "tuned": ("example", one),
        },
        {
            "into": ["base", "tuned"],
            "order": ["single", "below", "above"],
            "part": [*(part.name for part in parts), *ends],
            "layer": ("part", [*(part.layer for part in parts), *(-1 for _ in ends)]),
            "module": ("part", [*(part.module for part in parts), *ends]),
            "prompt": ("example", [prompt]),
            "answer": ("example", list(read.answers)),
            "foil": ("example", list(read.foils or ("",))),
        },
        {
            "metric": metric,
            "fingerprint": base.fingerprint,
            "tuned_fingerprint": tuned.fingerprint,
            "tied": int(tied),
        },
    )
    check_alike(stored, like, like.attrs)
    _run_again(stored, pair, parts, asked)


def _run_again(
    stored: xr.Dataset, pair: ModelPair, parts: tuple[Part, ...], asked: Question
) -> None:
    """Raise a ValueError unless both models, and some swaps that are drawn, read as is stored.

    Each is run with modules that are really lent, on the whole prompt: other code than that which
    has filled the table.
    """
    from interp.comparison.parts import lent

    base, tuned = pair.base, pair.tuned
    rounding = 0.005 if base.dtype.itemsize > 2 else 0.25
    swapped = stored["swapped"].values[0]
    with pair.locked():
        for name, model in (("base", base), ("tuned", tuned)):
            check_numbers(stored[name].values, np.array([_metric(model, asked)]), rounding)
        places = [place for place in _places(len(parts)) if np.isfinite(swapped[place])]
        for number in drawn(len(places)):
            into, order, part = places[number]
            mine, theirs = (base, tuned) if into == 0 else (tuned, base)
            # Embeddings are no module that is lent: up to a part is the other one's from there on.
            some = parts[part : part + 1] if order == 0 else parts[part:]
            if order == 1:
                mine, theirs, some = theirs, mine, parts[part + 1 :]
            with lent(mine, theirs, some):
                true = _metric(mine, asked)
            check_numbers(swapped[places[number]][None], np.array([true]), rounding)


def _places(n: int) -> Iterator[tuple[int, int, int]]:
    for into in range(2):
        for order in range(3):
            # The embedding itself cannot be lent; all parts from it on are the other model.
            yield from ((into, order, part) for part in range(0 if order == 1 else 1, n))


def _metric(model: Model, asked: Question) -> float:
    """What is read of a prompt, from the model's own logits."""
    from interp.generation.logits import logits
    from interp.prompts.pairs import continuations
    from interp.prompts.tokens import tokenise

    prompt, answer, foil = asked
    texts = [answer] if foil is None else [answer, foil]
    first = [ids[0] for ids in continuations(model, tokenise(model, [prompt] * len(texts)), texts)]
    found = logits(model, [prompt])[0].float()
    if foil is None:
        return float(found.log_softmax(-1)[first[0]])
    return float(found[first[0]] - found[first[1]])
