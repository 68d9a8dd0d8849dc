"""Does a circuit do what the whole model does? Measured by running it, never from scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from interp.circuits.circuit import jaccard
from interp.circuits.measure import Ablation, Progress, check_model, measure
from interp.circuits.prune import Choice, choose, random_circuits
from interp.errors import MetricError, SiteError
from interp.graph import Edges, Graph
from interp.metrics import Metric, get_metric
from interp.model import Model
from interp.prompts import PromptPairs
from interp.tokens import Prompts

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which MIB (Mueller et al. 2025) measures."""

Floats = npt.NDArray[np.float64]


def faithfulness_curve(
    model: Model,
    pairs: PromptPairs,
    scores: xr.Dataset,
    metric: Metric | str = "logit_diff",
    *,
    fractions: Sequence[float] = FRACTIONS,
    choice: Choice = "top",
    absolute: bool = True,
    ablation: Ablation = "patching",
    reference: Prompts | None = None,
    n_random: int = 3,
    n_bootstrap: int = 1000,
    n_resampled: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Faithfulness of circuits of growing size, beside random ones and their complements.

    f(C) = (m(C) − m(∅)) / (m(N) − m(∅)), of means over the pairs; N is the whole model, ∅ the
    model without any edge. CPR = ∫ f and CMD = ∫ |1 − f| over the share of edges (Mueller et al.
    2025) by the trapezoid rule; and over its logarithm, divided by that axis' length, because half
    of the linear axis lies above 50% of the edges, where any circuit is nearly the model.

    Args:
        model, metric: what to run.
        pairs: prompts to run on; others than those that gave the scores tell whether the circuit
            is that of the task.
        scores: what `attribute_edges` returned for this model.
        fractions: shares of all edges, growing.
        choice, absolute: as for `prune`.
        ablation, reference: as for `measure`.
        n_random: random circuits beside each; built up from the logits by random scores until
            they have at least as many edges.
        n_bootstrap: resamples of the pairs for the intervals.
        n_resampled: circuits chosen anew from resampled pairs, for `jaccard`.
        progress: called with (runs done, runs in all).

    Returns:
        f, f_low, f_high (fraction); complement(fraction), f of all other edges; random(draw,
        fraction) and random_edges(draw, fraction); n_edges(fraction), what is left after dropping
        the disconnected.
        cpr, cmd, cpr_log, cmd_log, each with _low, _high, and _random(draw).
        jaccard, jaccard_low (fraction): the share of edges that a circuit and one from resampled
        pairs have in common, mean and lowest.
        circuit_metric(fraction, example), full(example), empty(example): the metric itself.
        The attribute `clear` says whether the interval of m(N) − m(∅) excludes 0.

    Raises:
        MetricError: the whole and the empty model do equally well, so shares mean nothing.
        SiteError: fractions that do not grow between 0 and 1, or as for `measure`.
        ModelError: as for `measure`.
    """
    check_model(model, scores.attrs)
    shares = _check(fractions)
    graph, rng = Graph.from_attrs(scores.attrs), np.random.default_rng(seed)
    counts = [round(share * graph.n_edges) for share in shares]

    def chosen(values: npt.NDArray[np.float32]) -> list[Edges]:
        return [choose(graph, values, n, choice=choice, absolute=absolute) for n in counts]

    circuits = chosen(scores["score"].values)
    complements = [graph.real & ~edges for edges in circuits]
    sizes = [int(edges.sum()) for edges in circuits]
    draws = [random_circuits(graph, rng, sizes) for _ in range(n_random)]
    runs = [graph.real, graph.real & False, *circuits, *complements, *(c for d in draws for c in d)]
    found = measure(
        model,
        pairs,
        np.stack(runs),
        metric,
        ablation=ablation,
        reference=reference,
        progress=progress,
    ).astype(np.float64)
    resamples = rng.integers(0, len(pairs), size=(n_bootstrap, len(pairs)))
    means = found.mean(1)
    gap = float(means[0] - means[1])
    if abs(gap) <= 1e-5 * max(1.0, float(np.abs(found[:2]).max())):
        raise MetricError(
            "The metric is the same for the whole model and without any edge, so no share of it "
            "can be told; choose pairs on which the two prompts differ."
        )
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    resampled = found[:, resamples].mean(-1)  # [run, resample]
    clear = np.prod(np.quantile(resampled[0] - resampled[1], tails)) > 0
    n = len(shares)
    share_of = (means[2:] - means[1]) / gap
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (resampled[2 : n + 2] - resampled[1]) / (resampled[0] - resampled[1])
    low, high = np.nanquantile(spread, tails, axis=1)
    random = share_of[2 * n :].reshape(n_random, n)
    similar = _similar(scores, circuits, chosen, rng, n_resampled)
    variables: dict[str, object] = {
        "f": ("fraction", share_of[:n]),
        "f_low": ("fraction", low),
        "f_high": ("fraction", high),
        "complement": ("fraction", share_of[n : 2 * n]),
        "random": (("draw", "fraction"), random),
        "random_edges": (
            ("draw", "fraction"),
            np.array([[int(c.sum()) for c in d] for d in draws]).reshape(n_random, n),
        ),
        "n_edges": ("fraction", sizes),
        "jaccard": ("fraction", similar.mean(0)),
        "jaccard_low": ("fraction", similar.min(0)),
        "circuit_metric": (("fraction", "example"), found[2 : n + 2]),
        "full": ("example", found[0]),
        "empty": ("example", found[1]),
    }
    for name in ("cpr", "cmd", "cpr_log", "cmd_log"):
        variables[name] = ((), area(shares, share_of[:n], name))
        ends = np.nanquantile(area(shares, spread.T, name), tails)
        variables[f"{name}_low"], variables[f"{name}_high"] = ((), ends[0]), ((), ends[1])
        variables[f"{name}_random"] = ("draw", area(shares, random, name))
    return _label(model, variables, shares, get_metric(metric), ablation, bool(clear), scores)


def area(fractions: Floats, f: Floats, name: str) -> Floats:
    """CPR or CMD, "_log" on the logarithmic axis, of f [..., fraction]."""
    height = np.abs(1 - f) if name.startswith("cmd") else f
    axis = np.log(fractions) if name.endswith("_log") else fractions
    whole = np.sum((height[..., 1:] + height[..., :-1]) / 2 * np.diff(axis), axis=-1)
    return np.asarray(whole / (axis[-1] - axis[0]) if name.endswith("_log") else whole)


def _check(fractions: Sequence[float]) -> Floats:
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.size < 2 or shares[0] <= 0 or shares[-1] > 1 or not (np.diff(shares) > 0).all():
        raise SiteError("Give at least two fractions of the edges that grow from above 0 up to 1.")
    return shares


def _similar(
    scores: xr.Dataset,
    circuits: Sequence[Edges],
    chosen: Callable[[npt.NDArray[np.float32]], list[Edges]],
    rng: np.random.Generator,
    n_resampled: int,
) -> Floats:
    """Jaccard index of each circuit with one from resampled pairs [resample, fraction]."""
    by_example = scores["by_example"].values
    out = np.ones((max(1, n_resampled), len(circuits)))
    for number in range(n_resampled):
        drawn = rng.integers(0, len(by_example), size=len(by_example))
        others = chosen(by_example[drawn].mean(0))
        out[number] = [jaccard(a, b) for a, b in zip(circuits, others, strict=True)]
    return out if n_resampled else out * np.nan


def _label(
    model: Model,
    variables: Mapping[str, object],
    shares: Floats,
    metric: Metric,
    ablation: Ablation,
    clear: bool,
    scores: xr.Dataset,
) -> xr.Dataset:
    return xr.Dataset(
        variables,
        coords={"fraction": shares},
        attrs={
            "instrument": "circuit faithfulness",
            "method": scores.attrs["method"],
            "ablation": ablation,
            "metric": metric.name,
            "unit": metric.unit,
            "clear": int(clear),
            **model.identity,
        },
    )
