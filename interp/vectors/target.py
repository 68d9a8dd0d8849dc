"""Prompts that vectors are put into, and what is read after them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from interp.errors import MetricError, PromptError
from interp.metrics import Metric, Scorer, get_metric
from interp.model.model import Model
from interp.patching.runner import NextTokens, Runner, Scores
from interp.patching.values import GivenVectors
from interp.progress import Progress
from interp.prompts.pairs import Answers, PromptPairs, forced
from interp.prompts.tokens import Prompts, TokenBatch, tokenise
from interp.vectors.table import Vectors, tabulate


@dataclass(frozen=True)
class Target:
    """Prompts that vectors are put into, and what is read after them.

    Attributes:
        batch: the prompts.
        questions: the prompts with their answers; None where only next tokens are read.
        metric: what is read; None likewise.
        next_tokens: how many of the likeliest next tokens are kept.
    """

    batch: TokenBatch
    questions: PromptPairs | None
    metric: Metric | None
    next_tokens: int

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Prompts,
        metric: Metric | str,
        answers: Answers | None,
        foils: Answers | None,
        next_tokens: int,
    ) -> Target:
        """What is asked for.

        Raises:
            PromptError: nothing is read, or see `PromptPairs`.
            MetricError: there is no such metric, or not so many tokens.
        """
        metric = get_metric(metric)
        if not 0 <= next_tokens <= model.d_vocab:
            raise MetricError(
                f"{next_tokens} next tokens cannot be kept; {model.name} knows {model.d_vocab}."
            )
        if answers is None:
            if next_tokens == 0 or foils is not None:
                raise PromptError(
                    "Without answers=… there is no metric; give them, or ask for next_tokens=…."
                )
            return cls(tokenise(model, prompts), None, None, next_tokens)
        # A metric compares two runs of a pair; here both are the same prompt.
        pairs = PromptPairs(model, prompts, prompts, answers, foils)
        return cls(pairs.clean, pairs, metric, next_tokens)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each prompt."""
        return np.asarray(self.batch.lengths.numpy(), dtype=np.int64)

    def runs(self, model: Model, vectors: Tensor) -> list[GivenVectors]:
        """The run for each kind of sequence that is read."""
        if self.questions is None or self.metric is None:
            scorers = [Scorer(model, forced(self.batch, ((),) * len(self.batch)), ())]
        else:
            pairs, metric = self.questions, self.metric
            scorers = [
                Scorer.of(model, pairs, metric, read, pairs.reading("clean", read))
                for read in metric.reads
            ]
        return [GivenVectors(model, scorer, self.lengths, vectors) for scorer in scorers]


@dataclass(frozen=True)
class Measured:
    """What was read after runs.

    Attributes:
        scores, unpatched: the metric of each row [row] and of the prompts as they are [example];
            None where none was asked for.
        tokens, unpatched_tokens: the likeliest next tokens [row, k] and [example, k].
    """

    scores: Scores | None
    unpatched: Scores | None
    tokens: NextTokens
    unpatched_tokens: NextTokens


def read_after(
    model: Model,
    target: Target,
    vectors: Vectors,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Run all rows of a table, and read.

    Raises:
        SiteError, PromptError: as for `tabulate`.
    """
    changes, bank = tabulate(model, vectors, target.lengths.tolist())
    runner = Runner(target.runs(model, bank), changes, batch_size, target.next_tokens)
    scores, unpatched = runner.score(changes, progress)
    tokens, unpatched_tokens = runner.next_tokens
    if target.metric is None:
        return Measured(None, None, tokens, unpatched_tokens)
    return Measured(scores, unpatched["clean"], tokens, unpatched_tokens)
