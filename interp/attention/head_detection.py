"""Numbers that tell what a head looks for: the token before, the same token, what came after it.

A score is attention summed over the sources that a kind of head looks for, and averaged over the
destinations that have any. Beside it stands what a head that attends evenly would score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import Seed, typed
from interp.attention.patterns import check_values, last_to_spans, patterns_of, value_lengths
from interp.errors import PromptError
from interp.forward.interventions import Intervention
from interp.generation.logits import logits
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.masks import span_mask
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site

KINDS = ("previous_token", "duplicate_token", "induction")


@typed
def head_scores(
    model: Model,
    prompts: Prompts | str | TokenBatch,
    *,
    spans: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score every head on given prompts.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        spans: by name, the words of each prompt to which attention is measured from its last token.
        progress: called with (prompts done, prompts in all).

    Returns:
        By (example, layer, head), all between 0 and 1 but the entropy: previous_token;
        duplicate_token (to earlier occurrences of the present token); induction (to the tokens
        after these; Olsson et al. 2022); entropy in nats, a mean over all tokens but the first;
        with `spans` to_span(…, span). NaN where a prompt has no such tokens: nothing that comes
        twice, say. The BOS token counts neither as a previous token nor as a duplicate.
        previous_token_even(example) and so on is what even attention scores.

    Raises:
        PromptError: empty or too long prompts, or a span that a prompt does not hold once.
        SiteError: the model does not show its patterns.
    """
    batch = prompts if isinstance(prompts, TokenBatch) else tokenise(model, prompts)
    masks = {name: span_mask(model, batch, words) for name, words in (spans or {}).items()}
    stacked = torch.stack(list(masks.values())) if masks else None
    sought = _sought(model, batch)
    n_layers = range(model.n_layers)
    shape = (len(batch), model.n_layers, model.n_heads)
    scores = {name: np.full(shape, np.nan, dtype=np.float32) for name in (*KINDS, "entropy")}
    to_span = np.zeros((*shape, len(masks)), dtype=np.float32)
    for start, stop, activations in patterns_of(model, batch, n_layers):
        rows = torch.arange(start, stop)
        ends = batch.lengths[rows] - 1
        for layer in n_layers:
            pattern = activations[Site("pattern", layer)].float()
            for name, weight in sought.items():
                value = torch.einsum("ehds,eds->eh", pattern, weight[rows].to(pattern.device))
                scores[name][start:stop, layer] = value.cpu().numpy()
            scores["entropy"][start:stop, layer] = _entropy(pattern, ends).cpu().numpy()
            if stacked is not None:
                found = last_to_spans(pattern, ends, stacked[:, rows])
                to_span[start:stop, layer] = found.cpu().numpy()
        if progress:
            progress(stop, len(batch))
    even = _even_attention(batch)
    dims = ("example", "layer", "head")
    variables: dict[str, Any] = {name: (dims, value) for name, value in scores.items()}
    for name, weight in sought.items():
        variables[f"{name}_even"] = ("example", (even * weight).sum((1, 2)).numpy())
    coords: dict[str, Any] = {
        "layer": np.arange(model.n_layers),
        "head": np.arange(model.n_heads),
        "prompt": ("example", list(batch.texts)),
    }
    if masks:
        variables["to_span"] = ((*dims, "span"), to_span)
        coords["span"] = list(masks)
    attrs = {"instrument": "head scores", **model.identity}
    return xr.Dataset(variables, coords, attrs)


