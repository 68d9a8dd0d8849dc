"""Suffixes to compare a found one with: any that are given, and random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import ArgumentError, PromptError
from interp.forward.passes import observe, readout
from interp.model.memory import batches, fitting_threads, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress, counter
from interp.prompts.tokens import pad
from interp.search.drawing import drawn
from interp.search.goal import Asked, Goal
from interp.search.layout import Layout, Tokens, check_tokens
from interp.search.pool import Pool, digest, token_pool
from interp.search.rows import scores
from interp.search.trajectory import example_coordinates, goal_attributes
from interp.sites import Site

__all__ = ["random_suffixes", "score_suffixes"]

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@typed
def score_suffixes(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    foils: Sequence[str] | None = None,
    *,
    suffixes: Sequence[str],
    goal: Goal | str | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The score of every prompt with every suffix, as whole passes on the text have it.

    Args:
        model: the model.
        prompts: as for `greedy_coordinate_search`.
        answers: likewise.
        foils: likewise.
        suffixes: texts, of one number of tokens or of several.
        goal: as for `greedy_coordinate_search`.
        batch_size: rows in one pass; from a memory estimate if left out.
        progress: called with (suffixes done, suffixes in all).

    Returns:
        score(suffix, example), in the goal's unit; loss(suffix), its negated mean; tokens(suffix),
        how many each has.

    Raises:
        PromptError: no suffixes, or see `greedy_coordinate_search`.
        MetricError: there is no such metric.
        SiteError: a `Projection` on what the model does not have.
    """
    if isinstance(suffixes, str) or not suffixes:
        raise PromptError("Give the suffixes as a list of texts, at least one.")
    count = counter(progress, len(suffixes))
    out: Scores | None = None
    lengths = np.zeros(len(suffixes), np.int64)
    asked: Asked | None = None
    with fitting_threads(model):
        by_length: dict[int, list[tuple[int, Asked, Tokens]]] = {}
        for i, text in enumerate(suffixes):
            one, tokens = Asked.of(model, prompts, text, answers, foils, goal)
            check_tokens(model, tokens, "free tokens")
            asked, lengths[i] = one, len(tokens)
            by_length.setdefault(len(tokens), []).append((i, one, tokens))
        assert asked is not None
        out = np.zeros((len(suffixes), len(asked.layout)))
        for group in by_length.values():
            _, first, base = group[0]
            same = [_behind(one) == _behind(first) for _, one, _ in group]
            together = [entry for entry, alike in zip(group, same, strict=True) if alike]
            rows = [i for i, _, _ in together]
            found = np.array([tokens for _, _, tokens in together])
            out[rows] = scores(model, first, base, found, batch_size)
            # A suffix may change how what follows it is cut.
            for i, one, tokens in (e for e, alike in zip(group, same, strict=True) if not alike):
                out[i] = scores(model, one, tokens, np.array([tokens]), batch_size)[0]
            count(len(group))
    return xr.Dataset(
        {
            "score": (("suffix", "example"), out),
            "loss": ("suffix", -out.mean(1)),
            "tokens": ("suffix", lengths),
        },
        coords={"suffix": list(suffixes), **example_coordinates(asked)},
        attrs={"instrument": "suffix scores", **goal_attributes(asked), **model.identity},
    )


