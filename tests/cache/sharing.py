"""Sources that are slow or come to a halt, and processes that use a store together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from cache.keys.space import Ids, SiteShape
from tests.cache.children import (
    end,
)
from tests.cache.fake import FakeSource


class SlowSource(FakeSource):
    """Takes its time, and notes each row that any process computes in one file."""

    def __init__(self, log: Path, pause: float = 0.002) -> None:
        super().__init__(batch=1)
        self._log, self._pause = log, pause

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for (count, values), ids in zip(super().activations(rows, sites), rows, strict=True):
            with open(self._log, "a") as file:
                file.write(f"{os.getpid()} {ids.tolist()}\n")
            time.sleep(self._pause)
            yield count, values


class BlockedSource(FakeSource):
    """Comes to a halt in the middle of a shard, until a file is there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(batch=1)
        self.begun, self.go = folder / "begun", folder / "go"

    def activations(
        self, rows: Sequence[Ids], sites: Sequence[SiteShape]
    ) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for number, item in enumerate(super().activations(rows, sites)):
            if number == 1:
                self.begun.touch()
                wait_for(self.go.exists)
            yield item


def wait_for(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def end_well(children: list[int]) -> None:
    for child in children:
        assert not end(child)


def computed(log: Path) -> list[str]:
    """The rows that were computed, each time that one was."""
    return [line.partition(" ")[2] for line in log.read_text().splitlines()]


def grow_old(path: Path) -> None:
    """Let a writer's last heartbeat be long ago."""
    for file in (path / "owners").iterdir():
        os.utime(file, (1, 1))
