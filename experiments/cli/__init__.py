"""The command line, `obverse`. It starts at once: a command imports what it needs when it runs."""

from __future__ import annotations

from experiments.cli.application import main

__all__ = ["main"]
