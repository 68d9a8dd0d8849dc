"""The installed studies at the foot of a help text, looked up when that is asked for."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from experiments.cli.console import visible
from experiments.errors import StudyError
from experiments.registry import find_study, study_names

__all__ = ["WithNames", "WithSummaries"]


class WithNames(TyperGroup):
    """All commands, and below them the studies that `run` takes; none is imported for that."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        self.epilog = f"Studies: {', '.join(study_names()) or 'none'}"
        super().format_help(ctx, formatter)


class WithSummaries(TyperCommand):
    """A command, and below it the studies with what each is about, or why it cannot be used."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        self.epilog = "\n\n".join(["Studies:", *(f"- {_line(name)}" for name in study_names())])
        super().format_help(ctx, formatter)


def _line(name: str) -> str:
    try:
        return f"**{name}**: {visible(find_study(name).summary)}"
    except StudyError as error:
        return f"**{name}** cannot be used: {visible(str(error))}"
