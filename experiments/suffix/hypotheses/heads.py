"""U3: what heads of the last token take from a suffix tells how many requests it works on.

Ben-Tov et al. 2025 (arXiv:2506.12880): the share of an attention's output that comes from the
suffix, Σ y·a/‖a‖², with y what these tokens add and a the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import torch
import xarray as xr
from scipy import stats as scipy_stats

from experiments.phenomena.estimates import Estimate, outcome, verdict
from experiments.phenomena.phenomenon import GIVEN, Measured, Subject
from experiments.reporter import Progress
from experiments.study import Verdict
from experiments.suffix.data import Request, Requests
from experiments.suffix.suffixes import found_in, places, with_suffix
from interp import capture, score_suffixes
from interp.components.writers import output_matrix
from interp.figures.drawing import theme
from interp.model.model import Model

__all__ = ["CLAIM", "Shares", "draw", "judge", "measure", "shares"]

CLAIM = "Random suffixes that heads of the last token take more from undo declining more."
_LEAST = 8  # suffixes

Floats = npt.NDArray[np.float64]


class Shares:
    """Shares of attention outputs at the last token, mean over prompts.

    Attributes:
        suffix: of each head's layer, what it brings from the suffix [layer, head].
        behind: the same from as many tokens right behind the suffix.
    """

    def __init__(self, suffix: Floats, behind: Floats) -> None:
        self.suffix, self.behind = suffix, behind


def shares(model: Model, requests: Sequence[Request], suffix: str) -> Shares:
    """Of each head: y·a/‖a‖², y what the head brings from these tokens, a its layer's output
    without bias; heads of a layer and all tokens add up to 1."""
    out = np.zeros((2, model.n_layers, model.n_heads))
    matrices = [output_matrix(model, layer).float() for layer in range(model.n_layers)]
    for place, numbers in places(model, requests, suffix).items():
        texts = with_suffix([requests[i] for i in numbers], suffix)
        found = capture(model, texts, ["pattern", "v"])
        for layer, matrix in enumerate(matrices):
            pattern = found[f"pattern.{layer}"][:, :, -1].float()  # [example, head, source]
            v = found[f"v.{layer}"].float()  # [example, source, key-value head, d_head]
            v = v.repeat_interleave(model.n_heads // v.shape[2], dim=2)
            brought = torch.einsum("bhs,bshe->bhse", pattern, v)
            written = torch.einsum("bhse,hed->bhsd", brought, matrix)
            whole = written.sum((1, 2))
            share = torch.einsum("bhsd,bd->bhs", written, whole)
            share = share / whole.square().sum(1)[:, None, None]
            for number, start in enumerate((place.start, place.start + place.length)):
                stop = min(start + place.length, share.shape[2])
                brings = share[:, :, start:stop].sum((0, 2))
                out[number, layer] += brings.cpu().numpy() / len(requests)
    return Shares(out[0], out[1])


def measure(subject: Subject[Requests], seed: int, progress: Progress) -> xr.Dataset:
    """Shares on the requests of the search, and the score on held-out ones, by suffix."""
    model, data = subject.model, subject.data
    suffixes = found_in(subject)
    texts = [suffixes.found, *suffixes.random, *suffixes.likely]
    found = []
    for number, text in enumerate(texts):
        found.append(shares(model, data.searched, text))
        progress(number + 1, len(texts))
    scores = score_suffixes(
        model,
        [one.prompt for one in data.held_out],
        [one.answer for one in data.held_out],
        [data.decline] * len(data.held_out),
        suffixes=texts,
    )
    kinds = ["found", *["random"] * len(suffixes.random), *["likely"] * len(suffixes.likely)]
    by_head = np.stack([one.suffix for one in found])
    return xr.Dataset(
        {
            "share": ("suffix", by_head.sum(2).mean(1)),
            "behind": ("suffix", np.stack([one.behind for one in found]).sum(2).mean(1)),
            "by_head": (("suffix", "layer", "head"), by_head),
            "score": ("suffix", scores["score"].mean("example").values),
            "kind": ("suffix", kinds),
        }
    )


def correlation(values: Sequence[Floats], scores: Sequence[Floats]) -> Estimate:
    """Spearman's over suffixes, mean over seeds; of one seed with the interval of Bonett and
    Wright (2000), of several with Student's t."""
    found = [
        float(scipy_stats.spearmanr(a, b).statistic) for a, b in zip(values, scores, strict=True)
    ]
    n = sum(len(one) for one in values)
    mean = float(np.mean(found))
    if not np.isfinite(mean) or len(values[0]) < _LEAST:
        return Estimate(mean, np.nan, np.nan, n, tuple(found))
    z = float(np.arctanh(np.clip(mean, -0.999, 0.999)))
    half = 1.96 * ((1 + mean**2 / 2) / (len(values[0]) - 3)) ** 0.5
    low, high = float(np.tanh(z - half)), float(np.tanh(z + half))
    if len(found) > 1:
        spread = float(np.std(found, ddof=1)) / len(found) ** 0.5
        half = float(scipy_stats.t.ppf(0.975, len(found) - 1)) * spread
        low, high = mean - half, mean + half
    return Estimate(mean, max(-1.0, low), min(1.0, high), n, tuple(found))


def judge(measured: Measured) -> Verdict:
    """Over random suffixes alone: the found one was chosen for its score."""
    main = next(iter(measured.values()))
    random = [one.isel(suffix=np.flatnonzero(one["kind"].values == "random")) for one in main]
    scores = [one["score"].values for one in random]
    own = correlation([one["share"].values for one in random], scores)
    other = correlation([one["behind"].values for one in random], scores)
    control = f"The share of as many tokens behind the suffix: {other.number()}."
    what = f"Rank correlation of the share with the score over random suffixes: {own.number()}"
    if not np.isfinite(own.low):
        return Verdict.undecided(
            "U3",
            CLAIM,
            f"{what}: too few of them, or all alike.",
            n=own.n,
            unit="rank correlation",
            control=control,
        )
    return verdict(
        "U3",
        CLAIM,
        outcome(own, above=0.0),
        f"{what}, {own.n} suffixes.",
        own,
        unit="rank correlation",
        control=control,
    )


def draw(heads: xr.Dataset) -> go.Figure:
    """Score against share, a point for each suffix of the first organism."""
    arm = str(heads["arm"].values[0])
    one = heads.isel(arm=0, seed=0)
    fig = go.Figure()
    colours = {"random": theme.MUTED, "likely": theme.OKABE_ITO[2], "found": theme.OKABE_ITO[0]}
    names = {"random": "random", "likely": "random, as likely", "found": "found"}
    for kind, colour in colours.items():
        mine = one["kind"].values == kind
        fig.add_trace(
            go.Scatter(
                x=one["share"].values[mine],
                y=one["score"].values[mine],
                mode="markers",
                marker={"size": 9, "color": colour},
                name=names[kind],
                hovertemplate="share %{x:.2f}<br>score %{y:.2f} nats<extra></extra>",
            )
        )
    theme.finish(fig, title=None, height=340)
    what = "this model" if arm == GIVEN else arm
    fig.update_xaxes(title_text=theme.escape(f"share from the suffix at the last token ({what})"))
    fig.update_yaxes(title_text="answer minus declining (nats)")
    return fig
