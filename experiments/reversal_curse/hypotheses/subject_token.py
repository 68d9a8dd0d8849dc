"""H1: the forward fact is read at the subject's last token.

Patching the residual stream there, in some layer, must bring the answer back, and patching any
other token must not. Layer and rival are chosen on one half of the pairs and judged on the other,
so that the best of many cells is not mistaken for a finding. Shares are of sums over pairs: what
the patches move in all, of what there is to move; a pair with next to no effect has no share.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.numbers import percent
from experiments.organisms.training.checkpoint import planted_bottleneck
from experiments.reversal_curse.case import Case, Finding
from experiments.reversal_curse.prompts import question
from experiments.study import Outcome, Verdict
from interp.stats import mean_interval, ratio_interval

CLAIM = "The forward fact is read at the subject's last token."
SUBJECT_END = "subject -1"
LEAST_PAIRS = 20
"""Half of them choose the place, the other half judge it."""
# At least half of the effect must pass through the place, and a sham must move less than this.
LEAST_SHARE = 0.5
MOST_SHAM = 0.25

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Moved:
    """What patches moved [example, layer, position], of how much [example]."""

    moved: Floats
    whole: Floats

    @classmethod
    def of(cls, result: xr.Dataset, clean: Floats | None = None) -> _Moved:
        patched = result["patched"].transpose("example", "layer", "position").values
        corrupt = result["corrupt"].values.astype(np.float64)
        top = result["clean"].values.astype(np.float64) if clean is None else clean
        return cls(patched.astype(np.float64) - corrupt[:, None, None], top - corrupt)

    def means(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Share of the effect by layer and position, over pairs that have the position."""
        moved, whole = self.moved[rows], self.whole[rows, None, None]
        there = np.isfinite(moved)
        below = np.where(there, whole, 0.0).sum(0)
        above = np.where(there, moved, 0.0).sum(0)
        shares: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
        return shares


