"""H7: learning both directions makes two entries.

Two findings are needed, each clear of zero. The two directions of a fact have less of a circuit in
common than two wordings of one direction do (edges by EAP-IG). And its neurons dissociate doubly:
without those of one direction this direction loses more of what is the fact's own than the other
direction does, and the other way round. What is a fact's own is what exceeds unrelated facts, asked
in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.figure import Figure, counted, of_mean
from experiments.numbers import percent
from experiments.organisms.facts import DIRECTIONS
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.measurements.entries import LEAST_FACTS, entries
from experiments.reversal_curse.mechanism.entries import CAPTION, entry_bars
from experiments.study import Outcome, Verdict
from interp.stats import mean_interval, ratio_interval

CLAIM = "A fact told in both directions has an entry for each."
SHARED = 0.5
"""Of what one direction's own has, the share that the other must stay below to be another entry."""


def _both_ways(found: xr.Dataset) -> str:
    return counted([found.sizes["example"]], "fact") + " told both ways"


FIGURE = Figure(
    "entries",
    "Two entries",
    ("entries",),
    entry_bars,
    "Edges that circuits have in common, and what corrupting neurons takes away",
    CAPTION,
    shows="What the circuits and the neurons of a fact's two directions have in common.",
    n=_both_ways,
    interval=of_mean("facts"),
    control="unrelated facts asked in the same words, which are 0 in both panels; and two wordings "
    "of one direction",
)

Floats = npt.NDArray[np.float64]


def investigate(case: Case) -> Finding:
    """H7 of a case, of facts told both ways that it answers both ways."""
    known = case.measured.facts
    right = [known[f"{way}_correct"].to_numpy(dtype=bool) for way in DIRECTIONS]
    both = np.nonzero((case.splits == "both") & right[0] & right[1])[0]
    seed = case.context.seed_for("entries")
    found = case.context.dataset("entries", partial(entries, case.subject, both, seed))
    return Finding((judge(found),), (FIGURE,))


@dataclass(frozen=True)
class _Mean:
    """A mean, or ratio of sums, with its 95% interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> _Mean:
        return cls(float(values.mean()), *mean_interval(values))

    @classmethod
    def share(cls, part: Floats, whole: Floats) -> _Mean:
        return cls(float(part.sum() / whole.sum()), *ratio_interval(part, whole))

    @property
    def points(self) -> str:
        """As percentage points."""
        ends = (f"{100 * end:+.1f}" for end in (self.mean, self.low, self.high))
        mean, low, high = (end.replace("-", "−") for end in ends)
        return f"{mean} [{low}, {high}] points"


def judge(found: xr.Dataset) -> Verdict:
    """Decide H7.

    Args:
        found: what `entries` returned.
    """
    there = np.ones(found.sizes["example"], dtype=np.bool_)
    for values in found.data_vars.values():
        there &= np.isfinite(values.values).all(axis=tuple(range(1, values.ndim)))
    found = found.isel(example=there)
    n = found.sizes["example"]
    if n < LEAST_FACTS:
        return _few(n, str(found.attrs.get("refused", "")))
    excess = (found["own"] - found["unrelated"]).values
    same, across = excess[:, :2].mean(1), excess[:, 2]
    # Logits that a fact loses beyond what unrelated facts' neurons take [example, asked, neurons].
    own = found["lost"].sel(whose="own") - found["lost"].sel(whose="another")
    lost = own.transpose("example", "asked", "neurons").values
    effect = found["effect"].values
    gaps = [_Mean.of(effect[:, asked]) for asked in (0, 1)]
    if not all(gap.low > 0 for gap in gaps):
        return _few(n, "clean and corrupted prompts do not differ clearly", enough=True)
    shares = [[_Mean.share(lost[:, a, b], effect[:, a]) for b in (0, 1)] for a in (0, 1)]
    # Each in units of what there is to lose, so that the two directions can be compared.
    units = lost / effect.mean(0)[None, :, None]
    kept = [_Mean.of(units[:, b, b] - units[:, 1 - b, b]) for b in (0, 1)]
    apart = [_Mean.of(SHARED * units[:, b, b] - units[:, 1 - b, b]) for b in (0, 1)]
    ceiling, less = _Mean.of(same), _Mean.of(same - across)
    edges_apart = _Mean.of(SHARED * same - across)
    seen = ceiling.low > 0 and all(shares[b][b].low > 0 for b in (0, 1))
    outcome: Outcome = "undecided"
    if (
        seen
        and less.low > 0
        and edges_apart.low > 0
        and all(each.low > 0 for each in (*kept, *apart))
    ):
        outcome = "supported"
    elif seen and (edges_apart.high < 0 or all(each.high < 0 for each in apart)):
        outcome = "rejected"
    least = min(kept, key=lambda each: each.low)
    verb = {"supported": "Two entries", "rejected": "One entry, at least in part"}.get(
        outcome, "It cannot be told"
    )
    return Verdict(
        id="H7",
        claim=CLAIM,
        outcome=outcome,
        statement=(
            f"{verb}: the circuits of a fact's two directions share {_Mean.of(across).points} more "
            f"edges than those of unrelated facts, {less.points} less than two wordings of one "
            "direction do. Without its forward neurons a fact loses "
            f"{_of(shares[0][0])} of the forward effect beyond what unrelated facts' neurons take, "
            f"and {_of(shares[1][0])} of the reverse one; without its reverse neurons "
            f"{_of(shares[1][1])} of the reverse effect, and {_of(shares[0][1])} of the forward "
            "one."
        ),
        estimate=least.mean,
        low=least.low,
        high=least.high,
        unit="share of the effect, the smaller of two dissociations",
        n=n,
        control=(
            f"Two wordings of one direction, with other partners, share {ceiling.points} more "
            "edges with each other than with unrelated facts: so much of a fact can be seen in "
            "edges at all. Neurons were chosen in one wording and corrupted in another."
            + ("" if seen else " That is not clear of zero, here or in neurons.")
        ),
    )


def _of(share: _Mean) -> str:
    return f"{percent(share.mean)} [{percent(share.low)}, {percent(share.high)}]"


def _few(n: int, reason: str, *, enough: bool = False) -> Verdict:
    why = f" ({reason})" if reason else ""
    return Verdict.undecided(
        id="H7",
        claim=CLAIM,
        statement=(
            f"There is nothing to divide{why}."
            if enough
            else f"{n} facts told both ways are answered both ways, and {LEAST_FACTS} are needed"
            f"{why}."
        ),
        unit="share of the effect, the smaller of two dissociations",
        n=n,
    )
