"""H3: a linear probe does not find the answer at the name that is asked about.

What a trained suppression hides at the end of the question can still be there. Nothing is said of
other tokens or of readers that are not linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from scipy import stats as scipy_stats

from experiments.figure import Figure, counted
from experiments.reversal_curse.case import Case, Finding
from experiments.study import Outcome, Verdict
from interp.figures.drawing.dots import nothing_to_draw
from probes.figures import retrieval_lines

CLAIM = "Asked the other way round, a linear probe finds no answer at the name that is asked about."
MARGIN = 0.15
"""Above or below 1/2, the share of other answers that the right one beats by chance."""
LEAST_QUESTIONS = 20

ASKED = {
    "retrieval_forward_asked_forward": "told forward, asked forward",
    "retrieval_forward_asked_reverse": "told forward, asked in reverse",
    "retrieval_reverse_asked_reverse": "told in reverse, asked in reverse",
    "retrieval_reverse_asked_forward": "told in reverse, asked forward",
}
"""Results by their names in a run, with what to call them."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Retrieved:
    """How often the right answer is preferred to another [site], pooled over probes.

    The error is what shuffled answers vary by: examples of a fold are judged by one map, and vary
    together. `p` is the smallest corrected p value of each site.
    """

    sites: tuple[str, ...]
    preferred: Floats
    error: Floats
    df: int
    p: Floats
    questions: int

    def interval(self, confidence: float) -> tuple[Floats, Floats]:
        half = float(scipy_stats.t.ppf(0.5 + confidence / 2, self.df)) * self.error
        return np.maximum(0.0, self.preferred - half), np.minimum(1.0, self.preferred + half)

    def shown(self, site: int, confidence: float) -> str:
        low, high = self.interval(confidence)
        return f"{self.preferred[site]:.2f} [{low[site]:.2f}, {high[site]:.2f}]"


def pooled(results: Sequence[xr.Dataset]) -> Retrieved | None:
    """Several results of `retrieve` as one, by their numbers of questions; None where none is."""
    usable = [each for each in results if "preferred" in each and np.isfinite(each["null"]).all()]
    usable = [each for each in usable if np.isfinite(each["preferred"]).all()]
    if not usable:
        return None
    counts = np.array([float(each.attrs["questions"]) for each in usable])
    weights = (counts / counts.sum())[:, None]
    preferred = np.stack([each["preferred"].values for each in usable])
    spread = np.stack([each["null"].values.std(axis=1, ddof=1) for each in usable])
    # Never less than independent examples would vary.
    spread = np.maximum(spread, 1 / np.sqrt(12 * counts)[:, None])
    return Retrieved(
        tuple(str(site) for site in usable[0]["site"].values),
        (weights * preferred).sum(0),
        np.sqrt((weights**2 * spread**2).sum(0)),
        min(each.sizes["null"] for each in usable) - 1,
        np.stack([each["p_corrected"].values for each in usable]).min(0),
        int(counts.sum()),
    )


def investigate(case: Case) -> Finding:
    """H3 of a case, from its probes."""
    probes = case.measured.probes
    verdict = judge(
        [probes["forward", "reverse"], probes["reverse", "forward"]],
        [probes["forward", "forward"], probes["reverse", "reverse"]],
    )
    return Finding((verdict,), (FIGURE,))


