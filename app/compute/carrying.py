"""One vector carried from one question into another, with a control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.compute.checks import Check, no_change
from experiments.explorer import Pair

if TYPE_CHECKING:
    from interp.model.model import Model


@dataclass(frozen=True)
class Carried:
    """What a question is answered before and after a vector was put in.

    Attributes:
        before, after, control: the rank of the answer's first token, from 0: as it is, with the
            vector of the example's own other question, and with that of another example's.
        check: whether the question's own vector, put back at its place, changes nothing.
        tokens: the likeliest next tokens with their probabilities, by "before" and "after".
    """

    before: int
    after: int
    control: int
    check: Check
    tokens: Mapping[str, tuple[tuple[str, float], ...]]


def carried(
    model: Model, source: Pair, target: Pair, layer: int, read: tuple[int, int], written: int
) -> Carried:
    """Read the stream into a block in one question, and write it into another one there.

    Args:
        source: the example asked in one way, and another example asked in the same way.
        target: the example asked in the other way; its clean prompt is written to.
        layer: the block.
        read: which token of the source's clean and of its corrupted prompt is read.
        written: which token of the target prompt is written.
    """
    from interp.vectors.grid import transplant

    found = transplant(
        model,
        [source.clean, source.corrupt, target.clean],
        [target.clean] * 3,
        source_at=[[read[0]], [read[1]], [written]],
        target_at=written,
        site="resid_pre",
        source_layers=[layer],
        target_layers=[layer],
        metric="rank",
        answers=[target.answer] * 3,
        next_tokens=6,
    ).squeeze(["source_layer", "target_layer"])
    ranks = [int(rank) for rank in np.asarray(found["patched"].values)]
    tokens = {
        name: tuple(
            zip(
                (str(token) for token in found[f"{prefix}top_token"].values[0]),
                (float(p) for p in found[f"{prefix}top_prob"].values[0]),
                strict=True,
            )
        )
        for name, prefix in (("before", "unpatched_"), ("after", ""))
    }
    own = [np.asarray(found[f"{p}top_prob"].values[2], dtype=float) for p in ("unpatched_", "")]
    check = no_change(model, float(np.abs(own[0] - own[1]).max()), float(own[0].max()))
    return Carried(int(found["unpatched"].values[0]), ranks[0], ranks[1], check, tokens)
