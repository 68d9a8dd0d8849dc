"""Two runs of one study as one table: what they conclude, and how often they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.study import Verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

__all__ = ["compare_accuracy", "compare_verdicts"]

_OF_VERDICT = ("outcome", "estimate", "low", "high", "unit", "n", "confidence", "statement")


def compare_verdicts(first: Sequence[Verdict], second: Sequence[Verdict]) -> pd.DataFrame:
    """A row for each hypothesis of either run, in the order of the first.

    Returns:
        Columns id, claim and same_claim (False where both put a hypothesis of one name in other
        words), and for each run (`_a`, `_b`) outcome, estimate, low, high, unit, n, confidence and
        statement; missing where a run has no such verdict.
    """
    import pandas as pd

    ours, theirs = ({verdict.id: verdict for verdict in run} for run in (first, second))
    rows = []
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        said = [verdict.claim for verdict in (one, other) if verdict is not None]
        row: dict[str, object] = {
            "id": name,
            "claim": said[0],
            "same_claim": len(set(said)) == 1,
        }
        for side, verdict in (("a", one), ("b", other)):
            for field in _OF_VERDICT:
                row[f"{field}_{side}"] = None if verdict is None else getattr(verdict, field)
        rows.append(row)
    return pd.DataFrame(rows)


def compare_accuracy(
    first: pd.DataFrame,
    second: pd.DataFrame,
    ways: Sequence[str],
    group: str,
    about: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """How often each run's examples are answered right, by kind and by how they are asked.

    Examples with the same prompt and the same right answer are the same. Where a kind has
    `LEAST_N` or more of these, the runs are compared on them, as pairs; else on all that they
    have, as independent samples. Examples that share a prompt or what they are about are one piece
    of evidence, and intervals count them as such (clusters).

    Args:
        first, second: tables of examples (see `experiments.explorer.Examples`).
        ways: names of the ways of asking.
        group: the column that tells of which kind an example is.
        about: by way the column with what its prompts are about; "" or nothing where there is none.

    Returns:
        A row for each kind and way: n_a, right_a, low_a, high_a (share of right answers of what is
        compared, with its 95% interval), the same of b, n_shared, paired, and difference
        (a minus b) with difference_low and difference_high.
    """
    import pandas as pd

    from interp.stats import LEAST_N

    kinds = dict.fromkeys([*first[group], *second[group]])
    rows = []
    for kind in kinds:
        tables = {
            side: table[table[group] == kind] for side, table in (("a", first), ("b", second))
        }
        for way in ways:
            shared = _shared(tables, way, (about or {}).get(way, ""))
            paired = len(shared) >= LEAST_N
            hits = {
                side: shared[side] if paired else table[f"{way}_correct"]
                for side, table in tables.items()
            }
            if all(len(right) for right in hits.values()):
                names = [f"{way}_prompt", *filter(None, [(about or {}).get(way)])]
                of_pairs = [] if not paired else [_clusters(shared, names)] * 2
                clusters = of_pairs or [_clusters(table, names) for table in tables.values()]
                found = _row(hits, paired, (clusters[0], clusters[1]))
                rows.append({"kind": kind, "way": way, "n_shared": len(shared), **found})
    return pd.DataFrame(rows)


def _shared(tables: Mapping[str, pd.DataFrame], way: str, about: str) -> pd.DataFrame:
    """Whether each example of both is right in a and in b; what stands twice goes in order."""
    asked = [f"{way}_prompt", f"{way}_answer"]
    also = [about] if about else []
    numbered = [
        table[list(dict.fromkeys([*asked, *also, f"{way}_correct"]))]
        .rename(columns={f"{way}_correct": side})
        .assign(again=table.groupby(asked).cumcount())
        for side, table in tables.items()
    ]
    # What a prompt is about is told by the first run; the prompts are the same.
    numbered[1] = numbered[1].drop(columns=[name for name in also if name not in asked])
    return numbered[0].merge(numbered[1], on=[*asked, "again"])


def _clusters(table: pd.DataFrame, names: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """Which examples share a prompt or what they are about; None where none do."""
    from interp.stats import connected

    found = connected(*(table[name].astype(str).to_numpy() for name in names))
    return found if len(set(found.tolist())) < len(found) else None


def _row(
    hits: Mapping[str, pd.Series],
    paired: bool,
    clusters: tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64] | None],
) -> dict[str, object]:
    from interp.stats import proportion_interval, share_difference

    row: dict[str, object] = {"paired": paired}
    numbers = {side: right.to_numpy(dtype=float) for side, right in hits.items()}
    for (side, right), which in zip(numbers.items(), clusters, strict=True):
        low, high = proportion_interval(right, which)
        row |= {f"n_{side}": len(right), f"right_{side}": float(right.mean())}
        row |= {f"low_{side}": low, f"high_{side}": high}
    low, high = share_difference(numbers["a"], numbers["b"], paired=paired, clusters=clusters)
    difference = float(numbers["a"].mean() - numbers["b"].mean())
    return row | {"difference": difference, "difference_low": low, "difference_high": high}
