"""Colours that stand beside one another are told apart with every kind of colour blindness.

Simulated after Machado, Oliveira and Fernandes (2009) at severity 1; distances are in OKLab
(Ottosson 2020), where about 0.02 can just be seen beside one another.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from app.text import colours
from interp.figures.drawing import dark, theme
from interp.figures.drawing.dark import swapped

Floats = npt.NDArray[np.float64]

# Table 1 of the supplement, for linear RGB.
BLIND = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
LEAST = 0.075


def seen(colour: str, blind: str) -> Floats:
    """OKLab of a colour as it is seen: [lightness, a, b]."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(BLIND[blind] @ linear, 0, 1)
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.asarray(to_lab @ np.cbrt(to_lms @ linear))


def nearest(some: Sequence[str], blind: str) -> tuple[float, tuple[str, str]]:
    """The smallest distance between two of the colours, and which they are."""
    pairs = itertools.combinations(some, 2)
    return min((float(np.linalg.norm(seen(a, blind) - seen(b, blind))), (a, b)) for a, b in pairs)


TOGETHER = {
    "palette": theme.OKABE_ITO,
    "directions": tuple(theme.COLOURS.values()),
    "with the greys": (*theme.OKABE_ITO[:3], theme.MUTED),
    "circuit": (theme.DIVERGING[-3], theme.DIVERGING[2], "#ffffff"),
}
CASES = [
    *((name, some) for name, some in TOGETHER.items()),
    *((f"{name}, dark", tuple(map(swapped, some))) for name, some in TOGETHER.items()),
    *(
        (f"right and wrong, {name}", (palette["good"], palette["bad"]))
        for name, palette in (("light", colours.LIGHT), ("dark", colours.DARK))
    ),
    *(
        (f"spans, {name}", tuple(palette[span] for span in ("blue", "green", "rose", "line")))
        for name, palette in (("light", colours.LIGHT), ("dark", colours.DARK))
    ),
]


@pytest.mark.parametrize("blind", BLIND)
@pytest.mark.parametrize(("name", "some"), CASES, ids=[name for name, _ in CASES])
def test_colours_of_a_figure_are_told_apart(blind: str, name: str, some: Sequence[str]) -> None:
    distance, pair = nearest(some, blind)
    assert distance >= LEAST, f"{pair} with {blind}: {distance:.3f}"


def test_colours_that_are_mixed_up_are_found() -> None:
    red_and_green = ("#d62728", "#2ca02c")  # those of a palette that is used everywhere
    assert nearest(red_and_green, "none")[0] > 0.3
    worse = [*theme.OKABE_ITO[:2], "#8c8a2c"]  # olive beside vermillion
    assert nearest(worse, "none")[0] >= LEAST > nearest(worse, "deuteranopia")[0]


@pytest.mark.parametrize("blind", BLIND)
@pytest.mark.parametrize("page", [theme, dark], ids=["light", "dark"])
def test_more_is_always_darker_or_always_lighter(blind: str, page: object) -> None:
    for name in ("SEQUENTIAL", "DIVERGING"):
        scale = getattr(page, name)
        lightness = np.array([seen(colour, blind)[0] for colour in scale])
        sign = 1 if page is dark else -1
        half = len(scale) // 2 if name == "DIVERGING" else 0
        assert (sign * np.diff(lightness[half:]) > 0).all()
        assert (sign * np.diff(lightness[half::-1]) > 0).all()


@pytest.mark.parametrize("blind", BLIND)
@pytest.mark.parametrize("page", [theme, dark], ids=["light", "dark"])
def test_below_zero_is_told_from_above(blind: str, page: object) -> None:
    scale = page.DIVERGING  # type: ignore[attr-defined]
    for step in range(3, len(scale) // 2 + 1):
        pair = scale[len(scale) // 2 - step], scale[len(scale) // 2 + step]
        assert nearest(pair, blind)[0] >= LEAST


def test_the_simulation_keeps_greys_and_knows_the_confused_colours() -> None:
    for blind in BLIND:
        grey = seen("#808080", blind)
        np.testing.assert_allclose(grey, seen("#808080", "none"), atol=0.01)
    # Of the paper's figures: red and green of one lightness become one hue, blue stays blue.
    assert seen("#0000ff", "deuteranopia")[2] < -0.2
    a = [seen(colour, "deuteranopia")[1] for colour in ("#ff0000", "#00ff00")]
    assert abs(a[0] - a[1]) < 0.1 < abs(seen("#ff0000", "none")[1] - seen("#00ff00", "none")[1])
