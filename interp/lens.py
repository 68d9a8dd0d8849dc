"""The logit lens (nostalgebraist 2020): what the model would say if it stopped at a layer.

Every residual stream is read through the model's own final norm and unembedding. At the last
layer this is the model's output; `record` has checked that it is before any number is given out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.batching import batches, rows_that_fit
from interp.errors import PromptError
from interp.forward import readout, record, recording_memory
from interp.model import Model
from interp.prompts import continuations
from interp.sites import Site
from interp.tokens import Prompts, TokenBatch, check_vocabulary, tokenise


def logit_lens(
    model: Model,
    prompts: Prompts | str,
    answers: Sequence[str] | Int[Tensor, " example"] | str | None = None,
    *,
    k: int = 5,
    positions: str = "all",
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Read every layer's residual stream as a prediction of the next token.

    Args:
        model: the model.
        prompts: texts, or token ids [example, position].
        answers: for each prompt the text expected after it, of which the first token is followed,
            or token ids [example].
        k: how many of the likeliest tokens to keep.
        positions: "all", or "last" for the end of each prompt only.
        progress: called with (layer readings done, in all).

    Returns:
        top_token, top_prob (example, layer, position, k): the likeliest tokens; entropy (example,
        layer, position) in nats; with answers also answer_rank (0 is the likeliest; ties count
        only strictly larger logits) and answer_logprob in nats. Layer 0 is the embedding, layer n
        the stream after n blocks. Positions count from the left; beyond a shorter prompt's end
        tokens are "", numbers NaN and ranks -1. With positions="last" the axis has one entry.
        The coordinate token(example, position) is what stands there.

    Raises:
        PromptError: empty or too long prompts, or an answer without tokens.
    """
    batch = tokenise(model, prompts)
    targets = _targets(model, batch, answers)
    if k < 1:
        raise PromptError(f"The number of likeliest tokens, k, must be at least 1, not {k}.")
    k = min(k, model.d_vocab)
    if positions not in ("all", "last"):
        raise PromptError(f"Unknown positions '{positions}'; choose 'all' or 'last'.")
    where = _positions(batch, positions)
    layers = model.n_layers + 1
    shape = (len(batch), layers, where.shape[1])
    out = _Readings(shape, k, followed=targets is not None)
    sites = [Site("resid_pre", 0), *(Site("resid_post", i) for i in range(model.n_layers))]
    size = rows_that_fit(model, recording_memory(model, batch.ids.shape[1], layers))

    def run(start: int, stop: int) -> None:
        recording = record(model, batch.ids[start:stop], sites)
        for layer, site in enumerate(sites):
            hidden = recording[site]
            index = where[start:stop].clamp(min=0).to(hidden.device)
            hidden = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
            out.read(model, hidden, None if targets is None else targets[start:stop], start, layer)
            if progress:
                progress(start * layers + (stop - start) * (layer + 1), len(batch) * layers)

    for _ in batches(len(batch), size, run):
        pass
    return out.label(model, batch, where.numpy(), answers)


