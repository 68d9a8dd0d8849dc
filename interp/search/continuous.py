"""Vectors in the place of free tokens: what a discrete search could reach at best, or more.

The streams of the free tokens are moved before the first block, in every prompt by the same
vectors. A bound on their length alone bounds little: the norm in front of the first block scales
whatever it is given, so that a tenth of a token's length is as loud as the whole. So what is
bounded is how far a token is moved *as the first block reads it*, behind that norm, and the move
itself too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import ArgumentError, MetricError, ModelError
from interp.forward.packing import find
from interp.model.memory import fitting_threads
from interp.model.model import Model
from interp.progress import Progress
from interp.search.drawing import drawn
from interp.search.goal import Asked, Goal
from interp.search.greedy import check_differentiable
from interp.search.layout import check_tokens
from interp.search.pool import Pool, token_pool
from interp.search.rows import moved_scores, slope
from interp.search.streams import placed_streams, token_streams
from interp.search.trajectory import example_coordinates, goal_attributes

__all__ = ["continuous_suffix"]

Scores = npt.NDArray[np.float64]
_HALVINGS = 30


@typed
def continuous_suffix(
    model: Model,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    foils: Sequence[str] | None = None,
    *,
    goal: Goal | str | None = None,
    suffix: int | str = 8,
    bound: float = 0.5,
    steps: int = 50,
    n_random: int = 8,
    pool: Pool | None = None,
    seed: Seed = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Move the vectors of free tokens so that a score rises, within a bound behind the norm.

    Projected gradient ascent: each free token is moved along its gradient by a share of the bound
    that shrinks, then back to where the bound holds. The best of all steps is kept.

    Args:
        model: the model.
        prompts: as for `greedy_coordinate_search`.
        answers: likewise.
        foils: likewise.
        goal: likewise.
        suffix: the tokens that are moved, as text, or how many, drawn from the pool.
        bound: by how much a token may differ from itself, as a share of its length, as the first
            block reads it (behind its norm) and before that; above 0.
        steps: of the ascent.
        n_random: random moves that reach the same bound, as a control.
        pool: from which tokens are drawn, and among which the nearest other one is looked for.
        seed: of the tokens drawn and of random moves.
        batch_size: rows in one pass; from a memory estimate if left out.
        progress: called with (steps done, steps in all).

    Returns:
        loss(step) with step 0 the unmoved tokens; score(example) of the best, unmoved_score(
        example) and random_score(draw, example); vectors(slot, d_model), the move; reached(slot)
        and reached_raw(slot), how far it goes behind the norm and before, as shares of the token's
        length, at the place where that is most; nearest_token(slot), the share at which the nearest
        other token of the pool lies behind the norm, both at the beginning of a text: moves that
        stay far below it are no token's. token(slot) is what was moved.

    Raises:
        ArgumentError: a bound that is not positive, no steps.
        ModelError: the first block has no norm in front.
        PromptError: see `greedy_coordinate_search`.
        MetricError: no such metric, one without a gradient, or a score that is not finite.
    """
    if not 0 < bound < float("inf"):
        raise ArgumentError(f"A bound is a positive share of a token's length, not {bound}.")
    if steps < 1 or n_random < 0:
        raise ArgumentError("Give at least one step, and no fewer than 0 random moves.")
    with fitting_threads(model):
        allowed = token_pool(model, pool)
        text = drawn(model, prompts, allowed, suffix, seed) if isinstance(suffix, int) else suffix
        asked, tokens = Asked.of(model, prompts, text, answers, foils, goal)
        check_tokens(model, tokens, "free tokens")
        check_differentiable(asked)
        offsets = sorted({len(head) for head in asked.layout.head})
        at = torch.stack([placed_streams(model, o, [tokens])[0] for o in offsets]).float()
        ball = _Ball(model, at, bound)
        move = torch.zeros_like(at[0])
        best, best_loss = move, float("inf")
        losses: list[float] = []
        unmoved: Scores | None = None
        kept: Scores | None = None
        for step in range(steps + 1):
            here = slope(model, asked, tokens, move)
            if not np.isfinite(here.scores).all():
                raise MetricError(
                    "A score is not finite with these vectors; choose another goal or suffix."
                )
            losses.append(float(-here.scores.mean()))
            if unmoved is None:
                unmoved = here.scores
            if losses[-1] < best_loss:
                best, best_loss, kept = move, losses[-1], here.scores
            if step < steps:
                share = bound * (1 - step / steps)
                move = ball.inside(move + share * ball.length * _unit(here.by_slot))
            if progress:
                progress(min(step + 1, steps), steps)
        generator = torch.Generator().manual_seed(seed)
        shape = (n_random, *best.shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float32).to(model.device)
        random = [ball.inside(ball.far * ball.length * _unit(one)) for one in noise]
        drawn_scores = (
            moved_scores(model, asked, tokens, torch.stack(random), batch_size)
            if random
            else np.zeros((0, len(asked.layout)))
        )
        behind, before = ball.shares(best)
        nearest = ball.nearest(token_streams(model, allowed).float(), allowed, tokens)
    assert kept is not None
    assert unmoved is not None
    data: dict[str, Any] = {
        "loss": ("step", losses),
        "score": ("example", kept),
        "unmoved_score": ("example", unmoved),
        "random_score": (("draw", "example"), drawn_scores),
        "vectors": (("slot", "d_model"), best.cpu().numpy()),
        "reached": ("slot", behind.cpu().numpy()),
        "reached_raw": ("slot", before.cpu().numpy()),
        "nearest_token": ("slot", nearest.cpu().numpy()),
    }
    return xr.Dataset(
        data,
        coords={
            "step": np.arange(steps + 1),
            "token": ("slot", model.token_strings(list(tokens))),
            **example_coordinates(asked),
        },
        attrs={
            "instrument": "continuous suffix",
            **goal_attributes(asked),
            "bound": bound,
            "seed": seed,
            "initial": text,
            **model.identity,
            "statement": _statement(losses, drawn_scores, behind, bound),
        },
    )


