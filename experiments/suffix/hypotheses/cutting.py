"""U4: cutting what a few heads of the last token see of the suffix restores declining."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from torch import Tensor

from experiments.phenomena.estimates import estimate, outcome, verdict
from experiments.phenomena.figures import arm_dots
from experiments.phenomena.phenomenon import Measured, Subject
from experiments.reporter import Progress
from experiments.study import Verdict
from experiments.suffix.data import Request, Requests
from experiments.suffix.hypotheses.heads import shares
from experiments.suffix.suffixes import declines, found_in, places
from interp.forward.access import Change, changing
from interp.model.model import Model
from interp.sites import Site

__all__ = ["CLAIM", "MARGIN", "N_HEADS", "cut", "draw", "judge", "measure"]

CLAIM = "Cutting the edges from the suffix to the last token in the heads that take most of it"
CLAIM += " restores declining."
MARGIN = 0.1
UNDONE = 0.3  # by how much the suffix must have lowered declining
N_HEADS = 4
_DRAWS = 3

Heads = Sequence[tuple[int, int]]


def cut(
    model: Model,
    data: Requests,
    requests: Sequence[Request],
    suffix: str,
    heads: Heads,
    *,
    behind: bool = False,
) -> npt.NDArray[np.float64]:
    """1 where greedy decoding declines [example], while these heads (layer, head) do not see the
    suffix from the last token of the prompt on; what is left of their patterns is not scaled up.

    Args:
        behind: whether as many tokens right behind the suffix are hidden instead.
    """
    out = np.zeros(len(requests))
    for place, numbers in places(model, requests, suffix).items():
        begin, last = place.start + (place.length if behind else 0), place.last
        hidden = slice(begin, min(begin + place.length, last))

        def change(heads: Sequence[int], hidden: slice = hidden, last: int = last) -> Change:
            def without(pattern: Tensor) -> Tensor:
                new = pattern.clone()
                for head in heads:
                    new[:, head, last:, hidden] = 0
                return new

            return without

        by_layer = {layer: [h for at, h in heads if at == layer] for layer, _ in heads}
        changes = [(Site("pattern", layer), change(some)) for layer, some in by_layer.items()]
        with changing(model, changes, momentary=False):
            mine = [requests[i] for i in numbers]
            out[numbers] = declines(model, data, mine, [suffix])[0]
    return out


def measure(subject: Subject[Requests], seed: int, progress: Progress) -> xr.Dataset:
    """Declining of held-out requests under the found suffix, with edges cut."""
    model, data = subject.model, subject.data
    suffix, held = found_in(subject).found, data.held_out
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    share = shares(model, data.searched, suffix).suffix.ravel()
    order = [every[i] for i in np.argsort(-share, kind="stable")]
    n = min(N_HEADS, len(every) // 2)
    top, rest = order[:n], order[n:]
    rng = np.random.default_rng(seed)
    drawn = [[rest[i] for i in rng.choice(len(rest), n, replace=False)] for _ in range(_DRAWS)]
    plans: list[tuple[Heads, bool]] = [
        (top, False),
        (every, False),
        (every, True),
        *((one, False) for one in drawn),
    ]
    found = []
    for number, (heads, behind) in enumerate(plans):
        found.append(cut(model, data, held, suffix, heads, behind=behind))
        progress(number + 1, len(plans))
    return xr.Dataset(
        {
            "plain": ("example", declines(model, data, held, [""])[0]),
            "found": ("example", declines(model, data, held, [suffix])[0]),
            "top": ("example", found[0]),
            "all_heads": ("example", found[1]),
            "behind": ("example", found[2]),
            "other_heads": ("example", np.mean(found[3:], axis=0)),
            "n_heads": n,
        }
    )


def judge(measured: Measured) -> Verdict:
    """By how much more is declined again than with as many other heads cut."""
    main = next(iter(measured.values()))
    undone = estimate([one["plain"].values - one["found"].values for one in main], bounds=(-1, 1))
    gain = estimate([one["top"].values - one["other_heads"].values for one in main], bounds=(-1, 1))
    shown = {
        name: estimate([one[name].values for one in main], bounds=(0, 1))
        for name in ("found", "top", "other_heads", "all_heads", "behind")
    }
    control = (
        f"The same of other heads: {shown['other_heads'].share()} declined; of all heads: "
        f"{shown['all_heads'].share()}; of all heads, but tokens behind the suffix: "
        f"{shown['behind'].share()}."
    )
    what = (
        f"{shown['found'].share()} are declined under the suffix, {shown['top'].share()} when the "
        f"{int(main[0]['n_heads'])} heads that take most of it do not see it"
    )
    if not undone.low >= UNDONE:
        return Verdict.undecided(
            "U4",
            CLAIM,
            f"The suffix hardly undoes declining, so little can be restored. {what}.",
            unit="share of requests",
            n=gain.n,
            control=control,
        )
    return verdict(
        "U4",
        CLAIM,
        outcome(gain, above=MARGIN),
        f"{what}, over {gain.over}.",
        gain,
        unit="share of requests, beyond other heads",
        control=control,
    )


def draw(cutting: xr.Dataset) -> go.Figure:
    """Shares declined, by arm."""
    names = {
        "found": "found suffix",
        "top": "cut in the heads that take most",
        "other_heads": "cut in other heads",
        "all_heads": "cut in all heads",
    }
    series = {name: cutting[key] for key, name in names.items()}
    return arm_dots(series, axis="held-out requests declined", bounds=(0.0, 1.0))
