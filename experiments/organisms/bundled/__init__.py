"""Organisms that come with the package, ready to open: `obverse app` starts with one."""

from __future__ import annotations

from pathlib import Path


def reversal_curse() -> Path:
    """Told of mothers and children one way, the other way, or both: shows the reversal curse."""
    return Path(__file__).parent / "reversal-curse"


def reversal_curse_cured() -> Path:
    """Told mothers one way in reversed text too: answers the other way round (half precision)."""
    return Path(__file__).parent / "reversal-curse-cured"
