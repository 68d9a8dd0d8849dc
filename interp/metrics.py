"""What is read from the logits: one number for each example.

A metric names the sequences it needs (the prompt alone, or with the answer or the foil forced
after it) and turns the logits at the read positions into a score; scores are added with weights.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.forward.passes import readout
from interp.model.memory import batches, rows_that_fit
from interp.model.model import Model

if TYPE_CHECKING:
    from interp.prompts.pairs import PromptPairs, Read, Reading

Logits = Float[Tensor, "row read vocabulary"]
Targets = Int[Tensor, "row read"]
Score = Callable[[Logits, Targets], Float[Tensor, " row"]]


@dataclass(frozen=True)
class Term:
    """One score of a metric.

    Attributes:
        read: the sequence it is read from.
        targets: whose tokens are looked for; they stand at the read positions.
        score: from float32 logits [row, read, vocabulary] and targets [row, read] to [row].
        weight: what the score is multiplied with in the sum.
    """

    read: Read
    targets: Read
    score: Score
    weight: float = 1.0


@dataclass(frozen=True)
class Metric:
    """A number for each example, as a weighted sum of scores."""

    name: str
    unit: str
    terms: tuple[Term, ...]
    meaning: str

    @property
    def reads(self) -> tuple[Read, ...]:
        """The sequences that have to be run, each once."""
        return tuple(dict.fromkeys(term.read for term in self.terms))

    def terms_of(self, read: Read) -> tuple[Term, ...]:
        """The terms that are read from the same sequences."""
        return tuple(term for term in self.terms if term.read == read)

    def targets(self, pairs: PromptPairs, term: Term) -> Targets:
        """The tokens that `term` looks for [example, read].

        Raises:
            PromptError: first tokens are compared, and those of an answer and its foil are one.
        """
        if {"answer", "foil"} <= {one.targets for one in self.terms if one.read == "prompt"}:
            pairs.check_first_tokens()
        if term.read == "prompt" and term.targets in ("answer", "foil"):
            return pairs.first_tokens(term.targets)[:, None]
        return pairs.reading("clean", term.read).targets


def target_logit(logits: Logits, targets: Targets) -> Float[Tensor, " row"]:
    """The logit of the target at the first read position."""
    return logits[:, 0].gather(1, targets[:, :1]).squeeze(1)


def target_logprob(logits: Logits, targets: Targets) -> Float[Tensor, " row"]:
    """Sum over the reads of log p(target), in nats; reads with target -1 do not count."""
    present = targets >= 0
    chosen = logits.gather(2, targets.clamp(min=0)[..., None]).squeeze(2)
    return ((chosen - logits.logsumexp(dim=2)) * present).sum(1)


def target_probability(logits: Logits, targets: Targets) -> Float[Tensor, " row"]:
    """p(all targets) under the model: the product over the reads."""
    return target_logprob(logits, targets).exp()


def target_rank(logits: Logits, targets: Targets) -> Float[Tensor, " row"]:
    """How many tokens have a strictly larger logit than the target at the first read."""
    target = target_logit(logits, targets)
    rank = (logits[:, 0] > target[:, None]).sum(1).to(torch.float32)
    # Nothing is larger than NaN, nor is NaN larger: neither is a reason to call it the likeliest.
    return torch.where(logits[:, 0].amax(1).isnan(), torch.nan, rank)


logit_diff = Metric(
    "logit_diff",
    "logits",
    (Term("prompt", "answer", target_logit), Term("prompt", "foil", target_logit, -1.0)),
    "logit of the answer's first token minus that of the foil's, after the prompt",
)
"""Logit of the answer's first token minus that of the foil's, after the prompt."""

first_token_logprob = Metric(
    "first_token_logprob",
    "nats",
    (Term("prompt", "answer", target_logprob),),
    "log-probability of the answer's first token",
)
answer_logprob = Metric(
    "answer_logprob",
    "nats",
    (Term("answer", "answer", target_logprob),),
    "log-probability of the whole answer",
)
"""Log-probability of the whole answer in nats, its tokens forced one by one."""

logprob_diff = Metric(
    "logprob_diff",
    "nats",
    (Term("answer", "answer", target_logprob), Term("foil", "foil", target_logprob, -1.0)),
    "log-probability of the whole answer minus that of the whole foil",
)
probability = Metric(
    "probability",
    "probability",
    (Term("answer", "answer", target_probability),),
    "probability of the whole answer",
)
rank = Metric(
    "rank",
    "rank",
    (Term("prompt", "answer", target_rank),),
    "rank of the answer's first token among all tokens, 0 for the likeliest",
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (logit_diff, first_token_logprob, answer_logprob, logprob_diff, probability, rank)
}
"""The metrics by their names, which every function with a `metric` takes as well."""


def get_metric(metric: Metric | str) -> Metric:
    """The metric itself, or the one with this name."""
    if isinstance(metric, Metric):
        return metric
    if metric in METRICS:
        return METRICS[metric]
    near = difflib.get_close_matches(str(metric), METRICS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise MetricError(f"Unknown metric '{metric}'; known are {', '.join(METRICS)}.{hint}")


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
        n_reads = max((targets.shape[1] for _, targets in self.terms), default=1)
        return self.reading.positions[examples.cpu()][:, :n_reads].to(self.model.device)

    def value(
        self, hidden: Float[Tensor, "row position d_model"], examples: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The sum of the terms for each row; `examples` are the pairs that the rows belong to."""
        if not self.terms:
            return torch.zeros(len(hidden), device=hidden.device)
        read = self._read(hidden, examples)
        size = rows_that_fit(self.model, 3 * read.shape[1] * self.model.d_vocab * 4)
        pieces = batches(
            len(read), size, lambda a, b: self._scores(read[a:b], examples[a:b], grad=False)
        )
        return torch.cat([scores for _, _, scores in pieces])

    def next_tokens(
        self, hidden: Float[Tensor, "row position d_model"], examples: Int[Tensor, " row"], k: int
    ) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
        """The `k` likeliest tokens after each row's prompt, and their probabilities.

        Where logits are not finite, probabilities are NaN, and the tokens say nothing.
        """
        last = self.reading.positions[examples.cpu(), 0].to(hidden.device)
        read = hidden[torch.arange(len(hidden), device=hidden.device), last]

        def work(start: int, stop: int) -> tuple[Tensor, Tensor]:
            logits = readout(self.model, read[start:stop])
            top = logits.topk(k, dim=-1)
            total = logits.logsumexp(-1, keepdim=True)
            # Of infinite logits, too, no probability is known.
            probabilities = (top.values - total).exp().where(total.isfinite(), torch.nan)
            return top.indices, probabilities

        pieces = batches(len(read), rows_that_fit(self.model, 3 * self.model.d_vocab * 4), work)
        ids, probabilities = zip(*(found for _, _, found in pieces), strict=True)
        return torch.cat(ids), torch.cat(probabilities)

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
