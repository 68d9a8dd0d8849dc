"""The difference of two patching maps, on a colour scale of its own."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import xarray as xr

from app.compute.comparing import Matched
from app.screen import parts
from app.screen.told import Check, Told, together
from app.text import markup
from experiments.explorer import Examples, Pair
from interp.figures import contrast_map
from interp.figures.contrast import shared_places

NAME = "compare-difference"


def of_runs(found: Matched, examples: Examples, code: str) -> None:
    """One run's mean map minus another's."""
    layers = [one["layer"].values.tolist() for one in (found.first, found.second)]
    if layers[0] != layers[1]:
        parts.html(markup.hint(_other_depth(len(layers[0]), len(layers[1]))))
        return
    n = found.first.sizes["example"], found.second.sizes["example"]
    each = "of paired differences" if found.paired else "of the difference of two independent means"
    _draw(
        found.first,
        found.second,
        paired=found.paired,
        code=code,
        told=Told(
            shows="By how much more a patch moves the answer in A than in B (green), or less "
            "(purple). Each cell by itself: where nothing differs, about one in twenty has colour.",
            n=f"{n[0]} {examples.many}" if found.paired else f"{n[0]} in A, {n[1]} in B",
            interval=f"95% {each}; grey where it holds 0",
            control="each pair’s own corrupted run",
            checks=(_sums(found),) if found.paired else (),
        ),
    )


def of_pairs(
    first: xr.Dataset,
    second: xr.Dataset,
    pairs: tuple[Pair, Pair],
    code: str,
    checks: tuple[Sequence[Check], Sequence[Check]],
) -> None:
    """The map of one pair minus that of another one, or of the same one in another model.

    Args:
        checks: what was checked of either map; a difference is no better than what it is of.

    Raises:
        SiteError: they have no place in common.
    """
    told = "The same pair in both." if pairs[0] == pairs[1] else "Two pairs, at places both have"
    if pairs[0] != pairs[1] and "position_label" in first.coords:
        n = [one.sizes["position"] for one in (first, second)]
        told += f": {len(shared_places(first, second))}, of {n[0]} in A and {n[1]} in B."
    elif pairs[0] != pairs[1]:
        told += "."
    _draw(
        first,
        second,
        paired=True,
        code=code,
        told=Told(
            shows="By how much more a patch moves the answer in A than in B (green), or less "
            f"(purple). {told}",
            n="1 pair in each",
            interval="none: one pair, and others may differ",
            control="the pair’s own corrupted run",
            checks=together({"A": checks[0], "B": checks[1]}),
        ),
    )


def _draw(first: xr.Dataset, second: xr.Dataset, *, paired: bool, code: str, told: Told) -> None:
    parts.html(markup.heading("A minus B", "On a colour scale of its own, with 0 in its middle."))
    parts.figure(
        contrast_map(first, second, paired=paired, width=parts.width(1)).update_layout(
            dragmode="zoom"
        ),
        NAME,
        data=lambda: _rows(first, second),
        code=code,
        alt="By how much more patches move the answer in A than in B",
        told=told,
    )


def _rows(first: xr.Dataset, second: xr.Dataset) -> pd.DataFrame:
    frames = []
    for name, one in (("A", first), ("B", second)):
        frame = one.to_dataframe().reset_index()
        frames.append(frame[frame["patched"].notna()].assign(side=name))
    return pd.concat(frames, ignore_index=True)


def _sums(found: Matched) -> Check:
    """The two maps above and the one below are of the same pairs."""
    same = all(
        found.first[name].values.tolist() == found.second[name].values.tolist()
        for name in ("clean_prompt", "corrupt_prompt", "answer", "foil")
    )
    n = found.first.sizes["example"]
    said = f"Prompts and answers of all {n} pairs are the same in A and in B"
    return Check("Same questions", same, f"{said}." if same else f"Not so: {said}.")


def _other_depth(one: int, other: int) -> str:
    return (
        f"A has {one} blocks and B {other}: a block of the one stands for none of the other, so "
        "the maps are not subtracted."
    )
