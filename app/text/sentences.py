"""What the screen says of a chosen cell, as plain sentences (not escaped)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.compute.along import Difference
from experiments.numbers import duration, percent, probability
from interp.figures.drawing import numbers, theme
from interp.figures.patching import site_name

_LISTED = 6  # tokens


def token(text: str) -> str:
    """A token in quotes, with its spaces made visible."""
    return f"‘{theme.shorten(theme.visible(text), 60)}’"


def unmatched(clean: Sequence[str], corrupt: Sequence[str]) -> str | None:
    """Which tokens have no counterpart in the other prompt; None where all have one."""
    told = []
    for names, which in ((clean, "clean"), (corrupt, "corrupted")):
        if names:
            listed = ", ".join(token(name) for name in names[:_LISTED])
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            told.append(f"{listed}{more} of the {which} prompt")
    if not told:
        return None
    n = len(clean) + len(corrupt)
    verb, what = ("has", "it") if n == 1 else ("have", "them")
    grey = "; grey columns stand for those of the clean one" if clean else ""
    return (
        f"{' and '.join(told)} {verb} no counterpart in the other prompt, so nothing is patched "
        f"for {what}{grey}."
    )


def number(value: float) -> str:
    """One decimal (two below 1), with a true minus sign."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}"
    return text.replace("-", "−")


def interval(ends: tuple[float, float]) -> str:
    """The interval of a share in brackets, with a space after it; nothing where there is none."""
    if not all(map(math.isfinite, ends)):
        return ""
    return f"[{percent(ends[0])}, {percent(ends[1])}] "


def lens(layer: int, position: int, read: str, best: str, p: float, rank: int | None) -> str:
    """What a lens shows in one cell.

    Args:
        layer: blocks passed; these are named from 0.
        rank: tokens that are likelier than the answer's first one.
    """
    stage = f"After {layer} blocks (0 {'and' if layer == 2 else 'to'} {layer - 1})"
    if layer < 2:
        stage = "After 1 block (block 0)" if layer else "At the embedding"
    said = f"{stage}, at {token(read)} (token {position}), the next token would be {token(best)} "
    said += f"({probability(p)})"
    if rank is None or rank < 0:
        return f"{said}."
    return f"{said}; the answer’s first token is at rank {numbers.rank(rank)}."


def carried(
    layer: int,
    read: str,
    written: str,
    ways: tuple[str, str],
    answer: str,
    ranks: tuple[int, int, int],
) -> str:
    """What a vector does that is carried from one question into another.

    Args:
        layer: of the block that it stands before.
        read, written: the token it is read at, and the one it is put at.
        ways: titles of the way that it is read in, and of the way that it is put into.
        ranks: of the answer's first token, from 0: without it, with it, and with the one of another
            example.
    """
    before, after, control = (numbers.rank(rank) for rank in ranks)
    moved = "stays at" if ranks[0] == ranks[1] else f"goes from rank {before} to"
    return (
        f"{ways[0]}, what stands at {token(read)} before block {layer}, put at {token(written)} of "
        f"the question {ways[1].lower()}: its answer {token(answer)} {moved} rank {after}; with "
        f"the vector of another example it is at rank {control}. One example, so no more than that."
    )


def written(share: float, whole: float, answer: str, foil: str, among: int) -> str:
    """What a component adds to the answer's logit minus the foil's, of how much."""
    return (
        f"Of the logit difference of the first tokens of {token(answer)} and {token(foil)}, "
        f"{number(whole)}, it writes {number(share)} directly. Tokens are the highest of {among:,}."
    )


