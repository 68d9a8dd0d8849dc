"""A metric's value, and its gradient, at final residual streams."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.batching import batches, rows_that_fit
from interp.forward import readout
from interp.metrics import Metric, Term
from interp.model import Model
from interp.prompts import PromptPairs, Read, Reading


@dataclass(frozen=True)
class Scorer:
    """The terms of a metric that are read from the same sequences.

    Attributes:
        reading: those sequences, of the run whose positions count.
        terms: each term with the tokens that it looks for [example, read].
    """

    model: Model
    reading: Reading
    terms: tuple[tuple[Term, Int[Tensor, "example read"]], ...]

    @classmethod
    def of(
        cls, model: Model, pairs: PromptPairs, metric: Metric, read: Read, reading: Reading
    ) -> Scorer:
        terms = tuple((term, metric.targets(pairs, term)) for term in metric.terms_of(read))
        return cls(model, reading, terms)

    def positions(self, examples: Int[Tensor, " row"]) -> Int[Tensor, "row read"]:
        """Where each row is read."""
        # A score of the prompt reads its last token, which is the first read.
        n_reads = max(targets.shape[1] for _, targets in self.terms)
        return self.reading.positions[examples.cpu()][:, :n_reads].to(self.model.device)

    def value(
        self, hidden: Float[Tensor, "row position d_model"], examples: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The sum of the terms for each row; `examples` are the pairs that the rows belong to."""
        read = self._read(hidden, examples)
        size = rows_that_fit(self.model, 3 * read.shape[1] * self.model.d_vocab * 4)
        pieces = batches(
            len(read), size, lambda a, b: self._scores(read[a:b], examples[a:b], grad=False)
        )
        return torch.cat([scores for _, _, scores in pieces])

    def gradient(
        self, hidden: Float[Tensor, "row position d_model"], examples: Int[Tensor, " row"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row position d_model"]]:
        """The value of each row and its gradient by the row's final stream."""
        values = torch.empty(len(hidden), device=hidden.device)
        gradients = torch.zeros_like(hidden)
        size = rows_that_fit(self.model, 6 * self.model.d_vocab * 4)

        def work(start: int, stop: int) -> None:
            part = hidden[start:stop].detach().requires_grad_()
            with torch.enable_grad():
                value = self._scores(
                    self._read(part, examples[start:stop]), examples[start:stop], grad=True
                )
                (gradients[start:stop],) = torch.autograd.grad(value.sum(), part)
            values[start:stop] = value.detach()

        for _ in batches(len(hidden), size, work):
            pass
        return values, gradients

    def _read(self, hidden: Tensor, examples: Tensor) -> Tensor:
        positions = self.positions(examples)
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))

    def _scores(self, read: Tensor, examples: Tensor, *, grad: bool) -> Tensor:
        logits = readout(self.model, read, grad=grad)
        total = torch.zeros(len(read), device=logits.device)
        for term, targets in self.terms:
            wanted = targets[examples.cpu()].to(logits.device)
            total = total + term.weight * term.score(logits, wanted)
        return total
