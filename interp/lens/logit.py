"""Lenses: what the model would say if it stopped at a layer.

The logit lens (nostalgebraist 2020) reads every residual stream through the model's own final norm
and unembedding; the tuned lens (Belrose et al. 2023) first translates each layer's stream into the
last one's coordinates by a map that was trained, the Jacobian lens (Gurnee et al. 2026) by the mean
Jacobian of the final stream. At the last layer all are the model's output; `record` has checked
that they are before any number is given out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.errors import PromptError
from interp.forward.passes import record, recording_memory
from interp.lens.jacobian.lens import JacobianLens
from interp.lens.readings import Readings
from interp.lens.tuned import TunedLens
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.targets import Answers, first_tokens
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.sites import Site

__all__ = ["logit_lens"]


@typed
def logit_lens(
    model: Model,
    prompts: Prompts | str,
    answers: Answers | None = None,
    *,
    lens: TunedLens | JacobianLens | None = None,
    k: int = 5,
    positions: Literal["all", "last"] | Sequence[int] = "all",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Read every layer's residual stream as a prediction of the next token.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        answers: for each prompt the text expected after it, of which the first token is followed,
            or as many texts for each; or token ids [example] or [example, candidate].
        lens: a tuned or Jacobian lens of this model; the logit lens if left out.
        k: how many of the likeliest tokens to keep.
        positions: "all", "last" for the end of each prompt only, or numbers: 0 is the first token,
            -1 the last one of each prompt.
        progress: called with (positions read at all layers, in all).

    Returns:
        By (example, layer, position): top_token, top_prob (…, k): the likeliest tokens; entropy
        in nats; kl: from the last layer's prediction to this one, in nats; final_rank: of the
        token that the last layer puts first (0 is the likeliest; ties count only strictly larger
        logits); next_logprob: of the token that stands next in the prompt, in nats; with answers
        also answer_rank and answer_logprob, with an axis `candidate` where several are followed.
        Layer 0 is the embedding, layer n the stream after n blocks; layers that a Jacobian lens has
        no matrix for are left out. Positions count from the left; beyond a shorter prompt's end,
        and where logits are not finite, tokens are "", numbers NaN and ranks -1. With
        positions="last" the axis has one entry. The coordinate token(example, position) is what
        stands there, answer_token(example[, candidate]) the first token of each answer, which is
        all that is looked for. [layer, position, vocabulary] is never in memory.

    Raises:
        PromptError: empty or too long prompts, an answer without tokens, or no such position.
        ModelError: the lens belongs to another model.
    """
    batch = tokenise(model, prompts)
    targets = first_tokens(model, batch, answers)
    if lens is not None:
        lens.check(model)
    if k < 1:
        raise PromptError(f"The number of likeliest tokens, k, must be at least 1, not {k}.")
    k = min(k, model.d_vocab)
    labels, where = _positions(batch, positions)
    following = _following(batch, where)
    layers = lens.layers(model) if isinstance(lens, JacobianLens) else range(model.n_layers + 1)
    wanted = torch.empty(len(batch), 0, dtype=torch.long) if targets is None else targets
    if wanted.ndim == 1:
        wanted = wanted[:, None]
    out = Readings((len(batch), len(layers), where.shape[1]), k, wanted.shape[1])
    sites = [Site("resid_post", i - 1) if i else Site("resid_pre", 0) for i in layers]
    total, count = int((where >= 0).sum()), 0

    def done(more: int) -> None:
        nonlocal count
        count += more
        if progress:
            progress(count, total)

    def run(start: int, stop: int) -> None:
        recording = record(model, batch.ids[start:stop], sites)

        def stream(at: int, row: Tensor, index: Tensor) -> Float[Tensor, "reading d_model"]:
            hidden = recording[sites[at]]
            hidden = hidden[row.to(hidden.device), index.to(hidden.device)]
            if lens is None or layers[at] == model.n_layers:
                return hidden
            return lens.translate(layers[at], hidden)

        part = slice(start, stop)
        out.read(model, start, where[part], following[part], wanted[part], stream, done)

    size = rows_that_fit(model, recording_memory(model, batch.ids.shape[1], len(layers)))
    for _ in batches(len(batch), size, run):
        pass
    found = _label(model, out, batch, where.numpy(), labels, layers)
    if targets is not None:
        found = _with_answers(model, found, out, targets, answers)
    kind = {TunedLens: "tuned lens", JacobianLens: "Jacobian lens"}.get(type(lens), "logit lens")
    found.attrs = {"instrument": kind, **model.identity}
    return found