def patch(
    site: str,
    layer: int,
    *,
    clean_token: str | None,
    corrupt_token: str | None,
    label: str | None,
    head: int | None,
    patched: float,
    clean: float,
    corrupt: float,
    metric: str = "logit difference",
    share: float | None = None,
    reason: str = "",
    estimated: bool = False,
) -> str:
    """What one patch did: from where to where, and how much of the way.

    Args:
        estimated: whether it was estimated and not run.
        share: how much of the way, on average over pairs whose effect is clear of zero; None for
            a single pair, of which nothing can be said.
        reason: why there is no share, where one could be looked for.
    """
    what = f"the {site_name(site)} {layer}" if head is None else f"head {head} of block {layer}"
    where = ""
    if clean_token is not None:
        where = f" at {token(clean_token)}"
        if corrupt_token is not None and corrupt_token != clean_token:
            where += f" over {token(corrupt_token)}"
        where += f" ({label})" if label else ""
    said = f"Patching {what}{where} moves the {metric} from {number(corrupt)} to {number(patched)}"
    if estimated:
        said = f"By estimate, p{said[1:]}"
    if share is None or not math.isfinite(share):
        return f"{said}; in the clean run it is {number(clean)}.{' ' if reason else ''}{reason}"
    return f"{said}: {percent(share)} of the way to the clean run’s {number(clean)}."


def circuit(
    n_edges: int,
    all_edges: int,
    share: float,
    random: Sequence[float],
    rest: float,
    *,
    interval: tuple[float, float] = (math.nan, math.nan),
    reason: str = "",
) -> str:
    """What a circuit does when it is run, beside random ones of its size and all other edges.

    Args:
        interval: of the share.
        reason: why there is no share, where it is NaN.
    """
    if not math.isfinite(share):
        return f"These are {n_edges:,} of {all_edges:,} edges. {reason}"
    said = f"{n_edges:,} of {all_edges:,} edges do {percent(share)} of what the whole model does"
    if all(map(math.isfinite, interval)):
        said += f" (95% interval {percent(interval[0])} to {percent(interval[1])})"
    mean = sum(random) / len(random)
    said += f"; random circuits of that size {percent(mean)} on average (each of them between "
    said += f"{percent(min(random))} and {percent(max(random))}), all other edges {percent(rest)}."
    return said


def trust(n_cells: int, correlation: float, sign_flips: float) -> str | None:
    """How far a map's estimates agree with the cells that were run; None where too few were."""
    if not math.isfinite(correlation):
        return None
    said = f"Estimates against the {n_cells:,} cells that were run: correlation {correlation:.2f}"
    if math.isfinite(sign_flips):
        said += f", {percent(sign_flips)} of signs wrong"
    return f"{said}.".replace("-", "−")


def time_left(seconds: float | None) -> str:
    """How long something will still take, roughly; nothing where that is not known."""
    if seconds is None:
        return ""
    if seconds < 1.5:
        return ", nearly done"
    return f", about {duration(seconds)} left"


def apart(found: Difference, value: str, titles: Sequence[str], many: str) -> str:
    """By how much both ways of asking differ at a step, where that is sure; else that it is not.

    Args:
        found: over pairs; of "rank" its log2.
        value: "correct", "preference" or "rank".
        titles: of the two ways, within a sentence.
    """
    over = f"{found.n} {many}, paired"
    unit = {"correct": " points", "rank": ""}.get(value, " nats")
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"No difference between both ways is told: there is no interval ({over})."
    if not found.clear:
        interval = f"{_apart(found.low, value)} to {_apart(found.high, value)}{unit}"
        none = "1" if value == "rank" else "0"
        return (
            f"No difference between both ways is told: its 95% interval, {interval}, holds {none} "
            f"({over})."
        )
    first, second = titles if (found.mean > 0) != (value == "rank") else titles[::-1]
    what = {
        "correct": "answers are right more often",
        "rank": "the right first token stands higher",
    }.get(value, "the right first token is preferred more")
    ends = sorted((abs(found.low), abs(found.high)))
    size = _apart(abs(found.mean), value)
    if value == "rank":
        size = f"a factor of {size}"
    interval = f"95%: {_apart(ends[0], value)} to {_apart(ends[1], value)}"
    return f"{first.capitalize()}, {what} than {second}: by {size}{unit} ({interval}; {over})."


def _apart(number: float, value: str) -> str:
    if value == "rank":
        return f"{2**number:.2g}"
    text = f"{100 * number:.1f}" if value == "correct" else f"{number:.2f}"
    return text.replace("-", "−")
