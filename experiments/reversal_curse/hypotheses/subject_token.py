"""H1: the forward fact is read at the subject's last token.

Patching the residual stream there, in some layer, must bring the answer back, and patching any
other token must not. Layer and rival are chosen on one half of the pairs and judged on the other,
so that the best of many cells is not mistaken for a finding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.study import Outcome, Verdict
from interp.patching import normalised
from interp.stats import bootstrap

CLAIM = "The forward fact is read at the subject's last token."
SUBJECT_END = "subject -1"
LEAST_PAIRS = 10
# At least half of the effect must pass through the place, and a sham must move less than this.
LEAST_SHARE = 0.5
MOST_SHAM = 0.25


@dataclass(frozen=True)
class _Shares:
    """Shares of the effect [example, layer, position], and the same for sham patches."""

    true: npt.NDArray[np.float64]
    sham: npt.NDArray[np.float64]


def judge(
    result: xr.Dataset,
    sham: xr.Dataset,
    clean_logprob: npt.NDArray[np.float64],
    known: npt.NDArray[np.bool_],
    parts: dict[str, xr.Dataset],
    seed: int,
) -> Verdict:
    """Decide H1.

    Args:
        result: residual-stream sweep of the forward prompts, by position.
        sham: the same sweep with a third name in the place of the clean one, read as the
            log-probability of the answer's first token.
        clean_logprob: that log-probability after the clean prompt [example].
        known: whether the model answers each example's forward question [example].
        parts: sweeps of "attn_out" and "mlp_out", to say what does it.
        seed: of the halving and the bootstrap.
    """
    labels = [str(name) for name in result["position_label"].values]
    usable = known & np.isfinite(_values(normalised(result))[:, 0]).any(axis=1)
    if usable.sum() < LEAST_PAIRS or SUBJECT_END not in labels or result.sizes["layer"] < 2:
        return _undecided(int(known.sum()), int(usable.sum()))
    order = np.random.default_rng(seed).permutation(np.nonzero(usable)[0])
    first, second = np.sort(order[::2]), np.sort(order[1::2])
    shares = _Shares(_values(normalised(result)), _sham_shares(sham, clean_logprob))
    place = labels.index(SUBJECT_END)
    # In layer 0 the stream is the embedding: replacing it replaces the word, not what was read.
    means = np.nanmean(shares.true[first], axis=0)
    layer = 1 + int(np.nanargmax(means[1:, place]))
    rival = int(np.nanargmax(np.where(np.arange(len(labels)) == place, -np.inf, means[layer])))
    here = shares.true[second, layer, place]
    lead = here - np.nan_to_num(shares.true[second, layer, rival])
    of_sham = shares.sham[second, layer, place]
    share, lead_interval = bootstrap(here, seed=seed), bootstrap(lead, seed=seed)
    sham_interval = bootstrap(of_sham, seed=seed)
    outcome = _outcome(share, lead_interval, sham_interval)
    statement = (
        f"Patching the residual stream into block {layer} at the subject's last token alone brings "
        f"back {_percent(here)} [{_percent(share[0])}, {_percent(share[1])}] of the answer; the "
        f"next best token ('{labels[rival]}') brings back "
        f"{_percent(shares.true[second, layer, rival])}"
    )
    statement += f"; {_who(parts, second, labels)}."
    return Verdict(
        id="H1",
        claim=CLAIM,
        outcome=outcome,
        statement=statement,
        estimate=float(np.mean(here)),
        low=share[0],
        high=share[1],
        unit="share of the effect",
        n=len(second),
        control=(
            f"The same patch from a third name, which has another answer, brings back "
            f"{_percent(of_sham)} [{_percent(sham_interval[0])}, {_percent(sham_interval[1])}] of "
            f"the answer's log-probability. Layer and rival were chosen on {len(first)} other "
            "pairs."
        ),
    )


def _outcome(
    share: tuple[float, float], lead: tuple[float, float], sham: tuple[float, float]
) -> Outcome:
    if sham[1] >= MOST_SHAM:
        # The instrument moves the answer whatever is patched in: no finding either way.
        return "undecided"
    if share[0] > LEAST_SHARE and lead[0] > 0:
        return "supported"
    return "rejected" if share[1] < LEAST_SHARE or lead[1] < 0 else "undecided"


def _undecided(n_known: int, n_usable: int) -> Verdict:
    return Verdict(
        id="H1",
        claim=CLAIM,
        outcome="undecided",
        statement=(
            f"The model answers the forward question in {n_known} of the patched pairs, too few to "
            f"see where it reads the fact ({LEAST_PAIRS} with a clear effect are needed)."
        ),
        estimate=None,
        low=None,
        high=None,
        unit="share of the effect",
        n=n_usable,
        control="None: there is no effect to compare with.",
    )


def _values(array: xr.DataArray) -> npt.NDArray[np.float64]:
    return np.asarray(array.transpose("example", "layer", "position").values, dtype=np.float64)


def _sham_shares(
    sham: xr.Dataset, clean_logprob: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    corrupt = sham["corrupt"].values[:, None, None]
    moved = sham["patched"].values - corrupt
    return np.asarray(moved / (clean_logprob[:, None, None] - corrupt), dtype=np.float64)


def _who(parts: dict[str, xr.Dataset], rows: npt.NDArray[np.int64], labels: list[str]) -> str:
    """Which single MLP and which attention layer move the answer most, and at which token."""
    said = []
    for site, name in (("mlp_out", "MLP"), ("attn_out", "attention")):
        means = np.nanmean(_values(normalised(parts[site]))[rows], axis=0)
        layer, position = np.unravel_index(int(np.nanargmax(means)), means.shape)
        said.append(
            f"the {name} of block {layer} at '{labels[position]}' "
            f"({_percent(means[layer, position])})"
        )
    return "of single parts most is done by " + " and ".join(said)


def _percent(value: float | npt.NDArray[np.float64]) -> str:
    return f"{100 * float(np.nanmean(value)):.0f}%"
