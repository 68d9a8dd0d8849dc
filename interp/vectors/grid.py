"""Vectors of one prompt put into another: every layer into every layer, in one walk.

What a token of a source prompt has at a layer is written at a token of a target prompt, at the same
layer or another (as patchscopes do, Ghandeharioun et al. 2024, and back-patching, Biran et al.
2024), and the target prompt is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from cache.arguments import typed
from interp.errors import PromptError, SiteError
from interp.forward.trials import editable
from interp.kinds import site_kind
from interp.metrics import Metric
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.pairs import Answers
from interp.prompts.places import At, TokenPlaces, WordsBySpan, token_places
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site, check, shape_at
from interp.vectors.cells import Routes, rows
from interp.vectors.results import attributes, coordinates, variables
from interp.vectors.sources import read_vectors
from interp.vectors.target import Target, read_after

__all__ = ["transplant"]


@typed
def transplant(
    model: Model,
    source: Prompts | str,
    target: Prompts | str,
    *,
    source_at: At | None = "last",
    target_at: At | None = "last",
    source_spans: WordsBySpan | None = None,
    target_spans: WordsBySpan | None = None,
    site: str = "resid_post",
    head: int | None = None,
    source_layers: Sequence[int] | None = None,
    target_layers: Sequence[int] | None = None,
    metric: Metric | str = "answer_logprob",
    answers: Answers | None = None,
    foils: Answers | None = None,
    next_tokens: int = 0,
    source_model: Model | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Read vectors in source prompts, write them into target prompts, and read what follows.

    Args:
        model: the model that reads the target prompts.
        source: prompts that are read, one for every example; one text stands for all examples.
        target: prompts that are written to, likewise.
        source_at: the place that is read: a token by its number (negative from the end), "last", a
            label ("subject -1") or a span ("subject"); [[3], [5]], the tokens of each example; or a
            mask [example, position] (`span_mask`). A list of numbers and names is several places,
            each on its own; None is every token.
        target_at: the place that is written, likewise. One token is written to every token of a
            place, several to as many, in order.
        source_spans: where names stand in the source prompts: {"subject": ["Tom Cruise", …]}.
        target_spans: the same of the target prompts.
        site: "resid_post" and so on; the same in both prompts. Not "pattern".
        head: at sites with heads, the only one that is carried; all together if left out.
        source_layers: from which; all if left out.
        target_layers: to which; all if left out.
        metric: what to read in the target prompts, where there are answers.
        answers: what should follow the target prompts, as for `PromptPairs`; without them only
            next tokens are read.
        foils: what answers are compared with.
        next_tokens: how many of the likeliest next tokens to keep.
        source_model: another model that reads the source prompts, as wide as this one.
        batch_size: rows in one pass; from a memory estimate if left out. The result does not
            depend on it beyond rounding.
        progress: called with (runs done, runs in all).

    Returns:
        patched(example, source_layer, target_layer[, source_position][, target_position]): the
        metric of the target prompt after each transplant, NaN where an example has no such place;
        unpatched(example), the metric as it is; top_token and top_prob (…, k) and those with
        `unpatched_` in front. Positions are axes where several places are named.

    Raises:
        SiteError: no such site, layer or head, one where this architecture drops edits, or a
            source model of another width.
        PromptError: unequal numbers of prompts, no such place, places of several tokens each and
            unequal numbers of them, or nothing to read.
        MetricError: there is no such metric.
        ArgumentError: passes without a row.
    """
    reader = model if source_model is None else source_model
    source, target = as_many(source, target)
    asked = Target.of(model, target, metric, answers, foils, next_tokens)
    read_from = tokenise(reader, source, what="source prompts")
    if len(read_from) != len(asked.batch):
        raise PromptError(
            f"There are {len(read_from)} source and {len(asked.batch)} target prompts; give one of "
            "each for every example, or one text for all."
        )
    froms = check_layers(reader, site, source_layers)
    tos = check_layers(model, site, target_layers, written=True)
    check_shapes(reader, model, site, head)
    routes = Routes.between(
        token_places(read_from, source_at, source_spans, what="source prompts"),
        token_places(asked.batch, target_at, target_spans, what="target prompts"),
    )
    vectors = read_vectors(reader, read_from, site, froms, *routes.read)
    table, where = rows(routes, site, vectors, tos, head=head)
    found = read_after(model, asked, table, batch_size, progress)
    sizes = {
        "example": len(asked.batch),
        "source_layer": len(froms),
        "target_layer": len(tos),
        **({"source_position": len(routes.source)} if routes.source.several else {}),
        **({"target_position": len(routes.target)} if routes.target.several else {}),
    }
    noted = {} if source_model is None else {f"source_{k}": v for k, v in reader.identity.items()}
    return xr.Dataset(
        variables(model, found, tuple(sizes), tuple(sizes.values()), where),
        coords={
            "source_layer": list(froms),
            "target_layer": list(tos),
            "source_prompt": ("example", list(read_from.texts)),
            **coordinates(asked),
            **tokens_at(reader, read_from, routes.source, "source"),
            **tokens_at(model, asked.batch, routes.target, "target"),
        },
        attrs={
            **attributes(model, "transplant", site if head is None else f"{site}.h{head}", asked),
            **noted,
        },
    )


def check_layers(
    model: Model, site: str, layers: Sequence[int] | None, *, written: bool = False
) -> tuple[int, ...]:
    """The layers that are meant, ascending.

    Args:
        written: whether vectors are put in there.

    Raises:
        SiteError: there is none, or the model lacks one, or drops edits there.
    """
    kind = site_kind(site)
    if kind.pairwise:
        raise SiteError(f"{kind.plural} are no vectors that could be carried; choose another site.")
    found = tuple(range(model.n_layers)) if layers is None else tuple(sorted(set(layers)))
    if not found:
        raise SiteError("No layers are named; name one at least, or leave them out for all.")
    sites = [Site(site, layer) for layer in found]
    if written:
        editable(model, sites)
    for one in sites:
        check(model, one)
    return found


def check_shapes(reader: Model, model: Model, site: str, head: int | None) -> None:
    """See that what one model has at a site fits into the other.

    Raises:
        SiteError: it does not, or there is no such head.
    """
    theirs, ours = shape_at(reader, site), shape_at(model, site)
    if theirs != ours:
        raise SiteError(
            f"At '{site}' a token has the shape {theirs} in {reader.name} and {ours} in "
            f"{model.name}; carry vectors between models of the same widths."
        )
    if head is not None:
        check(model, Site(site, 0, head))


def as_many(source: Prompts | str, target: Prompts | str) -> tuple[Any, Any]:
    """Source and target prompts; one text stands for as many as the others are."""
    if isinstance(source, str):
        source = [source] * (1 if isinstance(target, str) else len(target))
    if isinstance(target, str):
        target = [target] * len(source)
    return source, target


def tokens_at(model: Model, batch: TokenBatch, places: TokenPlaces, prefix: str) -> dict[str, Any]:
    """What stands at the places, as text."""
    texts = np.full((len(batch), len(places)), "", dtype=object)
    for example in range(len(batch)):
        ids = batch.row(example)
        strings = model.token_strings(ids)
        for number, place in enumerate(places.tokens):
            here = place[example]
            # Where a tokenizer's tokens are words, only decoding puts spaces between them.
            whole = model.decode([ids[token] for token in here]) if len(here) > 1 else ""
            texts[example, number] = whole or "".join(strings[token] for token in here)
    if not places.several:
        return {f"{prefix}_token": ("example", texts[:, 0])}
    axis = f"{prefix}_position"
    return {axis: list(places.names), f"{prefix}_token": (("example", axis), texts)}
