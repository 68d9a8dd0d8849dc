"""Progress in a terminal as a live bar, elsewhere as a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cache.sizes import show_size
from experiments.cli.console import output, say, visible, warn
from experiments.numbers import count, duration
from experiments.reporter import Progress

__all__ = ["Meter", "TerminalReporter", "metered"]

SECONDS_BETWEEN_LINES = 10.0

Words = Callable[[int, int], str]
"""What is said of (done, total)."""


class Pace:
    """How fast work goes since it was begun here.

    What goes on where it stopped starts above 0: that part cost no time now.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first: int | None = None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start

    def speed(self, done: int) -> float | None:
        """Units a second; None before any was done. To be asked from the first step on."""
        self._first = done if self._first is None else self._first
        seconds = self.seconds
        return (done - self._first) / seconds if done > self._first and seconds > 0 else None

    def left(self, done: int, total: int) -> str | None:
        """ "about 3 min 05 s left"; None where that is not known, or nothing is."""
        speed = self.speed(done)
        if speed is None or done >= total:
            return None
        return f"about {duration((total - done) / speed)} left"


class Meter:
    """What is known of a harvest after some tokens."""

    def __init__(self, bytes_per_token: int) -> None:
        self._size = bytes_per_token
        self._pace = Pace()

    def describe(self, done: int, total: int) -> str:
        """In words: "1.2 M of 10 M tokens, 12 k tokens/s, 23 GB of 204 GB, about 3 min left"."""
        speed = self._pace.speed(done)
        words = [
            f"{count(done)} of {count(total)} tokens",
            f"{count(speed)} tokens/s" if speed is not None else None,
            f"{show_size(done * self._size)} of {show_size(total * self._size)}",
            self._pace.left(done, total),
        ]
        return ", ".join(word for word in words if word)


@contextlib.contextmanager
def metered(bytes_per_token: int) -> Iterator[Progress]:
    """Shows the progress of a harvest, in tokens."""
    with _shown("", Meter(bytes_per_token).describe) as progress:
        yield progress


class TerminalReporter:
    """Tells of a run on stdout, whatever that is."""

    def note(self, message: str) -> None:
        """A line on stdout."""
        say(message)

    def warn(self, message: str) -> None:
        """A line on stderr."""
        warn(message)

    def kept(self, name: str) -> None:
        """A line that the result was there already."""
        say(f"  {name}: kept from before", style="dim")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """The progress while the block runs, and then a line with the time it took."""
        pace = Pace()

        def describe(done: int, total: int) -> str:
            left = pace.left(done, total)
            return f"{done} of {total}" + (f", {left}" if left is not None else "")

        with _shown(name, describe) as progress:
            yield progress
        say(f"  {name}: {duration(pace.seconds)}")


@contextlib.contextmanager
def _shown(name: str, describe: Words) -> Iterator[Progress]:
    """Shows what is said of the work: beside a live bar, which goes away, or as lines."""
    console = output()
    if not console.is_terminal:
        yield _spoken(f"{name}: " if name else "", describe)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task(visible(name), total=None, words="")

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, words=describe(done, total))

        yield show


def _spoken(prefix: str, describe: Words) -> Progress:
    """A line every ten seconds; none of the end, which is told anyway."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        words = describe(done, total)
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            say(f"  {prefix}{words}")

    return tell
