"""Greedy coordinate search over tokens (Zou et al. 2023, arXiv:2307.15043).

The gradient by one-hot tokens proposes swaps of one token, an exact evaluation decides. Here every
candidate is run exactly, in batches that hold only what its swap can reach; a swap is taken only if
the loss falls, and if its text reads back as its tokens in every prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from cache.arguments import Seed, typed
from interp.errors import ArgumentError, MetricError, PromptError
from interp.metrics import Metric
from interp.model.memory import fitting_threads
from interp.model.model import Model
from interp.progress import Progress
from interp.results import Searched
from interp.search.drawing import drawn
from interp.search.goal import Asked, Goal
from interp.search.layout import Tokens, check_tokens
from interp.search.pool import Pool, digest, token_pool
from interp.search.proposals import Proposals
from interp.search.rows import scores, slope
from interp.search.streams import token_streams
from interp.search.trajectory import Trajectory, settings_hash

__all__ = ["greedy_coordinate_search"]

Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

# A fall that batches of another size could have made as well is none; relative.
_NOISE = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}

_GOES_ON = "It can go on from here."
_ENOUGH = "It ended because the loss was low enough."
_DONE = "No swap of one token by another of the pool lowers the loss further."


@typed
def greedy_coordinate_search(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    foils: Sequence[str] | None = None,
    *,
    goal: Goal | str | None = None,
    suffix: int | str = 8,
    pool: Pool | None = None,
    steps: int = 100,
    candidates: int = 256,
    top_k: int = 64,
    enough: float | None = None,
    start: Searched | None = None,
    keep: Callable[[xr.Dataset], None] | None = None,
    seed: Seed = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Search tokens that, put into every prompt, raise a score; one choice for all prompts.

    The loss is the negated score, averaged over prompts. At each step `candidates` swaps of one
    token are run, those first that the gradient promises most of, and the best of them is taken if
    the loss falls. Numbers are those of whole passes on the text. The same arguments give the same
    search.

    Args:
        model: the model.
        prompts: texts; "{suffix}" stands where the free tokens go, at the end where it is missing.
        answers: what the model should say after each prompt, as written (" Sure", with its space);
            left out with a `Projection`.
        foils: what it should not say.
        goal: what is raised: a metric, by default "logprob_diff" with foils and "answer_logprob"
            without, or a `Projection`.
        suffix: how many tokens, drawn from the pool at first, or the text to begin with.
        pool: the allowed tokens, as ids, or as texts whose tokens are allowed (what the model was
            trained on, say: tokens that training never showed have vectors that mean nothing). If
            left out every token that decodes to printable text which encodes to it again.
        steps: steps in all, those of `start` included.
        candidates: swaps that are run at each step.
        top_k: per free token so many are tried before the next ones.
        enough: a loss at which the search may end.
        start: the result of the same search, with which it goes on as if never interrupted.
        keep: called with the result so far after each step, so that an interrupted search can go
            on.
        seed: of the tokens at first, and of the order in which swaps are tried.
        batch_size: rows in one pass; from a memory estimate if left out.
        progress: called with (steps done, steps in all).

    Returns:
        By `step`, 0 being the start: loss(step); score(step, example), in the goal's unit;
        text(step), token(step, slot) and token_id(step, slot); changed_slot(step), -1 where nothing
        was taken;
        tried(step), how many suffixes were run, and unwritable(step), how many more were left out
        because their text would read as other tokens; best_tried(step), the lowest loss among
        those run. The attribute `suffix` is the text that was found, `ended` says why it ended,
        `statement` says it all in words.

    Raises:
        PromptError: no prompts, a suffix that reads otherwise in some, an empty pool, or a `start`
            of another search.
        MetricError: no such metric, one without a gradient, or a score that is not finite.
        SiteError, DirectionError: a `Projection` on what the model does not have.
        ArgumentError: fewer than one step, candidate or token.
        ModelError: an architecture that cannot be resumed exactly.
    """
    for name, value in (("steps", steps), ("candidates", candidates), ("top_k", top_k)):
        if value < 1:
            raise ArgumentError(f"A search needs at least one of its {name}, not {value}.")
    with fitting_threads(model):
        allowed = token_pool(model, pool)
        text = drawn(model, prompts, allowed, suffix, seed) if isinstance(suffix, int) else suffix
        asked, tokens = Asked.of(model, prompts, text, answers, foils, goal)
        check_tokens(model, tokens, "free tokens")
        check_differentiable(asked)
        settings: dict[str, Any] = {
            "seed": seed,
            "initial": text,
            "candidates": candidates,
            "top_k": top_k,
            "pool_size": len(allowed),
            "pool_hash": digest(allowed),
        }
        search = _Search(model, asked, allowed, candidates, top_k, seed, batch_size)
        if start is None:
            found = search.begin(tokens)
        else:
            found = Trajectory.read(start, settings_hash(asked, settings))
        ended = _GOES_ON
        while found.steps < steps:
            if enough is not None and found.loss <= enough:
                ended = _ENOUGH
                break
            if not search.step(found):
                ended = _DONE
                break
            if keep is not None:
                keep(found.dataset(model, asked, settings, _GOES_ON))
            if progress:
                progress(found.steps, steps)
        if progress:
            progress(steps, steps)
        return found.dataset(model, asked, settings, ended)


