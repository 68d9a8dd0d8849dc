"""What the page on the mechanism measures beside what the hypotheses do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from experiments.organisms.facts import Direction
from experiments.reporter import Progress
from experiments.reversal_curse.measure import Subject
from experiments.reversal_curse.prompts import make_pairs, question
from interp import direct_logit_attribution
from interp.circuits import attribute_edges, faithfulness_curve
from interp.errors import ObverseError
from interp.stats import LEAST_N

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def components(
    subject: Subject, rows: Sequence[int], direction: Direction, seed: int, progress: Progress
) -> xr.Dataset:
    """Each component's share of the answer's logit above the foil's, of some facts.

    Returns:
        What `direct_logit_attribution` returns, with `fact` by example; without variables, and with
        the reason in the attribute `refused`, where it cannot be done.
    """
    if not rows:
        return _refused("no facts that were told so are patched")
    try:
        template = subject.main_template(direction)
        pairs = make_pairs(subject.model, subject.facts, rows, direction, template, seed)
        found = direct_logit_attribution(subject.model, pairs, progress=progress)
    except ObverseError as error:
        return _refused(str(error))
    kept = found[["contribution", "logit_diff"]].reset_coords(drop=True)
    return kept.assign_coords(
        component=found["component"], fact=("example", list(rows))
    ).assign_attrs(refused="")


def circuit_edges(
    subject: Subject, rows: Sequence[int], direction: Direction, seed: int, progress: Progress
) -> xr.Dataset:
    """Edges scored (EAP-IG, by position) on the first half of the questions.

    Returns:
        What `attribute_edges` returns, without single examples' scores; refused like `components`.
    """
    try:
        first, _ = _halves(subject, rows, direction, seed)
        template = subject.main_template(direction)
        pairs = make_pairs(subject.model, subject.facts, first, direction, template, seed)
        found = attribute_edges(subject.model, pairs, by="position", progress=progress)
    except (ObverseError, ValueError) as error:
        return _refused(str(error))
    return found.assign_attrs(refused="")


def circuit_curve(
    subject: Subject,
    rows: Sequence[int],
    direction: Direction,
    seed: int,
    edges: xr.Dataset,
    progress: Progress,
) -> xr.Dataset:
    """Faithfulness of circuits of these edges on the other half of the questions, as
    `faithfulness_curve` returns it; refused like `components`."""
    if edges.attrs.get("refused"):
        return _refused(str(edges.attrs["refused"]))
    try:
        _, second = _halves(subject, rows, direction, seed)
        template = subject.main_template(direction)
        pairs = make_pairs(subject.model, subject.facts, second, direction, template, seed)
        asked = ["/".join(question(subject.facts[i], direction)) for i in second]
        found = faithfulness_curve(
            subject.model,
            pairs,
            edges,
            fractions=FRACTIONS,
            n_random=2,
            n_resampled=0,
            clusters=asked,
            seed=seed % 2**32,
            progress=progress,
        )
    except ObverseError as error:
        return _refused(str(error))
    return found.assign_attrs(refused="")


def _halves(
    subject: Subject, rows: Sequence[int], direction: Direction, seed: int
) -> tuple[list[int], list[int]]:
    """Facts in two halves that share no question.

    Raises:
        ValueError: there are too few for an interval.
    """
    asked = [question(subject.facts[i], direction) for i in rows]
    distinct = sorted(set(asked))
    if len(distinct) < 2 * LEAST_N:
        raise ValueError(
            f"{len(distinct)} questions, and {2 * LEAST_N} are needed to find a circuit on half of "
            "them and to measure it on the others"
        )
    drawn = np.random.default_rng(seed).permutation(len(distinct))
    chosen = {distinct[i] for i in drawn[::2]}
    first = [row for row, one in zip(rows, asked, strict=True) if one in chosen]
    return first, [row for row in rows if row not in first]


def _refused(reason: str) -> xr.Dataset:
    return xr.Dataset(attrs={"refused": reason.rstrip(".")})