class _Ball:
    """Moves of free tokens that stay near these as the first block reads them."""

    # A move so much longer than a token leaves nothing of it.
    far = 100.0

    def __init__(self, model: Model, at: Float[Tensor, "place slot d_model"], bound: float) -> None:
        norm = find(model.bridge.blocks[0], "ln1")
        if norm is None:
            raise ModelError(
                f"The first block of {model.name} reads the stream without a norm, behind which "
                "moves could be bounded; choose another architecture."
            )
        self.model, self.norm, self.at, self.bound = model, norm, at, bound
        self.length = at.norm(dim=-1).mean(0)[:, None]
        self._read = self.behind(at)

    def behind(self, streams: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """As the first block reads them."""
        with self.model.lock, torch.no_grad():
            flat = streams.reshape(1, -1, streams.shape[-1]).to(self.model.dtype)
            found: Tensor = self.norm(flat).float().reshape(streams.shape)
        return found

    def shares(
        self, move: Float[Tensor, "slot d_model"]
    ) -> tuple[Float[Tensor, " slot"], Float[Tensor, " slot"]]:
        """How far each token goes behind the norm and before, where that is most."""
        moved = self.at + move
        behind = (self.behind(moved) - self._read).norm(dim=-1) / self._read.norm(dim=-1)
        before = move.norm(dim=-1) / self.at.norm(dim=-1)
        return behind.amax(0), before.amax(0)

    def inside(self, move: Float[Tensor, "slot d_model"]) -> Float[Tensor, "slot d_model"]:
        """The move, as much shorter as the bound asks for."""

        def holds(share: Tensor) -> Tensor:
            behind, before = self.shares(share[:, None] * move)
            return (behind <= self.bound) & (before <= self.bound)

        low = torch.zeros(len(move), device=move.device)
        high = torch.ones_like(low)
        low = torch.where(holds(high), high, low)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            good = holds(middle)
            low, high = torch.where(good, middle, low), torch.where(good, high, middle)
        return low[:, None] * move

    def nearest(
        self, streams: Float[Tensor, "token d_model"], pool: Any, tokens: Sequence[int]
    ) -> Float[Tensor, " slot"]:
        """How far the nearest other token lies behind the norm, at the beginning of a text."""
        mine = token_streams(self.model, np.array(tokens)).float()
        others, own = self.behind(streams), self.behind(mine)
        away = torch.cdist(own, others) / own.norm(dim=-1)[:, None]
        same = torch.tensor(tokens)[:, None] == torch.from_numpy(pool)[None]
        found: Tensor = away.masked_fill(same.to(away.device), torch.inf).amin(1)
        return found


def _unit(vectors: Float[Tensor, "slot d_model"]) -> Float[Tensor, "slot d_model"]:
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, vectors / length.clamp(min=1e-30), torch.zeros_like(vectors))


def _statement(losses: list[float], random: Scores, behind: Tensor, bound: float) -> str:
    least, most = min(losses), float(behind.max())
    others = ""
    if len(random):
        mean = -random.mean(1)
        others = (
            f"; of {len(random)} random moves within the same bound the best reaches "
            f"{mean.min():.3f}"
        )
    return (
        f"Moved by at most {most:.2f} of a token's length as the first block reads it (bound "
        f"{bound:g}), the mean loss goes from {losses[0]:.3f} to {least:.3f}{others}."
    )
