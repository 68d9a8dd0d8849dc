"""Progress of a run: bars with the time left in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.cli.console import output, say, visible, warn
from experiments.reporter import Progress as Callback

__all__ = [
    "SECONDS_BETWEEN_LINES",
    "LiveReporter",
    "PlainReporter",
    "duration",
    "live_progress",
    "terminal_reporter",
]

SECONDS_BETWEEN_LINES = 10.0


def terminal_reporter() -> LiveReporter | PlainReporter:
    """The reporter that suits stdout."""
    return LiveReporter() if output().is_terminal else PlainReporter()


def live_progress() -> Progress:
    """A bar with count, time so far and time left, which goes away when done."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
        console=output(),
        transient=True,
    )


class _Lines:
    """What both reporters say the same way."""

    def note(self, message: str) -> None:
        """A line on stdout."""
        say(message)

    def warn(self, message: str) -> None:
        """A line on stderr."""
        warn(message)

    def kept(self, name: str) -> None:
        """A line that the result was there already."""
        say(f"  {name}: kept from before", style="dim")


class LiveReporter(_Lines):
    """For a terminal."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callback]:
        """A live bar while the block runs, and then a line with the time it took."""
        start = time.monotonic()
        with live_progress() as bars:
            task = bars.add_task(visible(name), total=None)

            def update(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            yield update
        say(f"  {name}: {duration(time.monotonic() - start)}")


class PlainReporter(_Lines):
    """For pipes and log files: a line when a stage ends, and one now and then before that."""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callback]:
        """Lines with the count and the time left while the block runs."""
        start = spoken = time.monotonic()
        first: int | None = None

        def update(done: int, total: int) -> None:
            nonlocal first, spoken
            # A stage that goes on where it stopped starts above 0: that part cost no time now.
            first = done if first is None else first
            now = time.monotonic()
            if now - spoken < SECONDS_BETWEEN_LINES or done >= total:
                return
            spoken = now
            left = (now - start) * (total - done) / (done - first) if done > first else None
            rest = f", about {duration(left)} left" if left is not None else ""
            say(f"  {name}: {done} of {total}{rest}")

        yield update
        say(f"  {name}: {duration(time.monotonic() - start)}")


def duration(seconds: float) -> str:
    """Seconds as people say them: "4.2 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
