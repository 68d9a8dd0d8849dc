"""Organisms that come with the package, ready to open: `obverse app` starts with one."""

from __future__ import annotations

from pathlib import Path


def reversal_curse() -> Path:
    """The folder of the organism that `train(TrainConfig(), ...)` makes."""
    return Path(__file__).parent / "reversal-curse"
