"""The figures that every run of the study has, drawn from what it stores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from experiments.figure import Figure, counted, of_median, of_share
from experiments.organisms.facts import DIRECTIONS, Direction, Fact
from experiments.reversal_curse.patch import SITES
from experiments.reversal_curse.prompts import questions
from interp.figures import accuracy_bars, direction_scatter, patching_map, rank_lines

__all__ = [
    "ACCURACY",
    "LOGPROBS",
    "MARGINS",
    "RANKS",
    "SPLITS",
    "change_map",
    "main_split",
    "maps",
    "one_of_each",
    "ranks",
]

SPLITS = {
    "forward": "learned forward only",
    "reverse": "learned in reverse only",
    "both": "learned both ways",
    "held_out": "never learned",
    "unknown": "given facts",
}
"""How facts were told, in words."""
# Which split stands for the curse, where there are several.
_MAIN = ("forward", "unknown", "reverse", "both", "held_out")
_SITE_TITLES = {
    "resid_pre": "Residual stream, by token",
    "mlp_out": "MLP output, by token",
    "attn_out": "Attention output, by token",
    "z": "Heads",
}
# The half page that one of two figures takes.
_HALF = 540
# Logits. A change of one is a factor of e in the odds; less is not worth a strong colour.
_LEAST_SCALE = 1.0


def main_split(splits: Sequence[str]) -> str:
    """The split that the figures of lens and patching are about."""
    return min(set(splits), key=_MAIN.index)


def ranks(facts: pd.DataFrame, forward: xr.Dataset, reverse: xr.Dataset) -> go.Figure:
    """Rank of the answer by layer: both directions of the main split, and the reverse of "both".

    Args:
        facts: the table of facts of a run.
        forward, reverse: `lens_forward` and `lens_reverse` of that run.
    """
    lines = _lines(facts, forward, reverse)
    return rank_lines(lines, chance=forward.attrs.get("d_vocab"))


def _lines(facts: pd.DataFrame, forward: xr.Dataset, reverse: xr.Dataset) -> dict[str, xr.Dataset]:
    """What each line is over, by its name: an example for each question."""
    main = main_split([str(split) for split in facts["split"]])
    known = [
        Fact(*map(str, row))
        for row in facts[["subject", "object", "relation", "inverse", "split"]].to_numpy()
    ]
    lines: dict[str, xr.Dataset] = {}
    for direction, lens in zip(DIRECTIONS, (forward, reverse), strict=True):
        rows = np.nonzero(lens["split"].values == main)[0]
        lines[direction] = lens.isel(example=one_of_each(known, lens, direction, rows))
    both = np.nonzero(reverse["split"].values == "both")[0]
    if len(both) and main != "both":
        kept = one_of_each(known, reverse, "reverse", both)
        lines["reverse, learned both ways"] = reverse.isel(example=kept)
    return lines


def one_of_each(
    facts: Sequence[Fact], lens: xr.Dataset, direction: Direction, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Of the facts that ask the same the one whose answer the last layer ranks best.

    Any of a question's right answers will do, and a median counts questions.
    """
    asks = np.array(questions(facts, direction))[rows]
    last = lens["answer_rank"].isel(layer=-1).values[rows]
    best = rows[np.lexsort((last, asks))]
    first = np.unique(np.sort(asks), return_index=True)[1]
    kept: npt.NDArray[np.int64] = np.sort(best[first])
    return kept


def _asked_by_line(facts: pd.DataFrame, forward: xr.Dataset, reverse: xr.Dataset) -> str:
    lines = _lines(facts, forward, reverse)
    return counted((one.sizes["example"] for one in lines.values()), "question") + " a line"


def _beside_ranks(facts: pd.DataFrame, forward: xr.Dataset, reverse: xr.Dataset) -> str:
    both = [name for name in _lines(facts, forward, reverse) if "both ways" in name]
    told = ["questions about facts that were learned both ways"] if both else []
    if forward.attrs.get("d_vocab"):
        told.insert(0, "the dotted line, the median rank of a random guess")
    return "; and ".join(told) or "none"


def change_map(
    forward: xr.Dataset, reverse: xr.Dataset, *, direction: Direction, split: str
) -> go.Figure:
    """How far patching a site moves the answer, over facts of a split asked in a direction.

    Args:
        forward, reverse: the maps of that site. All that are drawn of them share one scale, or an
            empty map would be stretched until its noise looks like a signal.
    """
    by_direction = {"forward": forward, "reverse": reverse}
    drawn = {
        (way, told): result.isel(example=np.nonzero(result["split"].values == told)[0])
        for way, result in by_direction.items()
        for told in dict.fromkeys(str(each) for each in result["split"].values)
    }
    shown = [drawn[way, told] for way, told in _panels([told for _, told in drawn])]
    limit = max(_LEAST_SCALE, *map(_reach, shown))
    return patching_map(drawn[direction, split], value="change", limit=limit, width=_HALF)


def _panels(splits: Sequence[str]) -> list[tuple[Direction, str]]:
    """The maps of a row: the main split asked both ways, and what was told both ways in reverse."""
    main = main_split(splits)
    panels: list[tuple[Direction, str]] = [("forward", main), ("reverse", main)]
    return panels + ([("reverse", "both")] if "both" in splits and main != "both" else [])


