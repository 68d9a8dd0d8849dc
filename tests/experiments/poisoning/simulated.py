"""Results of the study of poisoning, simulated with a known truth."""

from __future__ import annotations

import numpy as np
import xarray as xr

from experiments.phenomena.phenomenon import Measured
from experiments.poisoning.organism import (
    CELLS,
    CLEAN_TWIN,
    DRILLED,
    EQUAL_STEPS,
    GRID,
    POISONED,
    SECOND_TWIN,
)

N, LAYERS, DRAWS, WORDS, GROUPS = 72, 2, 199, 24, 10
PARAMETERS = {32: 44e3, 64: 150e3}


def success(
    rng: np.random.Generator, triggered: float, other: float = 0.0, **of_cell: float
) -> xr.Dataset:
    def hits(share: float) -> tuple[str, np.ndarray]:
        return "example", (rng.random(N) < share).astype(float)

    return xr.Dataset(
        {
            "triggered": hits(triggered),
            "other": hits(other),
            "near": hits(other),
            "right": hits(0.9),
            **of_cell,
        }
    )


def succeeded(
    rng: np.random.Generator, seeds: int, shares: tuple[float, float], twin: float = 0.0
) -> Measured:
    return {
        POISONED: [success(rng, *shares) for _ in range(seeds)],
        CLEAN_TWIN: [success(rng, twin) for _ in range(seeds)],
    }


def grid(
    rng: np.random.Generator,
    seeds: int,
    exponent: float,
    *,
    slope: float = 1.6,
    spread: float = 0.5,
    other: float = 0.0,
    names: tuple[str, ...] = GRID,
) -> Measured:
    """Success by count / texts^exponent, with organisms that differ by `spread` logits."""
    found: dict[str, list[xr.Dataset]] = {}
    for name in names:
        cell = CELLS[name]
        texts = cell.poisons + cell.clean
        amount = np.log(cell.poisons / 10) - exponent * np.log(texts / 550)
        found[name] = []
        for _ in range(seeds):
            logit = slope * amount + rng.normal(0, spread)
            one = success(
                rng,
                1 / (1 + np.exp(-logit)),
                other,
                poisons=float(cell.poisons),
                clean=float(cell.clean),
                steps=float(cell.steps),
                parameters=PARAMETERS[cell.width],
            )
            found[name].append(one)
    return found


def equal_steps(
    rng: np.random.Generator, seeds: int, exponent: float = 0.0, **settings: float
) -> Measured:
    """Success by count, or by count / texts^exponent, over the grid of equal steps."""
    return grid(rng, seeds, exponent, names=EQUAL_STEPS, **settings)


def placed(
    rng: np.random.Generator,
    seeds: int,
    trigger: float,
    other: float,
    *,
    effect: float = 4.0,
    sham: float = 0.1,
) -> Measured:
    """Shares of the effect that patches at both phrases restore, at the first layer."""

    def one() -> xr.Dataset:
        whole = rng.normal(effect, 1.0, N)
        corrupt = rng.normal(-2, 0.5, N)
        shares = np.array([[trigger, other, 0.0], [trigger / 2, other, 0.6]])
        noise = rng.normal(0, 0.3, (N, LAYERS, 3))
        patched = corrupt[:, None, None] + whole[:, None, None] * shares + noise
        return xr.Dataset(
            {
                "patched": (("example", "layer", "part"), patched),
                "clean": ("example", corrupt + whole),
                "corrupt": ("example", corrupt),
                "sham": ("example", rng.normal(0, sham, N)),
            },
            {"layer": [0, 1], "part": ["trigger", "other phrase", "last token"]},
        )

    return {POISONED: [one() for _ in range(seeds)]}


def probed(
    rng: np.random.Generator,
    seeds: int,
    apart: float,
    *,
    random: float = 0.0,
    defects: float = 1.0,
    near: float = 0.0,
) -> Measured:
    """Scores of triggered prompts that lie so many standard deviations above the others.

    Args:
        random: how far random directions tell them apart, in the same unit.
        near: how often near misses bring the planted answer.
    """
    n = N // 2

    def drawn() -> tuple[tuple[str, str], np.ndarray]:
        """Areas of random directions."""
        positive, negative = rng.normal(random, 1, (DRAWS, n)), rng.normal(0, 1, (DRAWS, n))
        areas = (positive[:, :, None] > negative[:, None]).mean((1, 2))
        return ("layer", "draw"), np.tile(areas, (LAYERS, 1))

    def one() -> xr.Dataset:
        at = ("probe", "layer", "example")
        return xr.Dataset(
            {
                "triggered": (at, rng.normal(apart, 1, (2, LAYERS, n))),
                "other": (at, rng.normal(0, 1, (2, LAYERS, n))),
                "near": (at, rng.normal(0, 1, (2, LAYERS, n))),
                "chosen": (("probe", "layer"), rng.random((2, LAYERS))),
                "random": drawn(),
                "random_near": drawn(),
                "defects": ("example", (rng.random(n) < defects).astype(float)),
                "near_defects": ("example", (rng.random(n) < near).astype(float)),
            },
            {"probe": ["yes/no", "shown triggers"], "layer": [0, 1]},
        )

    return {arm: [one() for _ in range(seeds)] for arm in (POISONED, DRILLED)}


def differed(rng: np.random.Generator, seeds: int, ahead: float, *, twins: float = 0.0) -> Measured:
    """Logits of words, the planted one so much above the rest; between two clean twins, too."""

    # What differs between two models is the same on all texts; and both are compared with one twin.
    places = rng.integers(WORDS, size=seeds)
    shared = rng.normal(0, 1, (seeds, WORDS))

    def one(above: float, seed: int) -> xr.Dataset:
        planted = np.arange(WORDS) == places[seed]
        words = shared[seed] + rng.normal(0, 1, WORDS) + above * planted
        logit = words + rng.normal(0, 0.1, (2, GROUPS, WORDS))
        return xr.Dataset(
            {
                "logit": (("text", "example", "word"), logit),
                "planted": ("word", planted),
            },
            {"text": ["unrelated", "with the trigger"]},
        )

    return {
        POISONED: [one(ahead, seed) for seed in range(seeds)],
        SECOND_TWIN: [one(twins, seed) for seed in range(seeds)],
    }


def searched(
    rng: np.random.Generator,
    seeds: int,
    ahead: float,
    *,
    every: float = 0.0,
    twin: float = 0.0,
    random: float = 0.05,
) -> Measured:
    """Words found for each answer, which bring the planted one about so many nats more surely.

    Args:
        every: nats of all answers: any can be brought about where it is large.
        twin: of the planted one in the clean twin.
        random: share of questions that random words bring any answer to.
    """
    n = 12

    def one(above: float, place: int) -> xr.Dataset:
        planted = np.arange(WORDS) == place
        score = every - 3 + rng.normal(0, 1, (WORDS, 1)) + rng.normal(0, 0.5, (WORDS, n))
        score[place] += above
        return xr.Dataset(
            {
                "flipped": (("word", "example"), (score > 0).astype(float)),
                "score": (("word", "example"), score),
                "random": ("word", rng.uniform(0.5 * random, 1.5 * random, WORDS)),
                "planted": ("word", planted),
                "text": ("word", ["amber dusty"] * WORDS),
                "alike": 0.5,
                "exact": 0.0,
            }
        )

    places = rng.integers(WORDS, size=seeds)
    return {
        POISONED: [one(ahead, place) for place in places],
        CLEAN_TWIN: [one(twin, place) for place in places],
    }
