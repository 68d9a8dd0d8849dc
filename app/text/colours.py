"""The page's colours, light and dark, as variables of its style sheet."""

from __future__ import annotations

from interp.figures.drawing import dark, theme

LIGHT = {
    "paper": "#ffffff",
    "ink": theme.INK,
    "muted": theme.MUTED,
    "rule": theme.RULE,
    "line": "#c5cad3",
    "soft": "#f5f6f8",
    "fill": "#eef0f3",
    "accent": "#0072b2",
    "good": "#00704f",
    "good-soft": "#e3f4ee",
    "bad": "#a34700",
    "bad-soft": "#fdeee2",
    "open": "#5d6470",
    "open-soft": "#eeeff2",
    "alarm": "#b3261e",
    "alarm-ink": "#ffffff",
    "blue": "#0072b2",
    "green": "#009e73",
    "rose": "#cc79a7",
}
DARK = {
    "paper": dark.PAPER,
    "ink": dark.INK,
    "muted": dark.MUTED,
    "rule": dark.RULE,
    "line": "#4b5261",
    "soft": "#1d212a",
    "fill": "#282d37",
    "accent": "#4ba3db",
    "good": "#5fd0a4",
    "good-soft": "#12342a",
    "bad": "#f2a26a",
    "bad-soft": "#3d2717",
    "open": "#b4bac6",
    "open-soft": "#2a2f39",
    "alarm": "#ff9a92",
    "alarm-ink": "#14171d",
    "blue": "#1f78d1",
    "green": "#7fe0bd",
    "rose": "#d884b2",
}

READ = [
    *((ink, paper) for ink in ("ink", "muted") for paper in ("paper", "soft", "fill")),
    *((ink, "paper") for ink in ("accent", "good", "bad", "alarm")),
    *((ink, f"{ink}-soft") for ink in ("good", "bad", "open")),
    *((ink, "soft") for ink in ("good", "bad", "accent")),
    ("alarm-ink", "alarm"),
]
"""Which of them is text on which other one."""


def variables(at_night: bool) -> str:
    """The style element that gives every colour its name, `--ob-ink` and so on.

    Args:
        at_night: whether the page is dark.
    """
    lines = "; ".join(f"--ob-{name}: {value}" for name, value in palette(at_night).items())
    return f"<style>:root {{ --ob-mono: {theme.MONO}; {lines} }}</style>"


def palette(at_night: bool) -> dict[str, str]:
    """Colours by name, "#rrggbb"."""
    return DARK if at_night else LIGHT