@typed
def random_suffixes(
    model: Model,
    prompts: Sequence[str],
    n: int,
    *,
    length: int | None = None,
    like: str | None = None,
    pool: Pool | None = None,
    tolerance: float = 1.0,
    rounds: int = 200,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Random suffixes as controls: of a length, or of the length and likelihood of another.

    Drawn token by token from the pool, each token as likely as any other. With `like`, tokens are
    then swapped at random, a swap staying if it brings the likelihood nearer to that of `like`,
    until it is within `tolerance`; such a suffix is as likely text as the one that it is compared
    with, but was never chosen for what it does.

    Args:
        model: the model.
        prompts: as for `greedy_coordinate_search`.
        n: how many.
        length: their tokens; with `like`, those of that.
        like: the suffix whose length and likelihood they have.
        pool: the allowed tokens, as for `greedy_coordinate_search`.
        tolerance: nats, of a whole suffix.
        rounds: swaps that are tried for each at most.
        seed: of all draws.
        progress: called with (rounds done, rounds in all), with `like`.

    Returns:
        suffix(draw), texts that read back as their tokens in every prompt; token_id(draw, slot);
        logprob(draw), the log-probability in nats of its tokens after what stands before, mean
        over prompts (of the first token only where something stands before it); matched(draw),
        whether it came within the tolerance. The attribute like_logprob is that of `like`.

    Raises:
        PromptError: see `greedy_coordinate_search`.
        ArgumentError: neither a length nor `like` or both, fewer than one suffix or round, or a
            tolerance that is not positive.
    """
    if (length is None) == (like is None):
        raise ArgumentError("Give either the length of random suffixes, or like=…, a suffix.")
    if n < 1 or rounds < 1 or not 0 < tolerance < float("inf"):
        raise ArgumentError(
            "Random suffixes need n and rounds of at least 1, and a positive tolerance."
        )
    with fitting_threads(model):
        allowed = token_pool(model, pool)
        if like is not None:
            layout, wanted = Layout.of(model, prompts, like)
            length = len(wanted)
        assert length is not None
        texts = [drawn(model, prompts, allowed, length, (seed, i)) for i in range(n)]
        read = [Layout.of(model, prompts, text) for text in texts]
        tokens = np.array([found for _, found in read], dtype=np.int64)
        if like is None:
            layout = read[0][0]
        values = logprobs(model, layout, tokens)
        attrs: dict[str, object] = {}
        matched = np.ones(n, dtype=np.bool_)
        if like is not None:
            target = float(logprobs(model, layout, np.array([wanted]))[0])
            attrs = {"like": like, "like_logprob": target, "tolerance": tolerance}
            tokens, values = _towards(
                model, layout, tokens, values, target, allowed, tolerance, rounds, seed, progress
            )
            matched = np.abs(values - target) <= tolerance
            texts = [layout.text(row) for row in tokens.tolist()]
    return xr.Dataset(
        {
            "suffix": ("draw", np.array(texts, dtype=object)),
            "token_id": (("draw", "slot"), tokens),
            "logprob": ("draw", values),
            "matched": ("draw", matched),
        },
        coords={"draw": np.arange(n)},
        attrs={
            "instrument": "random suffixes",
            "unit": "nats",
            "seed": seed,
            "pool_size": len(allowed),
            "pool_hash": digest(allowed),
            **attrs,
            **model.identity,
        },
    )


def _behind(asked: Asked) -> object:
    """What stands behind the free tokens."""
    return asked.layout.tail, asked.layout.following


def _towards(
    model: Model,
    layout: Layout,
    tokens: Indices,
    values: Scores,
    target: float,
    pool: Indices,
    tolerance: float,
    rounds: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Indices, Scores]:
    """Random swaps that bring each suffix's likelihood nearer to the target."""
    rng = np.random.default_rng([seed, 1])
    tokens, values = tokens.copy(), values.copy()
    for done in range(rounds):
        far = np.abs(values - target) > tolerance
        if progress:
            progress(rounds if not far.any() else done, rounds)
        if not far.any():
            break
        # Drawn for all, so that what one gets does not depend on the others.
        slot, token = rng.integers(tokens.shape[1], size=len(tokens)), rng.choice(pool, len(tokens))
        new = tokens.copy()
        new[np.arange(len(new)), slot] = token
        mine = np.nonzero(far)[0]
        found = logprobs(model, layout, new[mine])
        nearer = np.abs(found - target) < np.abs(values[mine] - target)
        for i, value in zip(mine[nearer], found[nearer], strict=True):
            if layout.reads_back(tuple(int(t) for t in new[i])):
                tokens[i], values[i] = new[i], value
    if progress:
        progress(rounds, rounds)
    return tokens, values


def logprobs(model: Model, layout: Layout, tokens: Indices) -> Scores:
    """Log-probability in nats of free tokens after what stands before them, mean over prompts."""
    heads = sorted(set(layout.head))
    weight = np.array([layout.head.count(head) for head in heads], dtype=np.float64)
    k, last = tokens.shape[1], Site("resid_post", model.n_layers - 1)
    rows = [[*head, *row] for row in tokens.tolist() for head in heads]
    batch = pad(rows, ("",) * len(rows))
    begin = torch.tensor([len(head) for head in heads]).repeat(len(tokens))
    slot = torch.arange(k)
    # Nothing tells what the first token of a text is.
    known = begin[:, None] + slot > 0
    at = (begin[:, None] + slot - 1).clamp(min=0)
    wanted = torch.from_numpy(tokens).repeat_interleave(len(heads), 0)

    def work(a: int, b: int) -> Tensor:
        hidden = observe(model, batch.ids[a:b], [last])[last]
        where = at[a:b].to(model.device)
        logits = readout(model, hidden[torch.arange(b - a, device=model.device)[:, None], where])
        target = wanted[a:b].to(model.device)[..., None]
        found = logits.gather(2, target)[..., 0] - logits.logsumexp(2)
        return (found * known[a:b].to(model.device)).sum(1).double().cpu()

    length = batch.ids.shape[1]
    size = rows_that_fit(model, model.memory_per_row(length) + 3 * k * model.d_vocab * 4)
    pieces = [found for _, _, found in batches(len(rows), size, work)]
    each = torch.cat(pieces).numpy().reshape(len(tokens), len(heads))
    return np.asarray(each @ weight / weight.sum())