@typed
def detect_heads(
    model: Model,
    *,
    n: int = 16,
    length: int | None = None,
    seed: Seed = 0,
    threshold: float = 0.4,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Find previous-token, duplicate-token and induction heads on random sequences said twice.

    What is said twice has another length in each sequence, after other tokens, so that no head that
    always looks equally far back passes for one that looks for a token. A previous-token head is
    positional by definition.

    Args:
        model: the model.
        n: sequences, at least 4.
        length: the most distinct tokens that are repeated, at least 5 (25, or what fits, if left
            out); the fewest are half of it.
        seed: of the sequences.
        threshold: a head is of a kind if its mean score is at least this, and more than one and a
            half times that of any head of a fixed distance (previous-token heads are one), and it
            writes at least a tenth as much as its layer's loudest head.

    Returns:
        What `head_scores` gives; repeated(example), how many tokens come twice in each sequence;
        induction_offset() and so on, what the best head of one fixed distance would score; moved(
        layer, head), the mean length of what each head writes from the token it looks at most;
        is_kind(kind, layer, head).

    Raises:
        PromptError: the context or vocabulary is too small for such sequences, or the threshold is
            no share.
        ModelError: the model's heads do not put out pattern times values.
    """
    if not 0 < threshold <= 1:
        raise PromptError(f"A share of attention lies between 0 and 1, not at {threshold}.")
    ids, lengths = _mixed_sequences(model, n, length, seed)
    batch = tokenise(model, ids)
    check_values(model, batch)
    found = head_scores(model, batch, progress=progress)
    moved = np.zeros((model.n_layers, model.n_heads))
    for start, stop, activations in patterns_of(model, batch, range(model.n_layers), values=True):
        for layer in range(model.n_layers):
            values = value_lengths(model, layer, activations[Site("v", layer)])
            weighted = activations[Site("pattern", layer)].float() * values[:, :, None]
            moved[layer] += (weighted.amax(-1).mean((0, 2)) * (stop - start) / n).cpu().numpy()
    loud = moved >= 0.1 * moved.max(1, keepdims=True)
    offsets = {name: _best_offset(weight) for name, weight in _sought(model, batch).items()}
    least = {name: max(threshold, 1.5 * offset) for name, offset in offsets.items()}
    least["previous_token"] = threshold
    scores = {name: found[name].mean("example").values for name in KINDS}
    kinds = np.stack([(scores[name] >= least[name]) & loud for name in KINDS])
    found = found.drop_vars("prompt").assign_coords(kind=list(KINDS))
    return found.assign(
        {
            **{f"{name}_offset": offset for name, offset in offsets.items()},
            "repeated": ("example", lengths),
            "moved": (("layer", "head"), moved),
            "is_kind": (("kind", "layer", "head"), kinds),
        }
    ).assign_attrs(instrument="head detection", threshold=threshold, seed=seed)


@typed
def repeated_sequences(
    model: Model, n: int = 16, length: int | None = None, *, seed: Seed = 0
) -> Int[Tensor, "example position"]:
    """Random distinct tokens, twice in a row, after BOS where prompts start with it.

    Raises:
        PromptError: the context or vocabulary is too small.
    """
    bos, ordinary = _bos(model), _ordinary(model)
    most = min((model.n_ctx - len(bos)) // 2, len(ordinary))
    length = min(25, most) if length is None else length
    if n < 1 or not 2 <= length <= most:
        raise PromptError(
            f"{n} sequences of {length} repeated tokens cannot be made for {model.name}; ask for "
            f"at least one, of 2 to {most} tokens."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = [ordinary[torch.randperm(len(ordinary), generator=generator)[:length]] for _ in range(n)]
    once = torch.stack(rows)
    start = torch.tensor(bos, dtype=torch.long).expand(n, -1)
    return torch.cat([start, once, once], dim=1)


def _mixed_sequences(
    model: Model, n: int, length: int | None, seed: int
) -> tuple[Int[Tensor, "example position"], npt.NDArray[np.int64]]:
    """Sequences of one width that end in tokens said twice, of other lengths, and these lengths."""
    bos, ordinary = _bos(model), _ordinary(model)
    # The shortest repetition stands after the most other tokens, which are distinct from it.
    most = min((model.n_ctx - len(bos)) // 2, 2 * len(ordinary) // 3)
    length = min(25, most) if length is None else length
    if n < 4 or not 5 <= length <= most:
        raise PromptError(
            f"Heads cannot be told apart on {n} sequences of up to {length} repeated tokens for "
            f"{model.name}; ask for at least 4, of 5 to {most} tokens."
        )
    lengths = length - np.arange(n) * (length - length // 2 + 1) // n
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for repeated in lengths.tolist():
        drawn = ordinary[torch.randperm(len(ordinary), generator=generator)]
        twice, before = drawn[:repeated], drawn[repeated : 2 * length - repeated]
        rows.append(torch.cat([torch.tensor(bos, dtype=torch.long), before, twice, twice]))
    return torch.stack(rows), lengths


def _bos(model: Model) -> list[int]:
    return [int(model.tokenizer.bos_token_id)] if model.prepends_bos else []


def _ordinary(model: Model) -> Int[Tensor, " token"]:
    known = min(model.d_vocab, len(model.tokenizer))
    special = set(model.tokenizer.all_special_ids)
    return torch.tensor([i for i in range(known) if i not in special])


@typed
def repetition_loss(
    model: Model,
    ids: Int[Tensor, "example position"],
    *,
    interventions: Intervention | Sequence[Intervention] = (),
) -> xr.Dataset:
    """How well sequences of `repeated_sequences` are predicted when they are read a second time.

    Returns:
        loss(example, occurrence): −log p of the right token in nats, a mean over all tokens but
        the first of each occurrence, which nothing foretells.

    Raises:
        PromptError: ids that do not fit the model, or are not something said twice.
        SiteError, DirectionError: an intervention does not fit the model.
    """
    batch = tokenise(model, ids)
    length = batch.ids.shape[1] // 2
    first = batch.ids.shape[1] - 2 * length
    if length < 2 or not torch.equal(
        batch.ids[:, first : first + length], batch.ids[:, first + length :]
    ):
        raise PromptError("These are not sequences said twice; make them by repeated_sequences.")

    def work(start: int, stop: int) -> Tensor:
        whole = batch.ids[start:stop]
        found = logits(model, whole, positions="all", interventions=interventions)[:, :-1]
        wanted = whole[:, 1:, None].to(found.device)
        loss = (found.logsumexp(-1) - found.gather(2, wanted)[..., 0]).cpu()
        return torch.stack(
            [loss[:, at : at + length - 1].mean(1) for at in (first, first + length)], dim=1
        )

    size = rows_that_fit(model, 3 * 4 * batch.ids.shape[1] * model.d_vocab)
    losses = torch.cat([piece for _, _, piece in batches(len(batch), size, work)])
    return xr.Dataset(
        {"loss": (("example", "occurrence"), losses.numpy())},
        {"occurrence": ["first", "second"]},
        {"instrument": "repetition loss", "unit": "nats", **model.identity},
    )


def _sought(model: Model, batch: TokenBatch) -> dict[str, Float[Tensor, "example dest source"]]:
    """By kind of head, how much attention to each pair of tokens counts; all NaN where none is."""
    ids, width = batch.ids, batch.ids.shape[1]
    index = torch.arange(width)
    real = index < batch.lengths[:, None]
    is_bos = (ids == model.tokenizer.bos_token_id) & (index == 0)
    back = index[:, None] - index[None, :]  # [destination, source]
    same = (ids[:, :, None] == ids[:, None, :]) & (back > 0) & ~is_bos[:, None, :]
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1] & (back[:, 1:] > 0)
    previous = (back == 1) & ~is_bos[:, None, :]
    return {
        name: _averaged(pairs & real[:, :, None])
        for name, pairs in zip(KINDS, (previous, same, after), strict=True)
    }


def _averaged(pairs: Tensor) -> Tensor:
    destinations = pairs.any(2).sum(1).float()[:, None, None]
    return torch.where(destinations > 0, pairs / destinations, torch.nan)


def _best_offset(weight: Float[Tensor, "example dest source"]) -> float:
    """The mean score of the best head that attends to the token at one fixed distance."""
    by_offset = [
        torch.diagonal(weight, -back, 1, 2).sum(1).mean() for back in range(1, weight.shape[1])
    ]
    return float(torch.stack(by_offset).max())


def _entropy(
    pattern: Float[Tensor, "example head dest source"], ends: Int[Tensor, " example"]
) -> Float[Tensor, "example head"]:
    nats = torch.special.entr(pattern).sum(-1)
    index = torch.arange(pattern.shape[2], device=pattern.device)
    counted = (index > 0) & (index <= ends.to(pattern.device)[:, None])
    summed = (nats * counted[:, None]).sum(-1)
    return torch.where(counted.any(1)[:, None], summed / counted.sum(1)[:, None], torch.nan)


def _even_attention(batch: TokenBatch) -> Float[Tensor, "1 dest source"]:
    width = batch.ids.shape[1]
    return (torch.ones(width, width).tril() / torch.arange(1, width + 1)[:, None])[None]