class _Readings:
    """Arrays that one (examples × layer) block of readings after the other is written into."""

    def __init__(self, shape: tuple[int, int, int], k: int, *, followed: bool) -> None:
        self.ids = np.zeros((*shape, k), dtype=np.int64)
        self.top_prob = np.zeros((*shape, k), dtype=np.float32)
        self.entropy = np.zeros(shape, dtype=np.float32)
        self.rank = np.full(shape, -1, dtype=np.int64) if followed else None
        self.logprob = np.zeros(shape, dtype=np.float32) if followed else None

    def read(
        self,
        model: Model,
        hidden: Float[Tensor, "example position d_model"],
        targets: Int[Tensor, " example"] | None,
        first: int,
        layer: int,
    ) -> None:
        n_examples, n_positions, _ = hidden.shape
        flat = hidden.reshape(n_examples * n_positions, -1)
        followed = (
            None if targets is None else targets.to(hidden.device).repeat_interleave(n_positions)
        )
        k = self.ids.shape[-1]

        def work(start: int, stop: int) -> None:
            logits = readout(model, flat[start:stop])
            logprobs = logits.log_softmax(-1)
            top = logprobs.topk(k, dim=-1)
            row, position = np.divmod(np.arange(start, stop), n_positions)
            at = (first + row, layer, position)
            self.ids[at] = top.indices.cpu().numpy()
            self.top_prob[at] = top.values.exp().cpu().numpy()
            self.entropy[at] = -(logprobs.exp() * logprobs.clamp(min=-1e30)).sum(-1).cpu().numpy()
            if followed is not None and self.rank is not None and self.logprob is not None:
                wanted = followed[start:stop, None]
                self.logprob[at] = logprobs.gather(1, wanted).squeeze(1).cpu().numpy()
                self.rank[at] = (logits > logits.gather(1, wanted)).sum(1).cpu().numpy()

        size = rows_that_fit(model, 4 * model.d_vocab * 4)
        for _ in batches(len(flat), size, work):
            pass

    def label(
        self,
        model: Model,
        batch: TokenBatch,
        where: npt.NDArray[np.int64],
        answers: Sequence[str] | Tensor | str | None,
    ) -> xr.Dataset:
        absent = np.broadcast_to((where < 0)[:, None, :], self.entropy.shape)
        names = _strings(model, self.ids)
        names[absent] = ""
        self.top_prob[absent] = np.nan
        self.entropy[absent] = np.nan
        dims = ("example", "layer", "position")
        variables: dict[str, Any] = {
            "top_token": ((*dims, "k"), names),
            "top_prob": ((*dims, "k"), self.top_prob),
            "entropy": (dims, self.entropy),
        }
        if self.rank is not None and self.logprob is not None:
            self.rank[absent] = -1
            self.logprob[absent] = np.nan
            variables["answer_rank"] = (dims, self.rank)
            variables["answer_logprob"] = (dims, self.logprob)
        tokens = np.full(where.shape, "", dtype=object)
        for example in range(len(batch)):
            strings = model.token_strings(batch.row(example))
            for column, index in enumerate(where[example]):
                if index >= 0:
                    tokens[example, column] = strings[index]
        coords: dict[str, Any] = {
            "layer": np.arange(self.entropy.shape[1]),
            "position": np.arange(where.shape[1]),
            "token": (("example", "position"), tokens),
            "prompt": ("example", list(batch.texts)),
        }
        if isinstance(answers, str):
            answers = [answers]
        if answers is not None and not isinstance(answers, Tensor):
            coords["answer"] = ("example", list(answers))
        attrs = {
            "instrument": "logit lens",
            **model.identity,
        }
        return xr.Dataset(variables, coords=coords, attrs=attrs)


def _targets(
    model: Model, batch: TokenBatch, answers: Sequence[str] | Tensor | str | None
) -> Int[Tensor, " example"] | None:
    if answers is None:
        return None
    if isinstance(answers, str):
        answers = [answers]
    if len(answers) != len(batch):
        raise PromptError(
            f"There are {len(answers)} answers for {len(batch)} prompts; give one for each."
        )
    if isinstance(answers, Tensor):
        if answers.ndim != 1 or answers.is_floating_point():
            raise PromptError("Token ids of answers must be integers of shape [example].")
        check_vocabulary(model, [int(answers.min()), int(answers.max())], "answers")
        return answers.cpu().long()
    return torch.tensor([ids[0] for ids in continuations(model, batch, answers)])


def _positions(batch: TokenBatch, positions: str) -> Int[Tensor, "example position"]:
    """Token indices to read [example, position]; -1 where a prompt has no such token."""
    if positions == "last":
        return (batch.lengths - 1)[:, None]
    index = torch.arange(batch.ids.shape[1])[None, :].expand(len(batch), -1)
    return torch.where(index < batch.lengths[:, None], index, -1)


def _strings(model: Model, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    unique, inverse = np.unique(ids, return_inverse=True)
    names = np.array([*model.token_strings(unique.tolist()), ""], dtype=object)[:-1]
    strings: npt.NDArray[np.object_] = names[inverse].reshape(ids.shape)
    return strings
