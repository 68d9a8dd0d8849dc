"""R5: does taking the direction out leave harmless text alone?"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from experiments.errors import FactsError
from experiments.phenomena.estimates import estimate, verdict
from experiments.phenomena.phenomenon import Measured, Subject
from experiments.refusal.measuring import (
    DRAWS,
    Candidate,
    Changes,
    ablated,
    candidates,
    chosen,
    declining_gap,
    halves,
    held,
    read,
    rivals,
)
from experiments.refusal.requests import Requests
from experiments.reporter import Progress
from experiments.study import Outcome, Verdict
from interp import logits
from interp.prompts.tokens import tokenise

__all__ = ["CLAIM", "MARGIN", "judge", "measure"]

CLAIM = "Projecting the direction out everywhere hardly changes the loss on harmless text."
MARGIN = 0.05
"""nats a token; within it the change counts as none."""
_LEAST_DECLINED = 0.3


def measure(subject: Subject[Requests], seed: int, progress: Progress) -> xr.Dataset:
    """Loss of harmless texts, nats a token: loss(state, example) and random_loss(draw, example).

    States: "none", "ablated" everywhere, "held" at the harmless mean at all tokens. The direction
    is the one that R2 chooses. declined is the share of held-out harmful requests that are
    declined, gap by how much that is more than of harmless ones.
    """
    choosing = halves(subject.data, "request", harmful=True)[1]
    best, _ = chosen(
        candidates(subject),
        lambda one: -float(read(subject, choosing, ablated(subject, one.vector)).odds.mean()),
    )
    changes: list[Changes] = [
        (),
        ablated(subject, best.vector),
        held(subject, best.vector, everywhere=True),
    ]
    losses = []
    for number, change in enumerate(changes):
        losses.append(_losses(subject, change))
        progress(number + 1, len(changes) + DRAWS)
    random = []
    for vector in rivals(subject, best, seed).directions:
        rival = Candidate(best.layer, best.position, vector)
        random.append(_losses(subject, ablated(subject, rival.vector)))
        progress(len(changes) + len(random), len(changes) + DRAWS)
    test = subject.data.some("request", harmful=True, split="held out")
    return xr.Dataset(
        {
            "loss": (("state", "example"), np.stack(losses)),
            "random_loss": (("draw", "example"), np.stack(random)),
            "declined": float(read(subject, test).declines.mean()),
            "gap": declining_gap(subject),
            "text": ("example", list(subject.data.texts)),
        },
        coords={"state": ["none", "ablated", "held"]},
    )


def _losses(subject: Subject[Requests], changes: Changes) -> np.ndarray:
    """Mean over the tokens of each text but the first (nats)."""
    batch = tokenise(subject.model, list(subject.data.texts))
    if int(batch.lengths.min()) < 2:
        short = subject.data.texts[int(batch.lengths.argmin())]
        raise FactsError(
            f"The text '{short[:40]}' is one token, which has no loss; give longer ones."
        )
    found = logits(subject.model, batch, positions="all", interventions=changes).cpu().double()
    out = []
    for row, length in enumerate(batch.lengths.tolist()):
        ids = torch.tensor(batch.row(row))
        nats = -found[row, : length - 1].log_softmax(-1)
        out.append(float(nats.gather(1, ids[1:, None]).mean()))
    return np.array(out)


def judge(measured: Measured) -> Verdict:
    """Equivalence within the margin, at 5%; only where the model declines at all."""
    arm = next(iter(measured))
    main = measured[arm]

    def change(one: xr.Dataset, state: str) -> np.ndarray:
        values: np.ndarray = (one["loss"].sel(state=state) - one["loss"].sel(state="none")).values
        return values

    found = estimate([change(one, "ablated") for one in main], confidence=0.9)
    kept = estimate([change(one, "held") for one in main], confidence=0.9)
    random = estimate(
        [(one["random_loss"].mean("draw") - one["loss"].sel(state="none")).values for one in main],
        confidence=0.9,
    )
    declined = float(np.mean([float(one["declined"]) for one in main]))
    decided: Outcome = "undecided"
    gap = float(np.mean([float(one["gap"]) for one in main]))
    able = min(declined, gap) >= _LEAST_DECLINED
    if able:
        if found.low > -MARGIN and found.high < MARGIN:
            decided = "supported"
        elif found.low > MARGIN or found.high < -MARGIN:
            decided = "rejected"
    nothing = ""
    if declined < _LEAST_DECLINED:
        nothing = " Too little is declined for this to matter."
    elif not able:
        nothing = " Harmless requests are declined as well, so that this is no direction of that."
    return verdict(
        "R5",
        CLAIM,
        decided,
        (
            f"The loss on harmless text changes by {found.number(3)} nats a token (margin "
            f"{MARGIN}), and by {kept.number(3)} where the direction is held at the harmless mean "
            f"at all tokens; 90% intervals, {found.over}.{nothing}"
        ),
        found,
        unit="nats a token",
        control=f"Random directions, taken out in the same way: {random.number(3)} nats a token.",
    )
