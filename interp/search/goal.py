"""What a search raises: a metric of the library, or a projection on a direction inside."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from interp.errors import DirectionError, MetricError, PromptError, SiteError
from interp.forward.trials import shown
from interp.metrics import Metric, Scorer, answer_logprob, get_metric, logprob_diff
from interp.model.model import Model
from interp.prompts.pairs import PromptPairs, Reading
from interp.prompts.tokens import pad
from interp.search.layout import Layout, Tokens, split
from interp.sites import Site, check, shape_at


@typed
@dataclass(frozen=True, eq=False)
class Projection:
    """A coordinate of an activation: x·u, with u the direction at length 1.

    Give the direction turned round to lower it.

    Attributes:
        direction: [d_model].
        layer: which block.
        site: a site as wide as the residual stream: "resid_pre", "resid_mid", "resid_post",
            "attn_out" or "mlp_out".
        position: which token of each prompt, counted from its end where negative; none before the
            last free one.
    """

    direction: Float[Tensor, " d_model"]
    layer: int
    site: str = "resid_post"
    position: int = -1

    name = "projection"
    unit = "units of the activation"

    def unit_vector(self, model: Model) -> Float[Tensor, " d_model"]:
        """u, in float32 on the model's device.

        Raises:
            SiteError: no such site, or one of another shape.
            DirectionError: a direction of another width, not finite, or 0.
        """
        site = check(model, Site(self.site, self.layer))
        if shape_at(model, self.site) != (model.d_model,):
            raise SiteError(
                f"The site '{self.site}' has no vector as wide as the residual stream; choose "
                "'resid_post', say."
            )
        shown(model, [site])
        direction = self.direction.detach().to(model.device, torch.float32)
        if tuple(direction.shape) != (model.d_model,):
            raise DirectionError(
                f"A direction at '{self.site}' of {model.name} has {model.d_model} numbers, not "
                f"the shape {tuple(direction.shape)}."
            )
        length = direction.norm()
        if not bool(torch.isfinite(length)) or not bool(length > 0):
            raise DirectionError("A direction must be finite, and not 0.")
        unit: Tensor = direction / length
        return unit

    def label(self) -> str:
        """What tells it from other goals."""
        numbers = self.direction.detach().double().cpu().numpy().tobytes()
        name = hashlib.sha256(numbers).hexdigest()[:16]
        return f"projection {name} at {self.site}.{self.layer}, position {self.position}"


Goal = Metric | Projection


@dataclass(frozen=True)
class Part:
    """One kind of sequence that is read.

    Attributes:
        ids: token ids with some free tokens in place [example, position], right-padded.
        reads: where it is read [example, read].
        scorer: the terms of a metric that are read there; None for a projection.
    """

    ids: Int[Tensor, "example position"]
    reads: Int[Tensor, "example read"]
    scorer: Scorer | None

    def value(
        self, hidden: Float[Tensor, "row read d_model"], examples: Tensor, unit: Tensor | None
    ) -> Float[Tensor, " row"]:
        """The score of each row, of what was read."""
        if self.scorer is None:
            assert unit is not None
            return hidden[:, 0].float() @ unit
        return self.scorer.value(hidden, examples)

    def gradient(
        self, hidden: Float[Tensor, "row read d_model"], examples: Tensor, unit: Tensor | None
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row read d_model"]]:
        """The same, and its gradient by what was read."""
        if self.scorer is not None:
            return self.scorer.gradient(hidden, examples)
        assert unit is not None
        value = self.value(hidden, examples, unit)
        return value, unit.to(hidden.dtype).expand_as(hidden).clone()


@dataclass(frozen=True)
class Asked:
    """Prompts with free tokens, and what is read of them.

    Attributes:
        layout: the prompts.
        goal: what is raised.
        parts: the sequences that it is read from; scores are added.
        unit: the direction of a projection.
        answers, foils: for labels; None where there are none.
    """

    layout: Layout
    goal: Goal
    parts: tuple[Part, ...]
    unit: Tensor | None
    answers: tuple[str, ...] | None
    foils: tuple[str, ...] | None

    @classmethod
    def of(
        cls,
        model: Model,
        prompts: Sequence[str],
        suffix: str,
        answers: Sequence[str] | None,
        foils: Sequence[str] | None,
        goal: Goal | str | None,
    ) -> tuple[Asked, Tokens]:
        """What is asked for, and the tokens of the suffix that stands there at first.

        Raises:
            PromptError: see `Layout.of` and `PromptPairs`.
            MetricError, SiteError, DirectionError: see `Projection` and `get_metric`.
        """
        split(prompts)
        if isinstance(goal, Projection):
            if answers is not None or foils is not None:
                raise MetricError("A projection reads no answers; leave them and foils out.")
            unit = goal.unit_vector(model)
            layout, tokens = Layout.of(model, prompts, suffix)
            rows = [layout.row(i, tokens) for i in range(len(layout))]
            reads = torch.tensor(
                [[_position(goal, layout, i, len(tokens))] for i in range(len(rows))]
            )
            part = Part(pad(rows, layout.whole(suffix)).ids, reads, None)
            return cls(layout, goal, (part,), unit, None, None), tokens
        metric = get_metric(goal or (answer_logprob if foils is None else logprob_diff))
        if answers is None:
            raise PromptError("There are no answers to read; give answers=…, or a Projection.")
        given = [column for column in (answers, foils) if column is not None]
        for column, what in zip(given, ("answers", "foils"), strict=False):
            if isinstance(column, str) or len(column) != len(prompts):
                raise PromptError(
                    f"There are {len(column)} {what} for {len(prompts)} prompts; give one for each."
                )
            if not all(isinstance(text, str) and text for text in column):
                raise PromptError(f"Each of the {what} must be text that is not empty.")
        layout, tokens = Layout.of(model, prompts, suffix, given)
        wholes = layout.whole(suffix)
        pairs = PromptPairs(model, wholes, wholes, answers, foils)
        parts = []
        for read in metric.reads:
            reading = pairs.reading("clean", read)
            scorer = Scorer.of(model, pairs, metric, read, reading)
            n_reads = max(targets.shape[1] for _, targets in scorer.terms)
            # What was read is handed over alone, in order.
            alone = Reading(
                reading.ids, torch.arange(n_reads).expand(len(pairs), -1), reading.targets
            )
            reads = reading.positions[:, :n_reads]
            parts.append(Part(reading.ids, reads, replace(scorer, reading=alone)))
        return cls(layout, metric, tuple(parts), None, pairs.answers, pairs.foils), tokens

    def with_tokens(self, part: Part, tokens: Sequence[int]) -> Int[Tensor, "example position"]:
        """The sequences of a part with other free tokens."""
        ids = part.ids.clone()
        new = torch.tensor(list(tokens))
        for example, head in enumerate(self.layout.head):
            ids[example, len(head) : len(head) + len(new)] = new
        return ids

    @property
    def label(self) -> str:
        """What tells its goal from others."""
        return self.goal.label() if isinstance(self.goal, Projection) else self.goal.name


def _position(goal: Projection, layout: Layout, example: int, k: int) -> int:
    length = len(layout.head[example]) + k + len(layout.tail[example])
    last_free = len(layout.head[example]) + k - 1
    at = goal.position + length if goal.position < 0 else goal.position
    if not 0 <= at < length:
        raise PromptError(f"Prompt {example} has {length} tokens and no position {goal.position}.")
    if at < last_free:
        raise PromptError(
            f"Position {goal.position} of prompt {example} stands before the last free token, "
            "which cannot move it; read it there or later."
        )
    return at
