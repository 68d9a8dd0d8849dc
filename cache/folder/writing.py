"""Run the rows of a shard, and write it: here, or wherever a model is."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cache.errors import StorageError
from cache.folder.budget import Room
from cache.folder.owners import Owner
from cache.keys.source import ActivationSource
from cache.keys.space import Ids, SiteShape, Space
from cache.shards.layout import Layout
from cache.shards.sidecar import most_bytes
from cache.shards.writer import ShardWriter

__all__ = ["Part", "Write", "write_apart", "write_here"]

_WRITTEN_BEHIND = 2  # batches that wait to be written


@dataclass(frozen=True)
class Part:
    """Rows that become one shard.

    Attributes:
        space: what their activations are of.
        sites: where these are taken.
        rows: token ids of each.
        keys: their names.
    """

    space: Space
    sites: tuple[SiteShape, ...]
    rows: tuple[Ids, ...]
    keys: tuple[bytes, ...]

    @functools.cached_property
    def layout(self) -> Layout:
        return Layout.of(self.sites, self.space.dtype, self.n_tokens, len(self.rows))

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.rows))

    @property
    def most_bytes(self) -> int:
        """Bytes that the shard will take, or a few more."""
        lengths = [len(ids) for ids in self.rows]
        return self.layout.size + most_bytes(self.space, self.sites, lengths, self.layout.n_blocks)


Write = Callable[[Sequence[Part], Collection[str]], Generator[tuple[Part, str], None, None]]
"""Computes parts, and yields each with its shard when that is committed and in the index, in any
order; what the second argument names, to which what was yielded is added, is not evicted for it."""


def write_here(
    room: Room, source: ActivationSource, parts: Sequence[Part], keep: Collection[str]
) -> Generator[tuple[Part, str], None, None]:
    """A `Write`, once `room` and `source` are given: one part after the other."""
    for part in parts:
        room.make(part.layout.size, keep)
        with room.folder.writer(part.space, part.sites, part.rows) as writer:
            for _, values in source.activations(part.rows, part.sites):
                writer.append(values)
            _check_space(source, part.space)
            sidecar = writer.commit()
        room.folder.catalogue.enter(sidecar)
        yield part, sidecar.id


def write_apart(
    root: Path,
    source: ActivationSource,
    part: Part,
    done: Callable[[int], None] | None = None,
    committer: ThreadPoolExecutor | None = None,
) -> str | Future[str]:
    """Run a part anywhere, and commit a shard, which `Folder.adopt` must enter into the index.

    Past the page cache, where that is possible: for much that is not read at once.

    Args:
        root: the store's folder.
        done: called with how many tokens were run.
        committer: a thread that commits, so that the next part can run meanwhile.
    """
    owner = Owner(root / "owners")
    with ExitStack() as undo:
        undo.callback(owner.leave, clean=True)
        shard = owner.new_shard()
        writer = undo.enter_context(
            ShardWriter(root, shard, part.space, part.sites, part.rows, direct=True)
        )
        _write_behind(source, part, writer, done)
        _check_space(source, part.space)
        undo.pop_all()
    if committer:
        return committer.submit(_commit, writer, owner)
    return _commit(writer, owner)


def _write_behind(
    source: ActivationSource,
    part: Part,
    writer: ShardWriter,
    done: Callable[[int], None] | None,
) -> None:
    """Run the rows; while some run, those before are written."""
    before = 0
    with ThreadPoolExecutor(1, "obverse-write") as thread:
        pending: deque[Future[None]] = deque()
        for n_rows, values in source.activations(part.rows, part.sites):
            if len(pending) == _WRITTEN_BEHIND:
                pending.popleft().result()
            pending.append(thread.submit(writer.append, values))
            if done:
                done(sum(map(len, part.rows[before : before + n_rows])))
            before += n_rows
        for last in pending:
            last.result()


def _commit(writer: ShardWriter, owner: Owner) -> str:
    try:
        with writer:
            return writer.commit().id
    finally:
        # Its name stays until the shard is in the index, so that it is not forgotten if nobody
        # lives to enter it.
        owner.leave(clean=False)


def _check_space(source: ActivationSource, space: Space) -> None:
    """Raises a StorageError if the model is no longer the one that was asked for."""
    if source.space(space.dtype) != space:
        raise StorageError(
            f"{space.label or 'The model'} was changed while its activations were computed, so "
            "they are not stored; ask again."
        )
