"""Patching maps of both directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from experiments.organisms.facts import Direction, Fact
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import make_pairs
from interp.execute import Executor, Workers
from interp.patching import sweep
from interp.patching.cells import By

# What is patched, and cell by cell of what.
SITES: dict[str, By] = {
    "resid_pre": "position",
    "attn_out": "position",
    "mlp_out": "position",
    "z": "head",
}


def pick_pairs(
    facts: Sequence[Fact],
    known: npt.NDArray[np.bool_],
    n_pairs: int,
    rng: np.random.Generator,
) -> list[int]:
    """Up to `n_pairs` facts of each split that was trained, those known forward first.

    Both directions are patched on the same facts, so that their maps can be compared.
    """
    chosen: list[int] = []
    for split in dict.fromkeys(fact.split for fact in facts if fact.split != "held_out"):
        members = np.array([i for i, fact in enumerate(facts) if fact.split == split])
        members = rng.permutation(members)
        ordered = members[np.argsort(~known[members], kind="stable")]
        chosen += sorted(int(i) for i in ordered[:n_pairs])
    return chosen


def patching_map(
    subject: Subject,
    rows: Sequence[int],
    direction: Direction,
    site: str,
    seed: int,
    progress: Progress,
    *,
    executor: Executor | Workers,
    metric: str = "logit_diff",
    sham: bool = False,
) -> xr.Dataset:
    """One sweep over pairs made of the facts `rows`, with the facts' names as coordinates."""
    template = subject.main_template(direction)
    pairs = make_pairs(subject.model, subject.facts, rows, direction, template, seed, sham=sham)
    result = sweep(
        subject.model, pairs, site, metric, by=SITES[site], executor=executor, progress=progress
    )
    return result.assign_coords(
        {
            "fact": ("example", list(rows)),
            "subject": ("example", [subject.facts[i].subject for i in rows]),
            "object": ("example", [subject.facts[i].object for i in rows]),
            "split": ("example", [subject.facts[i].split for i in rows]),
        }
    )
