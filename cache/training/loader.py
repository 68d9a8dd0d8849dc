"""Read a stream of batches by worker processes, and know which of them were received."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader, IterableDataset

from cache.errors import ObverseError

__all__ = ["Resumable", "TokenLoader"]


class Resumable(Protocol):
    """What a loader asks of a stream."""

    @property
    def start(self) -> tuple[int, int]: ...
    def move(self, epoch: int, token: int) -> None: ...
    def after(self, epoch: int, token: int, batches: int) -> tuple[int, int]: ...
    def cursor(self, epoch: int, token: int) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def note_use(self) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class TokenLoader:
    """The batches of a stream, in the same order whatever the number of workers.

    Used like the stream: iterating goes on where the last iteration ended, and `state_dict` says
    where that is. It counts the batches that were received here, not those read ahead. Errors of
    workers come as they are, without the traceback of another process.
    """

    def __init__(self, stream: Resumable, num_workers: int = 0, **options: Any) -> None:
        """
        Args:
            num_workers: processes that read; none, and this one reads.
            options: of a `torch.utils.data.DataLoader`. Workers live on from one epoch to the
                next unless `persistent_workers=False`.
        """
        options.setdefault("persistent_workers", num_workers > 0)
        self._stream, self._workers = stream, num_workers
        self._batches: DataLoader[Any] = DataLoader(
            _Careful(stream), batch_size=None, num_workers=num_workers, **options
        )
        self._place: tuple[int, int] | None = None
        self._iteration = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._stream)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return (self._place or self._stream.start)[0]

    def __iter__(self) -> Iterator[Any]:
        self._iteration += 1
        mine = self._iteration
        epoch, start = self._stream.start
        self._stream.note_use()
        # The stream itself stays at the start until the end: workers may not have begun yet.
        place = epoch, start
        try:
            for number, batch in enumerate(self._batches, 1):
                if isinstance(batch, _Failure):
                    error = batch.error
                    # An error that this frame holds would hold it: workers of a loader that waits
                    # for the garbage collector end seconds later than those of one let go of.
                    del batch
                    try:
                        raise error
                    finally:
                        del error
                place = self._stream.after(epoch, start, number)
                if mine == self._iteration:
                    self._place = place
                yield batch
            place = epoch + 1, 0
        finally:
            if mine == self._iteration:
                self._stream.move(*place)
                self._place = None

    def state_dict(self) -> dict[str, Any]:
        """Where to go on after the batches that were received: small, and fit for JSON."""
        return self._stream.cursor(*(self._place or self._stream.start))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader or stream was; raises what the stream's does."""
        self._stream.load_state_dict(state)
        self._iteration += 1
        self._place = None


class _Careful(IterableDataset[Any]):
    """A stream whose errors are handed on as they are; a DataLoader would wrap them in text."""

    def __init__(self, stream: Resumable) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._stream
        except ObverseError as error:
            yield _Failure(error.with_traceback(None))


@dataclass(frozen=True)
class _Failure:
    error: ObverseError
