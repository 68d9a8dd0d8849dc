"""Prompts that go on after vectors were put in: what is written then, and what comes next."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interp.forward.interventions import Intervention, plan
from interp.forward.past import past_memory
from interp.generation.stream import end_tokens
from interp.generation.writing import Writer
from interp.model.memory import room_to_keep
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.tokens import TokenBatch
from interp.sites import Site


@dataclass(frozen=True)
class Written:
    """What was written [row], and the likeliest next tokens with log-probabilities [row, k]."""

    texts: npt.NDArray[np.object_]
    ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]

    def part(self, start: int, stop: int) -> Written:
        rows = slice(start, stop)
        return Written(self.texts[rows], self.ids[rows], self.logprobs[rows])


@dataclass(frozen=True)
class Scope:
    """A prompt for each example, into which vectors are put before it goes on.

    Attributes:
        tokens: the tokens of each prompt that are replaced [example].
    """

    model: Model
    batch: TokenBatch
    tokens: tuple[tuple[int, ...], ...]
    site: str
    layers: tuple[int, ...]
    max_new_tokens: int
    next_tokens: int
    stop_at_eos: bool

    def run(
        self, vectors: Tensor | None, shape: tuple[int, ...], progress: Progress | None
    ) -> Written:
        """Write in every cell.

        Args:
            vectors: [kind, source layer, example, …]; None to put nothing in.
            shape: [kind, example, source layer, target layer], or [example] without vectors.
        """
        index = np.indices(shape).reshape(len(shape), -1)
        n = index.shape[1]
        out = Written(
            np.full(n, "", dtype=object),
            np.zeros((n, self.next_tokens), np.int64),
            np.zeros((n, self.next_tokens), np.float32),
        )
        length = self.batch.ids.shape[1] + self.max_new_tokens
        each = past_memory(self.model, length)
        if vectors is not None:
            each += 2 * vectors[0, 0, 0].numel() * vectors.element_size()
        size = max(1, room_to_keep(self.model) // each)
        for start in range(0, n, size):
            rows = np.arange(start, min(start + size, n))
            changes: list[Intervention] = []
            if vectors is None:
                batch = self.batch
            else:
                kind, example, source, target = index[:, rows]
                batch = self.batch.subset(example.tolist())
                put = vectors.cpu()[kind, source, example]
                changes = self._changes(put, batch, example, target)
            self._write(batch, changes, out, start, n, progress)
        return out

    def _changes(
        self, put: Tensor, batch: TokenBatch, example: Any, target: Any
    ) -> list[Intervention]:
        """The vector of each row at its layer and tokens."""
        at = torch.zeros(batch.ids.shape, dtype=torch.bool)
        for row, number in enumerate(example):
            at[row, list(self.tokens[number])] = True
        # One copy of the vectors serves all layers.
        first = Intervention.replace(put, (), positions=at)
        found = []
        for number in np.unique(target):
            here = at & torch.from_numpy(target == number)[:, None]
            sites = (Site(self.site, self.layers[number]),)
            found.append(dataclasses.replace(first, sites=sites, positions=here))
        return found

    def _write(
        self,
        batch: TokenBatch,
        changes: list[Intervention],
        out: Written,
        start: int,
        n: int,
        progress: Progress | None,
    ) -> None:
        model, steps = self.model, max(1, self.max_new_tokens)

        def look(index: int, rows: Tensor, logits: Tensor) -> None:
            if index == 0 and self.next_tokens:
                best = logits.log_softmax(-1).topk(self.next_tokens)
                out.ids[start + rows.numpy()] = best.indices.cpu().numpy()
                out.logprobs[start + rows.numpy()] = best.values.cpu().numpy()

        writer = Writer(
            model,
            batch,
            torch.full((len(batch),), steps),
            dice=None,
            changes=plan(model, changes, batch.lengths, written=True),
            ends=end_tokens(model) if self.stop_at_eos else frozenset(),
        )
        for portion in writer.portions():
            first = start + int(portion[0])
            for step in writer.steps(portion, look):
                for row, text in zip(step.examples, step.texts, strict=True):
                    out.texts[start + row] += text
                if progress:
                    progress(first * steps + len(portion) * (step.index + 1), n * steps)
            if progress:
                progress((first + len(portion)) * steps, n * steps)


def variables_of(
    model: Model,
    found: Written,
    prefix: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    max_new_tokens: int,
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if max_new_tokens:
        out[f"{prefix}text"] = (dims, found.texts.reshape(shape))
    k = found.ids.shape[1]
    if k:
        used, inverse = np.unique(found.ids, return_inverse=True)
        names = np.array(model.token_strings(used.tolist()), dtype=object)
        out[f"{prefix}top_token"] = ((*dims, "k"), names[inverse].reshape(*shape, k))
        out[f"{prefix}top_logprob"] = ((*dims, "k"), found.logprobs.reshape(*shape, k))
    return out
