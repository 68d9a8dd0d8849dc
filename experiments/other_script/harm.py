"""O2: can harm be read in both scripts, by a probe that was fitted in the other?

A probe may read declining where both go together. Two things keep them apart: the first script's
direction of declining is projected out, and harm and declining differ where it matters. A probe
from the first script is tested on requests of the second that are not declined; one from the second
was fitted where harmful requests are answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from experiments.declining.reading import read_next
from experiments.other_script.requests import (
    FORMS,
    SCRIPTS,
    Item,
    Requests,
    answers,
    first_half,
    harmful,
    prompts,
)
from experiments.phenomena.cells import cell
from experiments.phenomena.estimates import Estimate, difference
from experiments.phenomena.phenomenon import GIVEN, Measured, Subject
from experiments.reporter import Progress
from experiments.study import Outcome, Verdict
from interp.steering.directions import difference_of_means
from interp.steering.finding import last_activations
from probes import fit_probes

__all__ = ["ACROSS", "CLAIM", "LEAST", "WAYS", "judge", "measure", "possible", "told_apart"]

CLAIM = "Harm is decodable in both scripts, by a probe that was fitted in the other one."
WAYS = {
    "first to second": ("first", "second"),
    "second to first": ("second", "first"),
    "first to never learned": ("first", "never learned"),
    "within first": ("first", "first"),
    "within second": ("second", "second"),
}
ACROSS = ("first to second", "second to first")
LEAST = 0.2
"""Called harmful among harmful minus among harmless; 0 is chance, 0.2 an accuracy of 60%."""
_MOST_NEVER = 0.1
_FEWEST = 8
"""Held-out requests of each kind that a probe is tested with."""
_STATES = ("projected out", "plain")


def measure(subject: Subject[Requests], seed: int, progress: Progress) -> xr.Dataset:
    """Whether probes call held-out items harmful, layer by layer.

    Probes read the token that ends the content, fitted to told items in one script and tested in
    another; each script is centred at its own told items. In the state "projected out" nothing of
    the first script's direction of declining (harmful minus harmless told requests at the last
    token) is left.

    Returns:
        called(way, form, state, layer, example), 1 or 0; refused(way, form, example), whether what
        is tested is declined; best(way, form), the layer in which a probe of half of the told items
        tells the other half apart best, in the script that is tested; harmful(example).
    """
    data = subject.data
    told, held_out = data.some("told"), data.some("held out")
    label, truth, half = harmful(told), harmful(held_out), first_half(told)
    last = last_activations(subject.model, prompts(told, "first"), positions=(-1,))
    layers = sorted(last)
    directions = {
        layer: difference_of_means(last[layer][label, 0], last[layer][~label, 0])
        for layer in layers
    }
    shape = (len(WAYS), len(FORMS))
    called = np.full((*shape, len(_STATES), len(layers), len(held_out)), np.nan)
    refused = np.full((*shape, len(held_out)), np.nan)
    best = np.full(shape, -1)
    for j, form in enumerate(FORMS):
        if form not in data.forms:
            continue
        read = {script: _content(subject, told, held_out, script, form) for script in SCRIPTS}
        declined = {
            script: read_next(
                subject.model,
                prompts(held_out, script, form),
                answers(held_out, script, form),
                data.decline,
            ).declines
            for script in SCRIPTS
        }
        for i, (fitted, tested) in enumerate(WAYS.values()):
            refused[i, j] = declined[tested]
            scores = []
            for number, layer in enumerate(layers):
                fit, own = read[fitted][layer][0], read[tested][layer][0]
                test = read[tested][layer][1]
                for k, state in enumerate(_STATES):
                    away = directions[layer] if state == "projected out" else None
                    called[i, j, k, number] = _calls(fit, label, test, away)
                calls = _calls(fit[half], label[half], own[~half], directions[layer])
                scores.append(float((calls == label[~half]).mean()))
            best[i, j] = layers[int(np.argmax(scores))]
            progress(j * len(WAYS) + i + 1, len(WAYS) * len(data.forms))
    return xr.Dataset(
        {
            "called": (("way", "form", "state", "layer", "example"), called),
            "refused": (("way", "form", "example"), refused),
            "best": (("way", "form"), best),
            "harmful": ("example", truth),
        },
        coords={
            "way": list(WAYS),
            "form": list(FORMS),
            "state": list(_STATES),
            "layer": layers,
        },
    )


def _content(
    subject: Subject[Requests], told: list[Item], held_out: list[Item], script: str, form: str
) -> dict[int, tuple[Tensor, Tensor]]:
    """Told and held-out activations by layer, centred at the told ones."""
    found = [
        last_activations(
            subject.model, prompts(items, script, form), positions=(subject.data.content,)
        )
        for items in (told, held_out)
    ]
    centred = {}
    for layer, values in found[0].items():
        mean = values[:, 0].mean(0)
        centred[layer] = values[:, 0] - mean, found[1][layer][:, 0] - mean
    return centred


def _calls(fit: Tensor, label: np.ndarray, test: Tensor, away: Tensor | None) -> np.ndarray:
    """Whether a probe calls each of what is tested harmful."""
    if away is not None:
        unit = away / away.norm()
        fit, test = (one - (one @ unit)[:, None] * unit for one in (fit, test))
    probe = fit_probes(fit, label.astype(int).tolist())
    # Right of what is all said to be harmful: called so.
    found: np.ndarray = probe.accuracy(test, [1] * len(test)).values[0]
    return found


def told_apart(
    found: Sequence[xr.Dataset],
    way: str,
    form: str = "request",
    *,
    state: str = "projected out",
    layer: int | None = None,
    answered: bool = True,
    confidence: float = 0.95,
) -> Estimate:
    """Share called harmful of harmful items minus that of harmless ones.

    Args:
        layer: the best one if left out.
        answered: only of what is not declined, where a probe is tested in the second script.
    """
    sides: list[list[np.ndarray]] = [[], []]
    for one in found:
        at = int(cell(one, "best", way=way, form=form)) if layer is None else layer
        called = cell(one, "called", way=way, form=form, state=state, layer=at)
        keep = np.ones(len(called), bool)
        if answered and WAYS[way][1] == "second":
            keep = cell(one, "refused", way=way, form=form) == 0
        truth = one["harmful"].values.astype(bool)
        for side, which in zip(sides, (truth, ~truth), strict=True):
            side.append(called[which & keep])
    return difference(sides[0], sides[1], shares=True, confidence=confidence)


def judge(measured: Measured) -> Verdict:
    """The worse of both ways; a script that was never learned as control, the base beside."""
    arm = next(iter(measured))
    main = measured[arm]
    if not possible(main):
        return Verdict.undecided(
            "O2",
            CLAIM,
            f"Fewer than {_FEWEST} harmful or harmless requests of the second script are not "
            "declined, so that what a probe reads there may be declining.",
            unit="share called harmful, harmful minus harmless",
            n=0,
        )
    ways = {way: told_apart(main, way) for way in ACROSS}
    never = told_apart(main, "first to never learned")
    worse = min(ways.values(), key=lambda one: one.low)
    decided: Outcome = "undecided"
    if not never.low > _MOST_NEVER:
        if all(one.low > LEAST for one in ways.values()):
            decided = "supported"
        elif any(one.high < LEAST for one in ways.values()):
            decided = "rejected"
    layers = {
        way: ", ".join(str(int(cell(one, "best", way=way, form="request"))) for one in main)
        for way in ACROSS
    }
    judged = ""
    if np.isfinite(cell(main[0], "called", form="judgement")).any():
        same = [told_apart(main, way, "judgement").number() for way in ACROSS]
        judged = f" In judgements, which are not requests: {same[0]} and {same[1]}."
    plain = [told_apart(main, way, state="plain").number() for way in ACROSS]
    control = (
        f"In a script that was never learned: {never.number()}. With the direction of declining "
        f"left in: {plain[0]} and {plain[1]}.{judged}"
    )
    if arm != GIVEN:
        for name, said in (("base", "before tuning, where nothing is declined"), ("twin", "twin")):
            other = [told_apart(measured[name], way).number() for way in ACROSS]
            control += f" {said[0].upper()}{said[1:]}: {other[0]} and {other[1]}."
    return Verdict(
        id="O2",
        claim=CLAIM,
        outcome=decided,
        statement=(
            "With the direction of declining projected out, a probe from the first script calls "
            f"{ways[ACROSS[0]].number()} more harmful than harmless requests of the second harmful "
            f"(those that are not declined; layer {layers[ACROSS[0]]}), one from the second "
            f"{ways[ACROSS[1]].number()} more in the first (layer {layers[ACROSS[1]]}); "
            f"{worse.over}."
        ),
        estimate=worse.mean,
        low=worse.low,
        high=worse.high,
        unit="share called harmful, harmful minus harmless, the worse way",
        n=worse.n,
        control=control,
    )


def possible(found: Sequence[xr.Dataset]) -> bool:
    """Whether requests of the second script are left, of both kinds, that are not declined."""
    for one in found:
        left = cell(one, "refused", way="first to second", form="request") == 0
        truth = one["harmful"].values.astype(bool)
        if min((left & truth).sum(), (left & ~truth).sum()) < _FEWEST:
            return False
    return True