def _label(
    model: Model,
    readings: Readings,
    batch: TokenBatch,
    where: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    layers: Sequence[int],
) -> xr.Dataset:
    absent = np.broadcast_to((where < 0)[:, None, :], readings.entropy.shape)
    names = _strings(model, readings.top_ids)
    names[absent] = ""
    names[np.isnan(readings.top_prob)] = ""  # of logits that are not finite
    dims = ("example", "layer", "position")
    tokens = np.full(where.shape, "", dtype=object)
    for example in range(len(batch)):
        strings = model.token_strings(batch.row(example))
        for column, index in enumerate(where[example]):
            if index >= 0:
                tokens[example, column] = strings[index]
    variables: dict[str, Any] = {
        "top_token": ((*dims, "k"), names),
        "top_prob": ((*dims, "k"), readings.top_prob),
        "entropy": (dims, readings.entropy),
        "kl": (dims, readings.kl),
        "final_rank": (dims, readings.final_rank),
        "next_logprob": (dims, readings.next_logprob),
    }
    coords: dict[str, Any] = {
        "layer": np.array(layers),
        "position": labels,
        "token": (("example", "position"), tokens),
        "prompt": ("example", list(batch.texts)),
    }
    return xr.Dataset(variables, coords=coords)


def _with_answers(
    model: Model, found: xr.Dataset, readings: Readings, targets: Tensor, answers: Answers | None
) -> xr.Dataset:
    ranks, logprobs = readings.answer_rank, readings.answer_logprob
    if targets.ndim == 1:
        ranks, logprobs = ranks[..., 0], logprobs[..., 0]
    axes: tuple[str, ...] = ("candidate",) if targets.ndim == 2 else ()
    dims = ("example", "layer", "position", *axes)
    found = found.assign(answer_rank=(dims, ranks), answer_logprob=(dims, logprobs))
    tokens = _strings(model, targets.numpy())
    found = found.assign_coords(answer_token=(("example", *axes), tokens))
    if isinstance(answers, Tensor) or answers is None:
        return found
    texts = np.array([answers] if isinstance(answers, str) else list(answers), dtype=object)
    return found.assign_coords(answer=(("example", *axes), texts))


def _positions(
    batch: TokenBatch, positions: str | Sequence[int]
) -> tuple[npt.NDArray[np.int64], Int[Tensor, "example position"]]:
    """Labels [position], and token indices to read; -1 where a prompt has no such token."""
    longest, lengths = batch.ids.shape[1], batch.lengths[:, None]
    if not isinstance(positions, str):
        try:
            positions = [int(one) for one in positions]
        except (TypeError, ValueError) as error:
            raise PromptError("Positions must be whole numbers, each on its own.") from error
    if positions == "last":
        return np.arange(1), lengths - 1
    chosen = torch.arange(longest) if positions == "all" else torch.tensor([*map(int, positions)])
    numbers = chosen.tolist()
    if not numbers or len(set(numbers)) < len(numbers):
        raise PromptError("Give one position or more, each once.")
    wrong = [n for n in numbers if not -longest <= n < longest]
    if wrong:
        raise PromptError(f"There is no position {wrong[0]}; the longest prompt has {longest}.")
    index = torch.where(chosen < 0, lengths + chosen, chosen.expand(len(batch), -1))
    return chosen.numpy(), torch.where((index >= 0) & (index < lengths), index, -1)


def _following(
    batch: TokenBatch, where: Int[Tensor, "example position"]
) -> Int[Tensor, "example position"]:
    """The token after each position; -1 at a prompt's end."""
    after = (where + 1).clamp(max=batch.ids.shape[1] - 1)
    inside = (where >= 0) & (where + 1 < batch.lengths[:, None])
    return torch.where(inside, batch.ids.gather(1, after), -1)


def _strings(model: Model, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    unique, inverse = np.unique(ids, return_inverse=True)
    names = np.array([*model.token_strings(unique.tolist()), ""], dtype=object)[:-1]
    strings: npt.NDArray[np.object_] = names[inverse].reshape(ids.shape)
    return strings