class _Search:
    """What the steps of one search share."""

    def __init__(
        self,
        model: Model,
        asked: Asked,
        pool: Indices,
        candidates: int,
        top_k: int,
        seed: int,
        batch_size: int | None,
    ) -> None:
        self.model, self.asked, self.pool = model, asked, pool
        self.candidates, self.top_k, self.seed = candidates, top_k, seed
        self.batch_size = batch_size
        self._streams = token_streams(model, pool)
        self._round: tuple[Tokens, Proposals] | None = None

    def begin(self, tokens: Tokens) -> Trajectory:
        if not self.asked.layout.reads_back(tokens):
            raise PromptError(
                "The suffix to begin with does not read back as its own tokens; choose another."
            )
        found = Trajectory()
        values = scores(self.model, self.asked, tokens, np.array([tokens]), self.batch_size)[0]
        if not np.isfinite(values).all():
            raise MetricError(
                f"The score of prompt {int(np.argmin(np.isfinite(values)))} is not finite to begin "
                "with, so nothing can be better; choose another goal or suffix."
            )
        found.begin(tokens, values)
        return found

    def step(self, found: Trajectory) -> bool:
        """One more step; False, with nothing done, where no swap is left to try."""
        tokens, (turn, attempt) = found.tokens[-1], found.round
        proposals = self._proposals(tokens, turn)
        begin = attempt * self.candidates
        if begin >= len(proposals):
            return False
        taken = proposals.take(begin, self.candidates)
        writable = np.array(self.asked.layout.read_back(taken.tolist()), dtype=np.bool_)
        tried, left = taken[writable], int((~writable).sum())
        values = scores(self.model, self.asked, tokens, tried, self.batch_size)
        loss = np.where(np.isfinite(values).all(1), -values.mean(1), np.inf)
        best = float(loss.min(initial=np.inf))
        noise = _NOISE.get(self.model.dtype, 1e-6) * max(1.0, abs(found.loss))
        for i in np.argsort(loss, kind="stable"):
            if not loss[i] < found.loss - noise:
                break
            new = tuple(int(t) for t in tried[i])
            # In the first prompt it reads back; others may cut it otherwise.
            if self.asked.layout.reads_back(new):
                found.move(new, values[i], len(tried), left, best)
                return True
            left += 1
        found.stay(len(tried), left, best if np.isfinite(best) else np.nan)
        return True

    def _proposals(self, tokens: Tokens, turn: int) -> Proposals:
        if self._round is None or self._round[0] != tokens:
            by_slot = slope(self.model, self.asked, tokens).by_slot
            proposals = Proposals(
                self.pool, self._streams, tokens, by_slot, self.top_k, (self.seed, turn)
            )
            self._round = tokens, proposals
        return self._round[1]


def check_differentiable(asked: Asked) -> None:
    """Raise a MetricError for a metric that no gradient leads to."""
    metric = asked.goal
    if not isinstance(metric, Metric):
        return
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    with torch.enable_grad():
        for term in metric.terms:
            if not term.score(logits, torch.zeros(1, 1, dtype=torch.long)).requires_grad:
                raise MetricError(
                    f"The metric '{metric.name}' has no gradient to search by; raise "
                    "'answer_logprob' or 'logprob_diff' instead."
                )
