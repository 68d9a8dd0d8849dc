"""Probes at every layer, as a job whose report is kept with the run."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from app.compute import probing
from app.compute.background.request import Form, Request, check_alike
from app.compute.background.spot_checks import check_numbers, drawn
from app.compute.probing import Read, Swept
from app.compute.turns import ModelSpec
from experiments.labelled import Labelled
from interp.kinds import site_kind

if TYPE_CHECKING:
    import xarray as xr

    from interp.model.model import Model

_BY_SITES = ("arrangements", "drift", "inside_groups", "problems")
"""Attributes of a report that all of its sites decide together."""
_FROM_SHUFFLES = ("null", "null_auroc", "p_value", "p_corrected")


def request(spec: ModelSpec, asked: Labelled, site: str) -> Request[Swept]:
    """A sweep over the layers."""
    where = site_kind(site).label.removesuffix(" block").rpartition(" ")[0]

    def keep(result: Swept) -> xr.Dataset:
        assert result.report is not None  # there when the work is done
        return result.report

    def read(stored: xr.Dataset, model: Model) -> Swept:
        *_, there = probing.read(model, asked, site, _nothing)
        assert there is not None  # the last step
        (words,) = deque(probing.fitted(there.counts, asked), maxlen=1)
        _check(stored, there, asked)
        return Swept(stored, words, there.same)

    return Request(
        spec,
        ("probes", asked, site),
        f"Probes of {len(asked):,} prompts, {where}: {', '.join(asked.classes)}",
        lambda model, tell: probing.swept(model, asked, site, tell),
        form=Form(
            keep,
            read,
            "All prompts were read again, the probes of one layer, drawn at random, were fitted "
            "again, and what follows from the numbers of the other layers was computed again.",
        ),
    )


def _check(stored: xr.Dataset, there: Read, asked: Labelled) -> None:
    """Raise a ValueError unless a report is of these activations."""
    names = there.features.sites
    (number,) = drawn(len(names), 1)
    alone = replace(
        there.features,
        values=there.features.values[number : number + 1],
        sites=names[number : number + 1],
    )
    (true,) = deque(probing.fitted(alone, asked), maxlen=1)
    like = true.isel(site=[0] * len(names)).assign_coords(site=list(names))
    # Numbers that bear the name of their dimension count as its labels.
    told, like = (
        each.rename_vars(null="shuffled").reset_coords("shuffled") for each in (stored, like)
    )
    check_alike(told, like, [name for name in like.attrs if name not in _BY_SITES])
    _check_together(stored, there)
    _check_sums(stored)
    # Labels that are turned are not those that are shuffled.
    alike = stored.attrs["inside_groups"] == true.attrs["inside_groups"]
    few = 2 / stored.sizes["example"]
    mine = stored.isel(site=[number])
    for name in ("correct", "control_correct"):
        # A fit that ends elsewhere within its tolerance can tell an example otherwise.
        check_numbers(mine[name].values.mean(), true[name].values.mean(), few)
        if (mine[name].values != true[name].values).mean() > few:
            raise ValueError("its examples are not told as the model tells them")
    for name in ("bits", "control_bits", "auroc", "code", "control_code", *_FROM_SHUFFLES[:2]):
        if alike or name not in _FROM_SHUFFLES:
            check_numbers(mine[name].values, true[name].values, max(0.02, few))
    for name in ("majority", "control_majority"):
        check_numbers(stored[name].values, true[name].values, 1e-9)


def _check_together(stored: xr.Dataset, there: Read) -> None:
    """Raise a ValueError unless what all sites decide together is as the model says."""
    from probes.controls.order import drifts, in_sequence
    from probes.controls.shuffling import arrangements

    values, groups = there.features.values, np.asarray(stored["group"].values)
    codes = np.unique(stored["label"].values.astype(str), return_inverse=True)[1]
    turned = in_sequence(values, groups)
    said = {
        "inside_groups": "turned" if turned else "shuffled",
        "drift": int(drifts(values, codes, groups)),
        "arrangements": arrangements(codes, groups, turned=turned, symmetric=True),
    }
    for name, true in said.items():
        if stored.attrs.get(name) != true:
            raise ValueError(f"its {name} is another one")


def _check_sums(stored: xr.Dataset) -> None:
    """Raise a ValueError unless the numbers of a report follow from each other."""
    from interp.stats import holm
    from probes.controls.significance import (
        against_shuffled,
        difference_interval,
        group_interval,
    )

    right, control = (stored[name].values for name in ("correct", "control_correct"))
    if not (np.isin(right, (0, 1)).all() and np.isin(control, (0, 1)).all()):
        raise ValueError("some of its examples are neither right nor wrong")
    groups = np.asarray(stored["group"].values)
    measured = {
        "accuracy": (right.mean(1), group_interval(right, groups)),
        "control": (control.mean(1), group_interval(control, groups)),
        "selectivity": ((right - control).mean(1), difference_interval(right, control, groups)),
    }
    for name, (mean, (low, high)) in measured.items():
        for end, true in (("", mean), ("_low", low), ("_high", high)):
            check_numbers(stored[f"{name}{end}"].values, true, 1e-6)
    least = 1 / float(stored.attrs["arrangements"])
    p = against_shuffled(stored["auroc"].values, stored["null_auroc"].values, least=least)
    check_numbers(stored["p_value"].values, p, 1e-9, "p values")
    check_numbers(stored["p_corrected"].values, holm(p), 1e-9, "p values")


def _nothing(done: int, total: int) -> None:
    """Nobody is told."""
