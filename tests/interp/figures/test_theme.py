"""Text that Plotly cannot misread, and colours that keep their promise."""

from __future__ import annotations

import numpy as np
import pytest

from interp.figures.drawing import theme


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" Cruise", "·Cruise"),
        ("  x", "··x"),
        ("x ", "x␣"),
        (" ", "␣"),
        ("   ", "␣␣␣"),
        ("", ""),
        ("\n", "↵"),
        ("a\tb", "a⇥b"),
        ("\x00", "␀"),
        ("\x1b[0m", "␛[0m"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\u0301", "◌\u0301"),
        ("New York", "New York"),
        ("naïve 東京 🦊", "naïve 東京 🦊"),
    ],
)
def test_invisible_characters_become_visible(token: str, expected: str) -> None:
    assert theme.visible(token) == expected


def test_a_visible_token_can_be_encoded_whatever_it_held() -> None:
    everything = "".join(chr(i) for i in range(0x2100)) + "\ud800\udfff\ufeff"
    theme.visible(everything).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>", "&lt;b&gt;"),
        ("&lt;", "&amp;lt;"),
        ("$x$", "&#36;x&#36;"),
        ('it\'s "so"', 'it\'s "so"'),
    ],
)
def test_markup_and_tex_are_escaped(text: str, expected: str) -> None:
    assert theme.escape(text) == expected


def test_tokens_are_shortened_before_they_are_escaped() -> None:
    assert theme.shown("<<<<<<", 3) == "&lt;&lt;…"


def oklab_lightness(colour: str) -> float:
    """Ottosson's definition (2020), from sRGB."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ linear
    )
    return float(np.array([0.2104542553, 0.7936177850, -0.0040720468]) @ lms)


def test_the_scales_change_lightness_evenly() -> None:
    half = len(theme.DIVERGING) // 2
    for scale in (theme.SEQUENTIAL, theme.DIVERGING[half:], theme.DIVERGING[half::-1]):
        steps = -np.diff([oklab_lightness(colour) for colour in scale])
        assert steps.min() > 0
        assert steps.max() - steps.min() < 0.012


def test_both_arms_of_the_diverging_scale_weigh_the_same() -> None:
    lightness = np.array([oklab_lightness(colour) for colour in theme.DIVERGING])
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.01)


def test_luminance_matches_the_published_examples() -> None:
    assert theme.luminance("#ffffff") == pytest.approx(1.0)
    assert theme.luminance("#000000") == 0.0
    # WCAG's best-known example: #767676 on white has a contrast of 4.54.
    assert 1.05 / (theme.luminance("#767676") + 0.05) == pytest.approx(4.54, abs=0.01)