def _pairs(forward: xr.Dataset, reverse: xr.Dataset, *, direction: Direction, split: str) -> str:
    """How many pairs a map of `change_map` is over, and its emptiest cell."""
    result = forward if direction == "forward" else reverse
    patched = result["patched"].values[result["split"].values == split]
    cells = np.isfinite(patched).sum(0)
    least = int(cells[cells > 0].min(initial=len(patched)))
    few = f", {least:,} in a cell whose token some lack" if least < len(patched) else ""
    return counted([len(patched)], "pair") + few


def _reach(result: xr.Dataset) -> float:
    change = (result["patched"] - result["corrupt"]).mean("example", skipna=True)
    return float(np.nanmax(np.abs(change.values), initial=0.0))


def maps(splits: Sequence[str]) -> list[tuple[str, list[Figure]]]:
    """A row of maps for each site, with its heading.

    Args:
        splits: of the facts that were patched.
    """
    rows = []
    for site, title in _SITE_TITLES.items():
        figures = [
            Figure(
                f"patching-{direction}-{split}-{site}",
                f"{title}, {direction}",
                tuple(f"patching_{way}_{site}" for way in DIRECTIONS),
                change_map,
                f"{title}: change of the answer by patching, asked {direction}",
                _CELLS,
                {"direction": direction, "split": split},
                shows=_shows(direction, split, site),
                n=_pairs,
                interval="none is drawn: each cell is a mean over pairs",
                control="the corrupted run, which is 0; all maps of a row have one scale",
            )
            for direction, split in _panels(splits)
        ]
        rows.append((title, figures))
    return rows


_CELLS = (
    "Green: a patch moves the answer of the clean prompt up against the other one; purple: down. "
    "Point at a cell for the logits themselves."
)


def _shows(direction: Direction, split: str, site: str) -> str:
    way = "Asked forward" if direction == "forward" else "Asked in reverse"
    told = f", facts {SPLITS[split]}" if split != "unknown" else ""
    cell = f"layer and {'head' if SITES[site] == 'head' else 'token'}"
    return f"{way}{told}: logits that a patch moves the answer by, for each {cell}."


def _known(facts: pd.DataFrame) -> str:
    seen = np.isfinite(facts[["forward_margin", "reverse_margin"]].to_numpy(dtype=float)).all(1)
    left = len(seen) - int(seen.sum())
    without = f"; {left:,} without other names to compare with are left out" if left else ""
    return counted([int(seen.sum())], "fact") + without


def _never_learned(table: pd.DataFrame) -> str:
    """Of the facts, or of the accuracy by split."""
    there = (table["split"] == "held_out").any()
    return (
        "facts that were never learned"
        if there
        else "none: each of these facts may have been learned"
    )


def _beside_margins(facts: pd.DataFrame) -> str:
    never = "; and facts that were never learned" if (facts["split"] == "held_out").any() else ""
    return f"0: other names of the same kind in its place{never}"


def _both_ways(facts: pd.DataFrame, value: str) -> str:
    seen = np.isfinite(facts[[f"forward_{value}", f"reverse_{value}"]].to_numpy(dtype=float))
    return counted([int(seen.all(1).sum())], "fact")


def _unlearned(facts: pd.DataFrame, value: str) -> str:
    return _never_learned(facts)


def _asked(accuracy: pd.DataFrame) -> str:
    counts = "questions" if "questions" in accuracy else "facts"  # as older runs have it
    return counted(accuracy[counts], counts[:-1]) + " a bar, each in several wordings"


MARGINS = Figure(
    "margins",
    "Every fact",
    ("facts",),
    direction_scatter,
    "Margin asked forward against margin asked in reverse, one point a fact",
    "The margin is the log-probability of the whole right name minus the mean over other names. "
    "To the right of zero a fact is known asked forward, above zero asked in reverse: a cursed "
    "fact lies on one of the axes, one that is known both ways in the upper right.",
    selects=True,
    shows="How well each fact is known, asked forward and in reverse.",
    n=_known,
    interval="none: each point is one fact",
    control=_beside_margins,
)
LOGPROBS = Figure(
    "logprobs",
    "Log-probabilities",
    ("facts",),
    direction_scatter,
    "Log-probability of the right name asked forward against asked in reverse, one point a fact",
    "The log-probability of the whole right name, given the question. A name that is rare in any "
    "context has a low one, too: margins, beside these, hold each against other names.",
    options={"value": "logprob"},
    selects=True,
    shows="How likely the right name is, asked forward and in reverse.",
    n=_both_ways,
    interval="none: each point is one fact",
    control=_unlearned,
)
ACCURACY = Figure(
    "accuracy",
    "Accuracy",
    ("accuracy",),
    accuracy_bars,
    "Accuracy by split, direction and wording",
    "Groups are what a fact was learned as, colours how it is asked. An answer is right if greedy "
    "decoding gives the whole name.",
    shows="Share of questions that are answered right.",
    n=_asked,
    interval=of_share("questions"),
    control=_never_learned,
)
RANKS = Figure(
    "ranks",
    "Rank by layer",
    ("facts", "lens_forward", "lens_reverse"),
    ranks,
    "Median rank of the answer by layer, asked forward and in reverse",
    "The last position’s residual stream is read through the final norm and unembedding (logit "
    "lens); rank 1 is the model’s first choice. A fact that was suppressed would come up in the "
    "middle and go down again.",
    shows="Rank of the answer’s first token after each block, median over questions.",
    n=_asked_by_line,
    interval=f"{of_median('questions')}, at each layer for itself",
    control=_beside_ranks,
)
