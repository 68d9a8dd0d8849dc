"""Labels and groups, checked before anything is fitted."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from interp.errors import ProbeError

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """Classes of examples.

    Attributes:
        codes: the class of each example, as an index into `classes` [example].
        classes: names of the classes, sorted.
    """

    codes: Codes
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def majority(self) -> float:
        """Share of the commonest class: what answering without looking gets."""
        return float(np.bincount(self.codes).max() / len(self))


def encode(labels: Any, n: int) -> Labels:
    """Labels as classes.

    Args:
        labels: one for each example: numbers, texts or truth values.
        n: how many examples there are.

    Raises:
        ProbeError: their number is wrong, one is missing, they are of one class, or there are more
            classes than examples can show.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or len(values) != n:
        raise ProbeError(
            f"There are {n} examples but labels of shape {values.shape}; give one label for each."
        )
    if pd.isna(values).any():
        raise ProbeError(
            f"Example {int(pd.isna(values).argmax())} has no label; leave such examples out."
        )
    if values.dtype.kind == "f" and not np.equal(np.mod(values, 1), 0).all():
        raise ProbeError(
            "These labels are numbers with fractions, not classes; use kind='ridge' to predict "
            "numbers."
        )
    names, codes = np.unique(_sortable(values), return_inverse=True)
    if len(names) < 2:
        raise ProbeError(
            f"All labels are '{names[0]}'; a probe needs examples of at least two classes."
        )
    if len(names) > n // 2:
        raise ProbeError(
            f"There are {len(names)} classes but only {n} examples, so that classes have one "
            "example or so; use fewer classes or more examples."
        )
    return Labels(codes.astype(np.int64).reshape(-1), tuple(str(name) for name in names))


def group_codes(groups: Any, n: int) -> Codes:
    """Groups as numbers from 0; every example its own group where there are none.

    Raises:
        ProbeError: their number is wrong, or one is missing.
    """
    if groups is None:
        return np.arange(n)
    values = np.asarray(groups)
    if values.ndim != 1 or len(values) != n:
        raise ProbeError(
            f"There are {n} examples but groups of shape {values.shape}; give one group for each."
        )
    if pd.isna(values).any():
        raise ProbeError(f"Example {int(pd.isna(values).argmax())} has no group; give it one.")
    return np.unique(_sortable(values), return_inverse=True)[1].astype(np.int64).reshape(-1)


def _sortable(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Texts, where things of several kinds have no order."""
    return values.astype(str) if values.dtype.kind == "O" else values


def check_numbers(strengths: Sequence[float], **counts: tuple[int, int]) -> None:
    """Refuse settings that make no sense.

    Args:
        strengths: penalties.
        counts: whole numbers, each with the least that it may be.

    Raises:
        ProbeError: one is of another kind, or too small.
    """
    for name, (value, least) in counts.items():
        if not isinstance(value, numbers.Integral) or value < least:
            raise ProbeError(
                f"The setting {name} must be a whole number of at least {least}, not {value!r}."
            )
    given = np.asarray(strengths)
    if given.ndim != 1 or given.dtype.kind not in "iuf" or not len(given):
        raise ProbeError("Strengths must be positive numbers, at least one.")
    if not ((given > 0) & (given < np.inf)).all():
        raise ProbeError(
            "Strengths must be positive: without a penalty there may be no best probe."
        )