def judge(untold: Sequence[xr.Dataset], told: Sequence[xr.Dataset]) -> Verdict:
    """Decide H3.

    Args:
        untold: what `probe_name` found in the direction that was never told, of each side.
        told: the same of the same facts in the direction that was, the control.
    """
    reasons = [str(each.attrs["refused"]) for each in (*untold, *told) if "refused" in each.attrs]
    found, control = pooled(untold), pooled(told)
    if found is None or control is None or found.questions < LEAST_QUESTIONS:
        return _undecided(0 if found is None else found.questions, reasons)
    corrected = 1 - 0.05 / len(found.sites)
    low, _ = found.interval(corrected)
    best = int(np.argmax(low))
    inside_low, inside_high = found.interval(0.90)
    farthest = int(np.argmax(np.abs(found.preferred - 0.5)))
    known_low, _ = control.interval(1 - 0.05 / len(control.sites))
    known = int(np.argmax(known_low))
    outcome: Outcome
    if low[best] > 0.5 + MARGIN and found.p[best] < 0.05:
        outcome, farthest = "rejected", best
        text = "a linear probe prefers the right answer to another one with a share of "
    elif known_low[known] <= 0.5 + MARGIN:
        outcome = "undecided"
        text = "the probe does not find either what the model was told; untold answers win "
    elif (inside_low > 0.5 - MARGIN).all() and (inside_high < 0.5 + MARGIN).all():
        outcome = "supported"
        text = "a linear probe tells the right answer from others hardly or not; it wins "
    else:
        outcome = "undecided"
        text = f"more than {MARGIN} off an even share cannot be excluded; the right answer wins "
    level = corrected if outcome == "rejected" else 0.90
    ends = tuple(float(end[farthest]) for end in found.interval(level))
    return Verdict(
        id="H3",
        claim=CLAIM,
        outcome=outcome,
        statement=(
            f"At the last token of the name that is asked about, {text}"
            f"{found.shown(farthest, level)} of the comparisons {_where(found.sites[farthest])}, "
            f"where that is farthest from an even share ({found.questions} questions, "
            f"{len(found.sites)} layers)."
        ),
        estimate=float(found.preferred[farthest]),
        low=ends[0],
        high=ends[1],
        unit="share of comparisons won",
        n=found.questions,
        control=(
            "The same probe on the same facts asked the way they were told wins "
            f"{control.shown(known, 0.95)} {_where(control.sites[known])}; answers given to the "
            "wrong questions show by how much chance varies."
        ),
        confidence=level,
    )


def lines(*results: xr.Dataset) -> go.Figure:
    """How often the right answer is preferred, of both sides asked both ways.

    Args:
        results: of `probe_name`, in the order of `ASKED`.
    """
    found = {
        name: one for name, one in zip(ASKED.values(), results, strict=True) if "preferred" in one
    }
    if not found:
        reasons = [str(one.attrs.get("refused", "")) for one in results]
        return nothing_to_draw(f"no probe was fitted: {next(filter(None, reasons), 'no results')}")
    fig = retrieval_lines(found)
    blocks = [_block(str(site)) for site in next(iter(found.values()))["site"].values]
    fig.update_xaxes(ticktext=blocks, title_text="residual stream after block")
    fig.update_yaxes(title_text="comparisons that the right answer wins")
    return fig


def _where(site: str) -> str:
    block = _block(site)
    return f"after block {block}" if block.isdigit() else f"at {site}"


def _block(site: str) -> str:
    """ "0" of "resid_post.0@name"."""
    return site.removeprefix("resid_post.").split("@")[0]


def _undecided(n: int, reasons: Sequence[str]) -> Verdict:
    why = f": {reasons[0]}" if reasons else ""
    return Verdict.undecided(
        id="H3",
        claim=CLAIM,
        statement=f"No probe could be fitted and tested ({LEAST_QUESTIONS} questions whose answers "
        f"the model knows as it was told them are needed){why}.",
        unit="share of comparisons won",
        n=n,
        confidence=0.90,
    )


def _probed(*results: xr.Dataset) -> str:
    counts = [int(one.attrs["questions"]) for one in results if "preferred" in one]
    return counted(counts, "question") + " a line"


FIGURE = Figure(
    name="retrieval",
    title="Answers read",
    results=tuple(ASKED),
    draw=lines,
    alt="How often a linear map from the asked name's last token prefers the right answer to "
    "another one, block by block, for facts asked as they were told and the other way round",
    caption=(
        "A linear map from the stream at the asked name’s last token to the answer’s unembedding, "
        "fitted on some questions and tested on others. A hollow point is not clear of shuffled "
        "answers."
    ),
    shows="How often a linear probe at the asked name prefers the right answer to another one.",
    n=_probed,
    interval="95% of the share over questions (score), no narrower than shuffled answers vary",
    control="one half, chance; answers given to the wrong questions, which p and intervals come "
    "from; and the same facts asked as they were told",
)
