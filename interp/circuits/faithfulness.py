"""Does a circuit do what the whole model does? Measured by running it, never from scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from cache.arguments import Seed, typed
from interp.circuits.circuit import jaccard
from interp.circuits.measure import Ablation, check_model, measure, shared_pairs
from interp.circuits.prune import Choice, choose, random_circuits
from interp.components.graph import Edges, Graph
from interp.errors import MetricError, SiteError
from interp.metrics import Metric, get_metric
from interp.model.model import Model
from interp.progress import Progress
from interp.prompts.pairs import PromptPairs
from interp.prompts.tokens import Prompts
from interp.results import EdgeScores
from interp.stats import Effect, effect, n_independent
from interp.stats import shares as shares_of
from interp.stats.clusters import Clusters

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which MIB (Mueller et al. 2025) measures."""

Floats = npt.NDArray[np.float64]


@typed
def faithfulness_curve(
    model: Model,
    pairs: PromptPairs,
    scores: EdgeScores,
    metric: Metric | str = "logit_diff",
    *,
    fractions: Sequence[float] = FRACTIONS,
    choice: Choice = "top",
    absolute: bool = True,
    ablation: Ablation = "patching",
    reference: Prompts | None = None,
    n_random: int = 3,
    n_resampled: int = 20,
    clusters: Clusters | None = None,
    seed: Seed = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Faithfulness of circuits of growing size, beside random ones and their complements.

    f(C) = (m(C) − m(∅)) / (m(N) − m(∅)), of means over the pairs; N is the whole model, ∅ the
    model without any edge. CPR = ∫ f and CMD = ∫ |1 − f| over the share of edges (Mueller et al.
    2025) by the trapezoid rule; and over its logarithm, divided by that axis' length, because half
    of the linear axis lies above 50% of the edges, where any circuit is nearly the model.

    Give it pairs that are held out: on the pairs that gave the scores, the edges that happen to do
    well are the edges that were chosen. How many pairs are the same is noted in the result.

    Args:
        model: what to run, read by `metric`.
        pairs: prompts to run on, others than those that gave the scores.
        scores: what `attribute_edges` returned for this model.
        fractions: shares of all edges, growing.
        choice: as for `prune`, and likewise `absolute`.
        ablation: as for `measure`, and likewise `reference`.
        n_random: random circuits beside each; built up from the logits by random scores until
            they have at least as many edges.
        n_resampled: circuits chosen anew from resampled pairs, for `jaccard`.
        clusters: which pairs are not independent, as for `mean_interval`; those with one clean
            prompt if left out.
        progress: called with (runs done, runs in all).

    Returns:
        f and its 95% interval f_low, f_high (fraction; see `ratio_interval`); complement(fraction),
        f of all other edges; random(draw, fraction) and random_edges(draw, fraction);
        n_edges(fraction), what is left after dropping the disconnected.
        cpr, cmd, cpr_log, cmd_log, each with _low, _high, and _random(draw).
        jaccard, jaccard_low (fraction): the share of edges that a circuit and one from resampled
        pairs have in common, mean and lowest.
        circuit_metric(fraction, example), full(example), empty(example): the metric itself.
        All shares are NaN, and circuit_metric is what is left, where m(N) − m(∅) is not clear of
        zero: its 95% interval must lie above 0, for which at least `LEAST_N` pairs are needed. The
        attribute `clear` is then 0 and `reason` says why; `effect`, `effect_low` and `effect_high`
        are that difference. `shared_pairs` counts the pairs that the scores are from, too.

    Raises:
        MetricError: the whole and the empty model do equally well, so shares mean nothing.
        SiteError: fractions that do not grow between 0 and 1, a negative setting, or as for
            `measure`.
        ModelError: as for `measure`.
        StatisticsError: clusters that do not fit the pairs.
    """
    check_model(model, scores.attrs)
    shares = _check(fractions)
    for name, number in (("n_random", n_random), ("n_resampled", n_resampled)):
        if number < 0:
            raise SiteError(f"The setting {name} is a number from 0, not {number}.")
    clusters = pairs.clean.texts if clusters is None else clusters
    n_independent(len(pairs), clusters)  # refused before anything is run
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
    means = found.mean(1)
    if abs(means[0] - means[1]) <= 1e-5 * max(1.0, float(np.abs(found[:2]).max())):
        raise MetricError(
            "The metric is the same for the whole model and without any edge, so no share of it "
            "can be told; choose pairs on which the two prompts differ."
        )
    metric, n = get_metric(metric), len(shares)
    full, empty, parts = found[0], found[1], found[2:]
    whole = effect(full, empty, unit=metric.unit, metric=metric.name, clusters=clusters)
    share_of, low, high = shares_of(parts, full, empty, whole, clusters)
    random = share_of[2 * n :].reshape(n_random, n)
    similar = _similar(scores, circuits, chosen, rng, n_resampled)
    variables: dict[str, object] = {
        "f": ("fraction", share_of[:n]),
        "f_low": ("fraction", low[:n]),
        "f_high": ("fraction", high[:n]),
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
        ends = _area_interval(shares, parts[:n], full, empty, whole, name, clusters)
        variables[f"{name}_low"], variables[f"{name}_high"] = ((), ends[0]), ((), ends[1])
        variables[f"{name}_random"] = ("draw", area(shares, random, name))
    shared = shared_pairs(pairs, scores["clean_prompt"].values)
    notes = {
        "instrument": "circuit faithfulness",
        "method": scores.attrs["method"],
        **{name: scores.attrs[name] for name in ("head_shares",) if name in scores.attrs},
        "ablation": ablation,
        "metric": metric.name,
        "unit": metric.unit,
        **whole.attrs,
        "pairs": len(pairs),
        "shared_pairs": shared,
        **model.identity,
    }
    return xr.Dataset(variables, coords={"fraction": shares}, attrs=notes)


def _area_interval(
    fractions: Floats,
    parts: Floats,
    full: Floats,
    empty: Floats,
    whole: Effect,
    name: str,
    clusters: Clusters | None,
) -> tuple[float, float]:
    """An area is a weighted sum of shares, so it is one share too, that of a weighted sum.

    CMD's |1 − f| is taken on the side of 1 where f is.
    """
    weights = area(fractions, np.eye(len(fractions)), name.replace("cmd", "cpr"))
    moved = parts - empty
    if name.startswith("cmd"):
        gap = full - empty
        moved = np.sign(np.sum(gap - moved, axis=1))[:, None] * (gap - moved)
    _, low, high = shares_of(weights @ moved + empty, full, empty, whole, clusters)
    least = 0.0 if name.startswith("cmd") else -np.inf
    return float(np.maximum(low, least)), float(np.maximum(high, least))


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
