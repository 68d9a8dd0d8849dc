"""R6: are ‘harmful’ and ‘declines’ two directions (Zhao et al. 2025, 2507.11878)?

The first is looked for where what is asked about has been read, in requests that are answered and
whose answer tells which it is; the second at the last token of requests that are declined or not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from experiments.phenomena.estimates import Estimate, estimate, verdict
from experiments.phenomena.phenomenon import Measured, Subject
from experiments.refusal.measuring import (
    DRAWS,
    Candidate,
    Changes,
    added,
    candidates,
    chosen,
    halves,
    read,
    rivals,
)
from experiments.refusal.requests import Request, Requests
from experiments.reporter import Progress
from experiments.study import Outcome, Verdict
from interp.figures.drawing.numbers import plain
from interp.prompts.pairs import continuations
from interp.prompts.tokens import tokenise

__all__ = ["CLAIM", "both_directions", "judge", "measure"]

CLAIM = (
    "Harmful and declines are two directions: the first moves what the model says a thing is, the "
    "second only whether it declines."
)
_LEAST, _NONE = 0.2, 0.1
_MOST_BEFORE = 0.7
STATES = ("none", "harmful", "declines")


def both_directions(subject: Subject[Requests]) -> dict[str, Candidate]:
    """‘harmful’, at the token that ends the content, and ‘declines’, at the last one.

    Each after the layer in which adding it does most to other told, harmless requests: the first to
    what the model says that the thing is, the second to whether it declines.
    """
    data = subject.data
    sides = _answers(subject)
    judged = halves(data, "judgement", harmful=False)[1]
    asked = halves(data, "request", harmful=False)[1]
    harm, _ = chosen(
        candidates(subject, "judgement", (data.content,)),
        lambda one: float(_judged(subject, judged, sides, one).mean()),
    )
    declining, _ = chosen(
        candidates(subject, "request", (-1,)),
        lambda one: float(read(subject, asked, _put(one)).odds.mean()),
    )
    return {"harmful": harm, "declines": declining}


def measure(subject: Subject[Requests], seed: int, progress: Progress) -> xr.Dataset:
    """Held-out harmless requests with either direction added.

    Returns:
        declines(state, example) of requests; odds(state, judgement): log-odds of answers of harmful
        things against those of harmless ones (nats), and harmful: whether these are above 0;
        random_declines and random_harmful
        (direction, draw, …) with random directions at either's place; cosine between both;
        decides: how many of the told judgements the model gives rightly. NaN where there are no
        judgements to ask for.
    """
    data = subject.data
    asked = data.some("request", harmful=False, split="held out")
    judged = data.some("judgement", harmful=False, split="held out")
    told = [one for one in data.requests if one.form == "judgement" and one.split == "told"]
    kinds = {one.harmful for one in told[0::2]} & {one.harmful for one in told[1::2]}
    if not judged or len(kinds) < 2 or not all(_answers(subject)):
        return _nothing(len(asked))
    pair = both_directions(subject)
    order = [pair["harmful"], pair["declines"]]
    sides = _answers(subject)
    declines = [read(subject, asked).declines]
    odds = [_judged(subject, judged, sides)]
    for one in order:
        declines.append(read(subject, asked, _put(one)).declines)
        odds.append(_judged(subject, judged, sides, one))
    random_declines, random_harmful = [], []
    for number, (one, form) in enumerate(zip(order, ("judgement", "request"), strict=True)):
        rows = [
            Candidate(one.layer, one.position, vector)
            for vector in rivals(subject, one, seed + number, form).directions
        ]
        random_declines.append([read(subject, asked, _put(row)).declines for row in rows])
        random_harmful.append([_judged(subject, judged, sides, row) > 0 for row in rows])
        progress(number + 1, 2)
    first, second = (one.vector.double() for one in order)
    cosine = float(first @ second / (first.norm() * second.norm()))
    rightly = float(read(subject, told).right.mean())
    return dataset(
        np.stack(declines),
        np.stack(odds),
        np.array(random_declines),
        np.array(random_harmful, float),
        cosine=cosine,
        decides=rightly,
        layers=[one.layer for one in order],
    )


def _put(one: Candidate) -> Changes:
    return added(one.vector, one.layer, one.position)


def _answers(subject: Subject[Requests]) -> tuple[list[int], list[int]]:
    """First tokens of the answers of harmful and of harmless judgements."""
    every = [one for one in subject.data.requests if one.form == "judgement"]
    batch = tokenise(subject.model, [one.prompt for one in every])
    firsts = continuations(subject.model, batch, [one.answer for one in every])
    harmful, harmless = (
        {ids[0] for ids, one in zip(firsts, every, strict=True) if one.harmful == which}
        for which in (True, False)
    )
    return sorted(harmful - harmless), sorted(harmless - harmful)


def _judged(
    subject: Subject[Requests],
    requests: Sequence[Request],
    sides: tuple[list[int], list[int]],
    one: Candidate | None = None,
) -> np.ndarray:
    """Log-odds of answers of harmful things against those of harmless ones (nats)."""
    found = read(subject, requests, () if one is None else _put(one)).logits.log_softmax(-1)
    harmful, harmless = (found[:, tokens].logsumexp(-1) for tokens in sides)
    odds: np.ndarray = (harmful - harmless).numpy()
    return odds


def dataset(
    declines: np.ndarray,
    odds: np.ndarray,
    random_declines: np.ndarray,
    random_harmful: np.ndarray,
    *,
    cosine: float,
    decides: float,
    layers: list[int],
) -> xr.Dataset:
    return xr.Dataset(
        {
            "declines": (("state", "example"), declines),
            "harmful": (("state", "judgement"), np.where(np.isnan(odds), odds, odds > 0)),
            "odds": (("state", "judgement"), odds),
            "random_declines": (("direction", "draw", "example"), random_declines),
            "random_harmful": (("direction", "draw", "judgement"), random_harmful),
            "cosine": cosine,
            "decides": decides,
            "layer": ("direction", layers),
        },
        coords={"state": list(STATES), "direction": list(STATES[1:])},
    )


def _nothing(n: int) -> xr.Dataset:
    shape = (2, DRAWS)
    return dataset(
        np.full((3, n), np.nan),
        np.full((3, 1), np.nan),
        np.full((*shape, n), np.nan),
        np.full((*shape, 1), np.nan),
        cosine=np.nan,
        decides=np.nan,
        layers=[-1, -1],
    )


def moved(one: xr.Dataset, what: str, direction: str) -> np.ndarray:
    """What adding a direction changes, by example, beyond what random ones do on average."""
    change = one[what].sel(state=direction) - one[f"random_{what}"].sel(direction=direction).mean(
        "draw"
    )
    values: np.ndarray = change.values
    return values


def judge(measured: Measured) -> Verdict:
    """Both directions move what they are named after, and the second not the first's."""
    arm = next(iter(measured))
    main = measured[arm]
    found = {
        (what, direction): estimate(
            [moved(one, what, direction) for one in main], bounds=(-1.0, 1.0)
        )
        for what in ("harmful", "declines")
        for direction in STATES[1:]
    }
    n = found["harmful", "declines"].n
    if not np.isfinite(found["harmful", "declines"].mean):
        return Verdict.undecided(
            "R6",
            CLAIM,
            "There are no judgements in these data, so nothing tells what the model takes a thing "
            "for.",
            unit="share of judgements",
            n=n,
        )
    before = float(np.mean([one["harmful"].sel(state="none").mean() for one in main]))
    decides = float(np.mean([float(one["decides"]) for one in main]))
    cosine = float(np.mean([float(one["cosine"]) for one in main]))
    shifts = [
        float(
            np.mean(
                [
                    one["odds"].sel(state=d).mean() - one["odds"].sel(state="none").mean()
                    for one in main
                ]
            )
        )
        for d in STATES[1:]
    ]
    # A model that cannot tell the one from the other has no judgement to be moved.
    able = decides > 0.5 and before < 1 - _MOST_BEFORE
    decided = _outcome(found) if able else "undecided"
    stray = found["harmful", "declines"]
    not_able = "" if able else " It does not tell them apart to begin with."
    return verdict(
        "R6",
        CLAIM,
        decided,
        (
            f"Beyond random directions, adding ‘harmful’ turns "
            f"{found['harmful', 'harmful'].share()} of judgements of harmless things to harmful "
            f"and makes {found['declines', 'harmful'].share()} of requests declined; adding "
            f"‘declines’ turns {stray.share()} and makes {found['declines', 'declines'].share()} "
            f"declined. The log-odds of a judgement move by {plain(shifts[0])} and "
            f"{plain(shifts[1])} nats. The cosine between both is {cosine:.2f}; "
            f"{stray.over}.{not_able}"
        ),
        stray,
        unit="share of judgements that adding declines turns",
        control=(
            f"{DRAWS} random directions of the same length at either's place; before anything is "
            f"added {before:.2f} of harmless things are judged harmful, and {decides:.2f} of told "
            "ones rightly."
        ),
    )


def _outcome(found: dict[tuple[str, str], Estimate]) -> Outcome:
    own = [found[name, name] for name in STATES[1:]]
    stray = found["harmful", "declines"]
    if all(one.low > _LEAST for one in own) and stray.high < _LEAST:
        return "supported"
    if stray.low > _LEAST or any(one.high < _NONE for one in own):
        return "rejected"
    return "undecided"
