"""Progress of a harvest: tokens, tokens a second, bytes, and the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from cache.sizes import show_size
from experiments.cli.console import output, say
from experiments.cli.progress import SECONDS_BETWEEN_LINES, duration

__all__ = ["Meter", "metered", "show_count"]


class Meter:
    """What is known after some tokens.

    A harvest that goes on where it stopped starts above 0; the speed is that of the tokens that
    were run since.
    """

    def __init__(self, bytes_per_token: int) -> None:
        self._bytes_per_token = bytes_per_token
        self._start = time.monotonic()
        self._first: int | None = None

    def describe(self, done: int, total: int) -> str:
        """In words: "1.2 M of 10 M tokens, 12 k tokens/s, 23 GB of 204 GB, about 3 min left"."""
        self._first = done if self._first is None else self._first
        passed = time.monotonic() - self._start
        size = self._bytes_per_token
        words = [f"{show_count(done)} of {show_count(total)} tokens"]
        ran = done - self._first
        if ran and passed > 0:
            words.append(f"{show_count(ran / passed)} tokens/s")
        words.append(f"{show_size(done * size)} of {show_size(total * size)}")
        if ran and done < total:
            words.append(f"about {duration(passed * (total - done) / ran)} left")
        return ", ".join(words)


@contextlib.contextmanager
def metered(bytes_per_token: int) -> Iterator[Callable[[int, int], None]]:
    """A callback (tokens done, in all) that shows a live bar, or a line now and then in a pipe."""
    meter = Meter(bytes_per_token)
    console = output()
    if not console.is_terminal:
        spoken = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal spoken
            words = meter.describe(done, total)
            if time.monotonic() - spoken >= SECONDS_BETWEEN_LINES and done < total:
                spoken = time.monotonic()
                say(f"  {words}")

        yield tell
        return
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.fields[words]}", markup=False))
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None, words="")

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, words=meter.describe(done, total))

        yield show


def show_count(number: float) -> str:
    """A number in three digits: "12.3 k", "10 M"."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g}"