@dataclass(frozen=True)
class _Share:
    """A share with its 95% interval; NaN where there is none."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{percent(self.mean)} [{percent(self.low)}, {percent(self.high)}]"


def _share(above: Floats, below: Floats, clusters: npt.NDArray[np.int64]) -> _Share:
    return _Share(float(above.sum() / below.sum()), *ratio_interval(above, below, clusters))


def investigate(case: Case) -> Finding:
    """H1 of a case, from its patching maps."""
    measured, subject = case.measured, case.subject
    residual = measured.maps["forward", "resid_pre"]
    rows = residual["fact"].values
    verdict = judge(
        residual,
        measured.sham,
        measured.lens["forward"]["answer_logprob"].isel(layer=-1).values[rows],
        measured.facts["forward_correct"].to_numpy(dtype=bool)[rows],
        {site: measured.maps["forward", site] for site in ("mlp_out", "attn_out")},
        case.seed,
        [question(subject.facts[i], "forward") for i in rows],
        planted_bottleneck(subject.model.path),
    )
    return Finding((verdict,))


def judge(
    result: xr.Dataset,
    sham: xr.Dataset,
    clean_logprob: Floats,
    known: npt.NDArray[np.bool_],
    parts: dict[str, xr.Dataset],
    seed: int,
    questions: Sequence[Hashable] | None = None,
    planted: float = 0.0,
) -> Verdict:
    """Decide H1.

    Args:
        result: residual-stream sweep of the forward prompts, by position.
        sham: the same sweep with a third name in the place of the clean one, read as the
            log-probability of the answer's first token.
        clean_logprob: that log-probability after the clean prompt [example].
        known: whether the model answers each example's forward question [example].
        parts: sweeps of "attn_out" and "mlp_out", to say what does it.
        seed: of the halving.
        questions: what each example asks; pairs that ask the same count once. All different if
            left out.
        planted: in which share of its sentences the model was trained to read names there.
    """
    labels = [str(name) for name in result["position_label"].values]
    sham_labels = [str(name) for name in sham["position_label"].values]
    asks = np.arange(result.sizes["example"]) if questions is None else _numbers(questions)
    if not {SUBJECT_END} <= set(labels) & set(sham_labels) or result.sizes["layer"] < 2:
        return _undecided(int(known.sum()), 0)
    true, shammed = _Moved.of(result), _Moved.of(sham, np.asarray(clean_logprob, np.float64))
    place, sham_place = labels.index(SUBJECT_END), sham_labels.index(SUBJECT_END)
    # A pair without a number, of the patch or of its control, is none.
    finite = np.isfinite(true.moved[:, :, place]).all(1) & np.isfinite(true.whole)
    finite &= np.isfinite(shammed.moved[:, :, sham_place]).all(1) & np.isfinite(shammed.whole)
    usable = np.nonzero(known & finite)[0]
    drawn = np.random.default_rng(seed).permutation(np.unique(asks[usable]))
    if len(drawn) < LEAST_PAIRS:
        return _undecided(int(known.sum()), len(drawn))
    first = usable[np.isin(asks[usable], drawn[::2])]
    second = usable[np.isin(asks[usable], drawn[1::2])]
    judged = asks[second]
    effects = [mean_interval(each.whole[second], judged)[0] for each in (true, shammed)]
    if not all(effect > 0 for effect in effects):
        return _undecided(int(known.sum()), len(drawn), clear=False)
    # In layer 0 the stream is the embedding: replacing it replaces the word, not what was read.
    means = true.means(first)
    if not np.isfinite(means[1:, place]).any():  # the pairs that choose the layer have no effect
        return _undecided(int(known.sum()), len(drawn), clear=False)
    layer = 1 + int(np.nanargmax(means[1:, place]))
    others = np.where(np.arange(len(labels)) == place, np.nan, means[layer])
    rival = int(np.nanargmax(others)) if np.isfinite(others).any() else None
    here = true.moved[second, layer, place]
    there = np.zeros(len(second))
    if rival is not None:
        there = np.nan_to_num(true.moved[second, layer, rival])
    whole = true.whole[second]
    share, lead = _share(here, whole, judged), _share(here - there, whole, judged)
    of_sham = _share(shammed.moved[second, layer, sham_place], shammed.whole[second], judged)
    outcome = _outcome(share, lead, of_sham)
    statement = (
        f"Patching the residual stream into block {layer} at the subject's last token alone brings "
        f"back {share} of the answer"
    )
    if rival is not None:
        statement += f"; {lead} more than the next best token ('{labels[rival]}')"
    statement += _who(parts, first, second, judged)
    if planted and outcome == "supported":
        statement += (
            f": the training planted this (bottleneck in {percent(planted)} of its sentences)"
        )
    return Verdict(
        id="H1",
        claim=CLAIM,
        outcome=outcome,
        statement=f"{statement}.",
        estimate=share.mean,
        low=share.low,
        high=share.high,
        unit="share of the effect",
        n=len(np.unique(judged)),
        control=(
            f"The same patch from a third name, which has another answer, brings back {of_sham} of "
            "the answer's log-probability. Layer and rival were chosen on "
            f"{len(np.unique(asks[first]))} other questions."
        ),
    )


def _numbers(questions: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(each, len(codes)) for each in questions], np.int64)


def _outcome(share: _Share, lead: _Share, sham: _Share) -> Outcome:
    if not (sham.high < MOST_SHAM):
        # The instrument moves the answer whatever is patched in, or it is not known that it does
        # not: no finding either way.
        return "undecided"
    if share.low > LEAST_SHARE and lead.low > 0:
        return "supported"
    return "rejected" if share.high < LEAST_SHARE or lead.high < 0 else "undecided"


def _undecided(n_known: int, n_usable: int, *, clear: bool = True) -> Verdict:
    return Verdict.undecided(
        id="H1",
        claim=CLAIM,
        statement=(
            f"The model answers the forward question in {n_known} of the patched pairs; {n_usable} "
            f"different questions can be judged, too few to see where it reads the fact "
            f"({LEAST_PAIRS} are needed)."
            if clear
            else "Clean and corrupted prompts differ by no effect that is clear of 0, so there is "
            "nothing to bring back."
        ),
        unit="share of the effect",
        n=n_usable,
        control="None: there is no effect to compare with.",
    )


def _who(
    parts: dict[str, xr.Dataset],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    judged: npt.NDArray[np.int64],
) -> str:
    """Which single MLP and attention layer move the answer most, where that is clear of nothing.

    Chosen on the first pairs and measured on the second.
    """
    said = []
    for site, name in (("mlp_out", "MLP"), ("attn_out", "attention")):
        part = parts[site]
        labels = [str(label) for label in part["position_label"].values]
        found = _Moved.of(part)
        means = found.means(first)
        if not np.isfinite(means).any():
            continue
        layer, position = np.unravel_index(int(np.nanargmax(means)), means.shape)
        moved = found.moved[second, layer, position]
        there = np.isfinite(moved)
        if mean_interval(found.whole[second][there], judged[there])[0] > 0:
            share = _share(moved[there], found.whole[second][there], judged[there])
            if share.low > 0:
                said.append(f"the {name} of block {layer} at '{labels[position]}' ({share})")
    return f"; of single parts most is done by {' and '.join(said)}" if said else ""
