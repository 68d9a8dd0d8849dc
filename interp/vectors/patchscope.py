"""Patchscopes: a vector is put into a prompt that asks, and the model goes on writing.

Ghandeharioun et al. 2024, "Patchscopes: A Unifying Framework for Inspecting Hidden Representations
of Language Models"; with every layer written to several placeholders, SelfIE (Chen et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from interp.errors import DirectionError, MetricError, PromptError, SiteError
from interp.generation.writing import check_room
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.places import At, TokenPlaces, WordsBySpan, token_places
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import shape_at
from interp.vectors.grid import as_many, check_layers, check_shapes, tokens_at
from interp.vectors.scope import Scope, variables_of
from interp.vectors.sources import read_vectors

__all__ = ["patchscope"]


@typed
def patchscope(
    model: Model,
    source: Prompts | str,
    target: Prompts | str,
    *,
    source_at: At = "last",
    target_at: At = "last",
    source_spans: WordsBySpan | None = None,
    target_spans: WordsBySpan | None = None,
    site: str = "resid_post",
    source_layers: Sequence[int] | None = None,
    target_layers: Sequence[int] | None = None,
    max_new_tokens: int = 8,
    next_tokens: int = 5,
    control: Prompts | str | None = None,
    control_at: At | None = None,
    control_spans: WordsBySpan | None = None,
    mapping: Float[Tensor, "*source_layer d_source d_target"] | None = None,
    source_model: Model | None = None,
    stop_at_eos: bool = True,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Put what source prompts have at a token into a prompt that asks, and let the model write.

    Args:
        model: the model that reads the target prompts and writes.
        source: the prompts that are read, one for each example, or one text for all.
        target: the prompts that ask, likewise.
        source_at: the one token that is read, as for `transplant`.
        target_at: where it is written; every token of a span or list of tokens gets the vector.
        source_spans: where names stand in the source prompts: {"subject": ["Tom Cruise", …]}.
        target_spans: the same of the target prompts.
        site: "resid_post" and so on; the same in both prompts. Not "pattern".
        source_layers: from which layers; all if left out.
        target_layers: into which; all if left out.
        max_new_tokens: how much is written, greedily; 0 for the next token's distribution only.
        next_tokens: how many of the likeliest next tokens to keep.
        control: other prompts whose vectors go through the same, for every example or one text for
            all. If left out, each example's control is the vector of the next example that has
            another prompt; where all are the same there is none.
        control_at: the token that is read in given control prompts; `source_at` if left out.
        control_spans: where names stand in them.
        mapping: a linear map from the source's stream to the target's, [d_source, d_target], or one
            for each source layer [source_layer, d_source, d_target], in the order of
            `source_layers`; v · mapping is written.
        source_model: another model that reads the source prompts and the control's.
        stop_at_eos: whether a text ends with an end-of-sequence token.
        progress: called with (tokens written, at most).

    Returns:
        text(example, source_layer, target_layer), what was written, without special tokens (not
        with max_new_tokens=0); top_token and top_logprob (…, k), the likeliest tokens right after
        the target prompt and their log-probabilities in nats. The same with `unpatched_` in front,
        of the target prompt without any vector (example …), and with `control_` in front.

    Raises:
        SiteError: no such site or layer, one where this architecture drops edits, or a source
            model of another width without a mapping.
        DirectionError: a mapping that does not fit, or vectors that are not finite.
        PromptError: unequal numbers of prompts, no such place, more than one source token, or no
            room for so many tokens.
        MetricError: not so many next tokens.
        ModelError: logits are infinite or NaN.
    """
    reader = model if source_model is None else source_model
    source, target = as_many(source, target)
    read_from = tokenise(reader, source, what="source prompts")
    asked = tokenise(model, target, what="target prompts")
    _check(model, read_from, asked, max_new_tokens, next_tokens)
    if control is None and not (control_at is None and control_spans is None):
        raise PromptError("control_at and control_spans are of control prompts; give control=….")
    froms = check_layers(reader, site, source_layers)
    tos = check_layers(model, site, target_layers, written=True)
    if mapping is None:
        check_shapes(reader, model, site, None)
    else:
        mapping = _fitting(reader, model, site, froms, source_layers, mapping)
    places = _place(asked, target_at, target_spans, "target prompts")
    read_at = _place(read_from, source_at, source_spans, "source prompts", one=True)
    carried = [_read(reader, read_from, read_at, site, froms, mapping)]
    others: tuple[str, ...] | None = None
    if control is not None:
        batch = tokenise(reader, as_many(control, target)[0], what="control prompts")
        _check_as_many(batch, asked, "control")
        at = source_at if control_at is None else control_at
        place = _place(batch, at, control_spans, "control prompts", one=True)
        carried.append(_read(reader, batch, place, site, froms, mapping))
        others = batch.texts
    elif (next_ones := _next_others(read_from)) is not None:
        carried.append(carried[0][:, next_ones])
        others = tuple(read_from.texts[i] for i in next_ones)
    scope = Scope(
        model, asked, places.tokens[0], site, tos, max_new_tokens, next_tokens, stop_at_eos
    )
    shape = (len(carried), len(asked), len(froms), len(tos))
    found = scope.run(torch.stack(carried), shape, progress)
    dims = ("example", "source_layer", "target_layer")
    out: dict[str, Any] = {}
    for number, prefix in enumerate(("", "control_")[: len(carried)]):
        size = int(np.prod(shape[1:]))
        part = found.part(number * size, (number + 1) * size)
        out |= variables_of(model, part, prefix, dims, shape[1:], max_new_tokens)
    plain = scope.run(None, (len(asked),), None)
    out |= variables_of(model, plain, "unpatched_", dims[:1], (len(asked),), max_new_tokens)
    coords = {
        "source_layer": list(froms),
        "target_layer": list(tos),
        "source_prompt": ("example", list(read_from.texts)),
        "target_prompt": ("example", list(asked.texts)),
        **tokens_at(reader, read_from, read_at, "source"),
        **tokens_at(model, asked, places, "target"),
        **({} if others is None else {"control_prompt": ("example", list(others))}),
    }
    by = {} if source_model is None else {f"source_{k}": v for k, v in reader.identity.items()}
    attrs = {
        "instrument": "patchscope",
        "site": site,
        "mapping": "none" if mapping is None else "linear",
        "control": "none"
        if others is None
        else "another example's vector"
        if control is None
        else "given prompts' vectors",
        **model.identity,
        **by,
    }
    return xr.Dataset(out, coords, attrs)


