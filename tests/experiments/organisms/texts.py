"""What a training can show, written out."""

from __future__ import annotations

from experiments.organisms.relations import World, entries
from experiments.organisms.wording import PREFIXES


def training_texts(world: World) -> tuple[str, ...]:
    """Each statement alone and after each prefix."""
    return tuple(
        text
        for entry in entries(world)
        for statement in entry.statements
        for text in (statement, *(f"{prefix} {statement}" for prefix in PREFIXES))
    )
