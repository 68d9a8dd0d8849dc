"""The published results of experiment 2, read from their files and summed up with intervals.

Berglund et al. 2023, "The Reversal Curse" (2309.12288): for 1,513 pairs of a celebrity and a
parent, how probable each of several models finds the parent given the child, and the child given
the parent. Their files hold no score of a wrong name, so there is nothing to hold a number against:
they are shown with intervals, and no verdict is drawn from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.berglund.families import families, in_prompt, share_word
from experiments.errors import FactsError
from experiments.sheets import invisible, read_rows, read_text
from interp.stats import bootstrap, mean_interval

if TYPE_CHECKING:
    from experiments.context import Context

__all__ = ["DIRECTIONS", "SUFFIX", "Published", "published_results", "read_published", "summary"]

SUFFIX = "_reversal_test_results.csv"
"""How the name of a results file ends; before it stands the model's."""
PAIRS = "parent_child_pairs.csv"
DIRECTIONS = ("parent", "child")
"""What is asked for: the parent of a child, and the child of a parent."""
# Log-probabilities of an interface that rounds can lie a little above 0.
_ROUNDING = 1e-3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Published:
    """The results of one model.

    Attributes:
        model: as its file is named.
        measure: "probability" that the model gives the name, or "share of 10 answers" that begin
            with it.
        pairs: child and parent of each pair.
        probability: by direction [pair].
    """

    model: str
    measure: str
    pairs: tuple[tuple[str, str], ...]
    probability: Mapping[str, Floats]


def read_published(folder: Path) -> list[Published]:
    """Read every file of results in a folder, in the order of their names.

    Raises:
        FactsError: there is none, or one is damaged, cut off, holds what is no probability, or
            lists other pairs than the others.
    """
    if not folder.is_dir():
        raise FactsError(
            f"There is no folder '{folder}'; give the one that holds files named "
            f"MODEL{SUFFIX}, from the repository of the paper's authors."
        )
    try:
        paths = sorted(folder.glob(f"*{SUFFIX}"))
    except OSError as error:
        raise FactsError(f"'{folder}' cannot be read: {error.strerror}.") from error
    if not paths:
        raise FactsError(
            f"'{folder}' holds no file named MODEL{SUFFIX}; give the folder of the published "
            "results of experiment 2."
        )
    found = [_read(path) for path in paths]
    listed = {path: one.pairs for path, one in zip(paths, found, strict=True)}
    if (folder / PAIRS).is_file():
        # The list that all of them were made from: files that are cut off alike do not pass.
        rows = read_rows(folder / PAIRS, {}, ("child", "parent"))
        listed = {folder / PAIRS: _pairs(folder / PAIRS, rows), **listed}
    first = next(iter(listed))
    for path, pairs in listed.items():
        if pairs != listed[first]:
            raise FactsError(
                f"'{first}' and '{path}' do not list the same pairs ({len(listed[first])} and "
                f"{len(pairs)}); one of them is cut off or was changed, so take all from one "
                "release."
            )
    return found


def published_results(given: str | None, context: Context) -> list[Published] | None:
    """The results in the folder that a setting names, noted as what the run has read.

    Args:
        given: the setting `berglund_results`; None where it is left out.
    """
    if given is None:
        return None
    folder = Path(os.path.expanduser(given))
    found = read_published(folder)
    for one in found:
        context.input_file(f"{one.model}{SUFFIX}", folder / f"{one.model}{SUFFIX}")
    return found


def summary(published: Sequence[Published]) -> pd.DataFrame:
    """Means over pairs with their 95% intervals: six rows for each model.

    Returns:
        Columns model, measure, among ("all" pairs, or those that share "no word", and are not
        given away in the authors' prompt), asked ("parent", "child", or "difference" of the two
        within a pair), mean, pair_low and pair_high (BCa bootstrap over pairs), low and high
        (bootstrap-t over families, since pairs that share a child or a parent are not
        independent), pairs and families.
    """
    rows = []
    for one in published:
        which = families(one.pairs)
        hard = np.array([not (share_word(*pair) or in_prompt(*pair)) for pair in one.pairs])
        shown = {**one.probability, "difference": _difference(one)}
        for among, kept in (("all", np.ones(len(hard), dtype=bool)), ("no word", hard)):
            for asked, every in shown.items():
                values, groups = every[kept], which[kept]
                bounds = None if asked == "difference" else (0.0, 1.0)
                mean = float(values.mean()) if len(values) else np.nan
                ends = (*bootstrap(values), *mean_interval(values, groups, bounds=bounds))
                counts = (len(values), len(np.unique(groups)))
                rows.append((one.model, one.measure, among, asked, mean, *ends, *counts))
    columns = ["model", "measure", "among", "asked", "mean", "pair_low", "pair_high", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "pairs", "families"])


def _difference(one: Published) -> Floats:
    return one.probability["parent"] - one.probability["child"]


def _read(path: Path) -> Published:
    rows = read_rows(path, {}, ("child", "parent"))
    if not read_text(path).endswith("\n"):
        raise FactsError(f"'{path}' ends within a line; it is cut off, so fetch it again.")
    model = path.name.removesuffix(SUFFIX)
    if not model.strip() or invisible(model) is not None:
        raise FactsError(
            f"{str(path)!r} names no model that could be written down; rename it to MODEL{SUFFIX}."
        )
    columns = _columns(path, list(rows[0][1]))
    probability = {
        asked: np.array([_number(path, line, row[column], logs) for line, row in rows])
        for asked, (column, logs) in columns.items()
    }
    measure = "probability" if columns["parent"][1] else "share of 10 answers"
    return Published(model, measure, _pairs(path, rows), probability)


def _pairs(path: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> tuple[tuple[str, str], ...]:
    for line, row in rows:
        if not row["child"] or not row["parent"]:
            raise FactsError(f"'{path}' has an empty name in line {line}; fetch it again.")
    return tuple((row["child"], row["parent"]) for _, row in rows)


def _columns(path: Path, names: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """The column of each direction, and whether it holds logarithms."""
    endings: tuple[tuple[dict[str, str], bool], ...] = (
        ({"parent": "_parent_logprob", "child": "_child_logprob"}, True),
        ({"parent": "_can_find_parent", "child": "_can_find_child"}, False),
    )
    for ending, logs in endings:
        found = {
            asked: [name for name in names if name.endswith(end)] for asked, end in ending.items()
        }
        if all(len(columns) == 1 for columns in found.values()):
            return {asked: (columns[0], logs) for asked, columns in found.items()}
    raise FactsError(
        f"'{path}' has no column for each direction (MODEL_parent_logprob and MODEL_child_logprob, "
        "or MODEL_can_find_parent and MODEL_can_find_child); fetch it again."
    )


def _number(path: Path, line: int, cell: str, logs: bool) -> float:
    """The probability that a cell tells. Raises FactsError where it tells none."""
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    most = _ROUNDING if logs else 1.0
    if not (value <= most and (logs or value >= 0)) or value == -np.inf:
        kind = "log-probability" if logs else "share between 0 and 1"
        raise FactsError(
            f"'{path}' has '{cell}' in line {line}, which is no {kind}; fetch it anew."
        )
    return float(np.exp(min(value, 0.0))) if logs else value