def _check(
    model: Model, source: TokenBatch, target: TokenBatch, max_new_tokens: int, next_tokens: int
) -> None:
    _check_as_many(source, target, "source")
    if max_new_tokens < 0 or (max_new_tokens == 0 and next_tokens == 0):
        raise PromptError("Nothing would be read; ask for new tokens or next tokens, 1 or more.")
    check_room(model, target, max(1, max_new_tokens))
    if not 0 <= next_tokens <= model.d_vocab:
        raise MetricError(
            f"{next_tokens} next tokens cannot be kept; {model.name} knows {model.d_vocab}."
        )


def _check_as_many(batch: TokenBatch, target: TokenBatch, what: str) -> None:
    if len(batch) != len(target):
        raise PromptError(
            f"There are {len(batch)} {what} and {len(target)} target prompts; give one of each for "
            "every example, or one text for all."
        )


def _fitting(
    reader: Model,
    model: Model,
    site: str,
    froms: tuple[int, ...],
    named: Sequence[int] | None,
    mapping: Tensor,
) -> Tensor:
    """The mapping, with its layers, if it has any, in the order of `froms`."""
    theirs, ours = shape_at(reader, site), shape_at(model, site)
    if len(theirs) != 1 or len(ours) != 1:
        raise SiteError(
            f"'{site}' has heads, and a mapping is from stream to stream; leave it out."
        )
    given = tuple(mapping.shape)
    order = list(froms if named is None else named)
    if given[-2:] != (*theirs, *ours) or given[:-2] not in ((), (len(froms),)):
        raise DirectionError(
            f"A mapping of shape {given} does not fit; give {(*theirs, *ours)} for all layers, or "
            f"{(len(froms), *theirs, *ours)}, one for each source layer."
        )
    if mapping.ndim == 2:
        return mapping
    if len(order) != len(froms):
        raise SiteError("A source layer is named twice; with a mapping for each, name each once.")
    return mapping[[order.index(layer) for layer in froms]]


def _place(
    batch: TokenBatch, at: At, spans: WordsBySpan | None, what: str, *, one: bool = False
) -> TokenPlaces:
    places = token_places(batch, at, spans, what=what)
    if places.several:
        raise PromptError(
            f"A patchscope has one place in the {what}; for several tokens name a span, or the "
            "tokens of each prompt [[3, 4], …]."
        )
    for number, tokens in enumerate(places.tokens[0]):
        if not tokens or (one and len(tokens) > 1):
            raise PromptError(
                f"The place in number {number} of the {what} has {len(tokens)} tokens; name "
                f"{'the one' if one else 'one or more'} that "
                f"{'is read, such as the last of a span' if one else 'are written'}."
            )
    return places


def _read(
    reader: Model,
    batch: TokenBatch,
    places: TokenPlaces,
    site: str,
    layers: tuple[int, ...],
    mapping: Tensor | None,
) -> Tensor:
    """What is put in [layer, example, …]."""
    position = np.array([tokens[0] for tokens in places.tokens[0]])
    found = read_vectors(reader, batch, site, layers, np.arange(len(batch)), position)
    if mapping is None:
        return found
    dtype = torch.promote_types(found.dtype, mapping.dtype)
    return (found.to(dtype) @ mapping.to(found.device, dtype)).to(found.dtype)


def _next_others(batch: TokenBatch) -> list[int] | None:
    """For each example the next one (after the last the first) with another prompt."""
    n = len(batch)
    rows = [tuple(batch.row(i)) for i in range(n)]
    found = []
    for i, row in enumerate(rows):
        other = next((j % n for j in range(i + 1, i + n) if rows[j % n] != row), None)
        if other is None:
            return None
        found.append(other)
    return found
