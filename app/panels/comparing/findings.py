"""What two runs of one study conclude, and how often each is right."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import pandas as pd

from app.runs import Run
from app.screen import parts
from app.text import markup, two_snippets
from experiments.explorer import Examples
from experiments.numbers import percent
from experiments.two_runs import compare_accuracy, compare_verdicts


def show(
    runs: tuple[Run, Run], examples: tuple[Examples, pd.DataFrame, pd.DataFrame] | None
) -> None:
    """Verdicts and accuracies.

    Args:
        examples: what the study tells of them, with the table of either run, if both have one.
    """
    paths = runs[0].record.path, runs[1].record.path
    verdicts = compare_verdicts(runs[0].record.verdicts, runs[1].record.verdicts)
    parts.html(
        markup.heading(
            "Verdicts",
            "Each run’s own. That one is clear and the other is not is no test of their "
            "difference: look at how far the intervals overlap.",
        )
    )
    if verdicts.empty:
        parts.html(markup.hint("Neither run is finished, so there are no verdicts."))
    else:
        parts.html(_verdict_table(verdicts))
        parts.export("compare-verdicts", lambda: verdicts, two_snippets.verdicts(paths))
    if examples is None:
        return
    told, first, second = examples
    ways = [way.name for way in told.ways]
    about = {way.name: way.about for way in told.ways}
    accuracy = compare_accuracy(first, second, ways, told.group, about)
    if accuracy.empty:
        return
    titles = {way.name: way.title for way in told.ways}
    parts.html(
        markup.heading(
            "How often the answer is right",
            f"Of {told.many} with the same prompt and answer in both, where there are five or more "
            "of these; else of all. Those that share a prompt or what they are about count as one. "
            "Differences are in percentage points, grey where the 95% interval holds 0.",
        )
    )
    parts.html(_accuracy_table(accuracy, titles, told.many))
    parts.export(
        "compare-accuracy",
        lambda: accuracy,
        two_snippets.accuracy(paths, told.table, ways, told.group, about),
    )


def _verdict_table(rows: pd.DataFrame) -> str:
    cells = [_row("", "Hypothesis", "A", "B", head=True)]
    for row in rows.to_dict("records"):
        sides = [_verdict(row, side) for side in ("a", "b")]
        differs = row["outcome_a"] != row["outcome_b"]
        claim = markup.esc(row["claim"])
        if not row["same_claim"]:
            claim += " <i>(in other words in B)</i>"
        mark = '<span class="ob-differs" title="The outcomes differ">≠</span>' if differs else ""
        name = f"<b>{markup.esc(row['id'])}</b> {mark}"
        cells.append(_row(name, claim, *sides))
    return f'<table class="ob-table">{"".join(cells)}</table>'


def _verdict(row: Mapping[Hashable, object], side: str) -> str:
    outcome = row[f"outcome_{side}"]
    if not isinstance(outcome, str):
        return '<span class="ob-small">not in this run</span>'
    badge = markup.badge(outcome)
    numbers = [row[f"{name}_{side}"] for name in ("estimate", "low", "high")]
    estimate, low, high = (_number(value) for value in numbers)
    if estimate is None:
        return badge
    share = str(row[f"unit_{side}"]).startswith("share")
    ends = () if low is None or high is None else (low, high)
    said, *interval = markup.quantities((estimate, *ends), share)
    told = f"<b>{said}</b>"
    if interval:
        told += f" [{interval[0]}, {interval[1]}]"
    confidence = _number(row[f"confidence_{side}"]) or 0.95
    n = f"n\u00a0=\u00a0{row[f'n_{side}']:.0f}"
    about = f"{row[f'unit_{side}']}, {percent(confidence)} interval, {n}"
    title = markup.esc(row[f"statement_{side}"])
    return (
        f'{badge} <span class="number" title="{title}" tabindex="0">{told}</span>'
        f'<div class="ob-small">{markup.esc(about)}</div>'
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _accuracy_table(rows: pd.DataFrame, titles: dict[str, str], many: str) -> str:
    cells = [_row("Kind", "", "A", "B", "A minus B", head=True)]
    for row in rows.to_dict("records"):
        sides = [
            f"<b>{percent(row[f'right_{s}'])}</b> [{percent(row[f'low_{s}'])}, "
            f'{percent(row[f"high_{s}"])}]<div class="ob-small">n = {row[f"n_{s}"]}</div>'
            for s in ("a", "b")
        ]
        low, high = row["difference_low"], row["difference_high"]
        clear = low > 0 or high < 0
        told = f"{_points(row['difference'])} points [{_points(low)}, {_points(high)}]"
        how = "same " if row["paired"] else "other "
        difference = (f"<b>{told}</b>" if clear else f'<span class="ob-grey">{told}</span>') + (
            f'<div class="ob-small">{markup.esc(how + many)}</div>'
        )
        kind = markup.esc(str(row["kind"]).replace("_", " "))
        way = markup.esc(titles[str(row["way"])])
        cells.append(_row(kind, way, *sides, difference))
    return f'<table class="ob-table">{"".join(cells)}</table>'


def _points(share: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * share:+.0f}".replace("-", "−") if math.isfinite(share) else "–"


def _row(*cells: str, head: bool = False) -> str:
    tag = "th" if head else "td"
    scope, row = ' scope="col"' if head else "", ""
    for cell in cells:
        wide = ' class="wide"' if head and cell in ("A", "B", "A minus B") else ""
        row += f"<{tag}{scope}{wide}>{cell}</{tag}>"
    return f"<tr>{row}</tr>"
