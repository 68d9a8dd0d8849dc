"""What a lens notes of every reading: arrays that one block of readings after the other fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.forward.passes import readout
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model

__all__ = ["Readings", "kl_divergence"]

# Tensors as wide as the vocabulary that one reading takes at its peak, in float32.
_WIDE = 8


class Readings:
    """Numbers by example, layer and position; where a prompt has no such position, NaN, 0 or -1.

    Attributes:
        top_ids, top_prob: the likeliest tokens [example, layer, position, k].
        entropy: of the prediction, in nats [example, layer, position].
        kl: from the last layer's prediction to this one, in nats [example, layer, position].
        final_rank: how many tokens this layer puts before the one that the last layer puts first.
        next_logprob: of the token that stands next in the prompt, in nats; NaN at its end.
        answer_rank, answer_logprob: of the answers [example, layer, position, candidate].
    """

    def __init__(self, shape: tuple[int, int, int], k: int, candidates: int) -> None:
        def unknown(*more: int) -> npt.NDArray[np.float32]:
            return np.full((*shape, *more), np.nan, dtype=np.float32)

        self.top_ids = np.zeros((*shape, k), dtype=np.int64)
        self.top_prob = unknown(k)
        self.entropy, self.kl, self.next_logprob = unknown(), unknown(), unknown()
        self.final_rank = np.full(shape, -1, dtype=np.int64)
        self.answer_rank = np.full((*shape, candidates), -1, dtype=np.int64)
        self.answer_logprob = unknown(candidates)

    def read(
        self,
        model: Model,
        first: int,
        where: Int[Tensor, "example position"],
        following: Int[Tensor, "example position"],
        targets: Int[Tensor, "example candidate"],
        stream: Callable[[int, Tensor, Tensor], Float[Tensor, "reading d_model"]],
        done: Callable[[int], None],
    ) -> None:
        """Read some examples, all layers, and as many positions at a time as fit into memory.

        Args:
            first: the number of the first of these examples.
            where: token indices to read; -1 where there is none.
            following: the token after each of these; -1 where there is none.
            targets: the tokens of the answers.
            stream: from a layer, and examples and token indices [reading], to what is read.
            done: called with how many more positions have been read at all layers.
        """
        example, column = (where >= 0).nonzero(as_tuple=True)
        last_layer = self.entropy.shape[1] - 1

        def work(start: int, stop: int) -> None:
            row, at = example[start:stop], column[start:stop]
            index, after = where[row, at], following[row, at].to(model.device)
            wanted = targets[row].to(model.device)
            final: Tensor | None = None
            for layer in (last_layer, *range(last_layer)):
                logits = readout(model, stream(layer, row, index))
                logprobs = logits.log_softmax(-1)
                final = logprobs if final is None else final
                self._note((first + row, layer, at), logits, logprobs, final, after, wanted)

        size = rows_that_fit(model, _WIDE * model.d_vocab * 4)
        for start, stop, _ in batches(len(example), size, work):
            done(stop - start)

    def _note(
        self,
        where: tuple[Tensor, int, Tensor],
        logits: Float[Tensor, "reading vocabulary"],
        logprobs: Float[Tensor, "reading vocabulary"],
        final: Float[Tensor, "reading vocabulary"],
        following: Int[Tensor, " reading"],
        wanted: Int[Tensor, "reading candidate"],
    ) -> None:
        at = (where[0].numpy(), where[1], where[2].numpy())
        top = logprobs.topk(self.top_ids.shape[-1], dim=-1)
        self.top_ids[at] = top.indices.cpu().numpy()
        self.top_prob[at] = top.values.exp().cpu().numpy()
        self.entropy[at] = -(logprobs.exp() * logprobs.clamp(min=-1e30)).sum(-1).cpu().numpy()
        self.kl[at] = kl_divergence(final, logprobs).cpu().numpy()
        best = final.max(-1)
        ranks = _ranks(logits, logprobs, best.indices[:, None])[:, 0]
        self.final_rank[at] = ranks.where(~best.values.isnan(), -1).cpu().numpy()
        after = logprobs.gather(1, following.clamp(min=0)[:, None])[:, 0]
        self.next_logprob[at] = torch.where(following < 0, torch.nan, after).cpu().numpy()
        self.answer_logprob[at] = logprobs.gather(1, wanted).cpu().numpy()
        self.answer_rank[at] = _ranks(logits, logprobs, wanted).cpu().numpy()


def kl_divergence(
    final: Float[Tensor, "*row vocabulary"], logprobs: Float[Tensor, "*row vocabulary"]
) -> Float[Tensor, "*row"]:
    """Σ p · (log p − log q) in nats, where p is the model's own prediction and q the lens's."""
    # Where p is 0 its logarithm may be infinite; rounding may leave less than nothing.
    difference = final.clamp(min=-1e30) - logprobs.clamp(min=-1e30)
    return (final.exp() * difference).sum(-1).clamp(min=0.0)


def _ranks(
    logits: Float[Tensor, "reading vocabulary"],
    logprobs: Float[Tensor, "reading vocabulary"],
    wanted: Int[Tensor, "reading candidate"],
) -> Int[Tensor, "reading candidate"]:
    """How many tokens are before each; -1 where logits are infinite or NaN."""
    ranks: Sequence[Tensor] = [
        (logits > logits.gather(1, one[:, None])).sum(1) for one in wanted.unbind(1)
    ]
    if not ranks:
        return wanted
    # One NaN, or an infinite logit, makes every log-probability NaN.
    return torch.stack(list(ranks), 1).where(~logprobs[:, :1].isnan(), -1)
