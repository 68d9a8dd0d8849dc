"""Reading shards: the file is mapped, and a MiB of it is checked before its first use.

And again when the file was changed since, which its size and times tell. They tell it from a moment
after the last change on; until then what is copied is checked itself. What they cannot tell:
a page that another process has mapped for writing, and writes a second time before the system has
brought the first to the disk; a write that the system has begun and interrupted for longer than
that moment, since it notes the time first; a change past the file system (the disk itself, memory
that fails); on a network file system what another machine does, until this one hears of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.errors import DamageError, GoneError, StorageError
from cache.files import is_real, open_regular, storage_errors
from cache.keys.space import Ids
from cache.shards.gather import gather
from cache.shards.layout import BLOCK, TOKENS
from cache.shards.output import map_file
from cache.shards.sidecar import DIGEST, Sidecar, digest
from cache.shards.writer import DATA, DESCRIPTION, shard_path

__all__ = ["ShardReader"]

_POPULATE_READ = 22  # Linux 5.14; Python has no name for it
_TORCH = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "I64": torch.int64,
}
# Two changes within a tick of the clock leave the same time, and a write notes the time before it
# changes anything. The kernel's ticks are 10 ms at most; file systems without fractions of a second
# go in steps of one or two.
_TICK, _COARSE_TICK = 50_000_000, 2_000_000_000  # in nanoseconds
# Blocks that the disk is asked for while one is compared.
AHEAD = 4
# How often a file may be changed while something is copied from it.
_TURNS = 5


@dataclass(frozen=True, eq=False)
class _State:
    """A file as it was when it was last looked at.

    Attributes:
        stamp: its size and times.
        settles: the time (in ns since 1970) from which on another change gets another stamp.
        checked: whether each block was found right in this state; a thread that has not noticed a
            newer one marks nothing in that.
    """

    stamp: tuple[int, int, int]
    settles: int
    checked: npt.NDArray[np.bool_]


class ShardReader:
    """Reads one committed shard.

    Raises:
        GoneError: the shard is not there any more.
        DamageError: the file is missing, or its size is not the sidecar's.
    """

    def __init__(self, root: Path, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self._layout = sidecar.layout
        path = shard_path(root, sidecar.id, DATA)
        with storage_errors(path, "read"):
            try:
                self._file = open_regular(path)
            except FileNotFoundError as error:
                # Who removes a shard removes the sidecar first.
                if is_real(shard_path(root, sidecar.id, DESCRIPTION)):
                    raise DamageError("its data are missing") from error
                raise GoneError(f"Shard {sidecar.id} of '{root}' is gone.") from error
            except OSError as error:
                if is_real(path):
                    raise
                raise DamageError("its data are no regular file") from error
            try:
                self._state = self._look()
                self._map = map_file(self._file)
            except BaseException:
                os.close(self._file)
                # So that the finalizer does not close what may have this number by then.
                del self._file
                raise
        self._content = np.frombuffer(self._map, np.uint8)
        # Bytes of one token, for each field.
        self._widths = {
            name: (field, field.nbytes // field.shape[0])
            for name, field in self._layout.fields.items()
        }

    def __del__(self) -> None:
        # Maps that were given out stay valid; the file goes when the last of them does. At the end
        # of the process other modules may be gone already.
        try:  # noqa: SIM105
            os.close(self._file)
        except (AttributeError, OSError):
            pass

    @property
    def evicted(self) -> bool:
        """Whether the file has no name any more, and exists only as long as it is open here."""
        return os.fstat(self._file).st_nlink == 0

    def tensor(
        self, site: str, first: int = 0, beyond: int | None = None, *, of: Tensor | None = None
    ) -> Tensor:
        """The rows `first` to `beyond` at `site` [token, *width]: memory-mapped, not copied.

        It can be edited; edits stay in memory, and neither the file nor later reads see them.

        Args:
            of: what `map` returned, where several tensors may share it; a map of its own if left
                out.

        Raises:
            DamageError: a block of it is not what was written.
        """
        field = self._layout.fields[site]
        begin, end = self._range(site, first, self.sidecar.n_rows if beyond is None else beyond)
        self.check(begin, end)
        whole = self.map() if of is None else of
        return whole[begin:end].view(_TORCH[field.code]).reshape(-1, *field.shape[1:])

    def map(self) -> Tensor:
        """The whole file [byte], memory-mapped, for `tensor`; edits stay in this map.

        It needs no open file, of which a process may have few.

        Raises:
            DamageError: the file has another size.
            StorageError: the system has no room for another map.
        """
        self._now()
        try:
            # By this name it can be opened even if it has no other any more.
            path = f"/dev/fd/{self._file}"
            return torch.from_file(path, False, self._layout.size, dtype=torch.uint8)
        except RuntimeError as error:
            raise StorageError(
                f"Shard {self.sidecar.id} cannot be mapped ({error}); ask for fewer rows."
            ) from error

    def vector(self, site: str, token: int) -> Tensor:
        """A copy of one token at `site` [*width]; `token` counts from the shard's start.

        Raises:
            DamageError: a block of it is not what was written.
        """
        field, width = self._widths[site]
        if not 0 <= token < field.shape[0]:
            raise IndexError(f"the shard has no token {token}")
        begin = field.begin + token * width
        blocks = range(begin // BLOCK, (begin + width - 1) // BLOCK + 1)
        for _ in range(_TURNS):
            state = self._now()
            own = self._checked(state, blocks)[begin : begin + width].copy()
            if self._now() is state:
                return torch.from_numpy(own).view(_TORCH[field.code]).reshape(field.shape[1:])
        raise DamageError("the file is changed all the time")

    def vectors(self, site: str, tokens: Any) -> Tensor:
        """A copy of single tokens at `site` [token, *width]; `tokens` count from the shard's start.

        Raises:
            DamageError: a block of it is not what was written.
        """
        field, _ = self._widths[site]
        index = np.asarray(tokens, dtype=np.int64)
        out = torch.empty(len(index), *field.shape[1:], dtype=_TORCH[field.code])
        self.take(site, index, out)
        return out

    def take(self, site: str, tokens: npt.NDArray[np.int64], out: Tensor) -> None:
        """As `vectors`, into `out` [token, *width], which is contiguous and of the same dtype."""
        field, width = self._widths[site]
        if not len(tokens):
            return
        if tokens.min() < 0 or tokens.max() >= field.shape[0]:
            raise IndexError(f"the shard has {field.shape[0]} tokens")
        begins = field.begin + tokens * width
        # Where blocks begin and end to be used; the sum in between counts their users.
        n_blocks = self._layout.n_blocks
        used = np.bincount(begins // BLOCK, minlength=n_blocks + 1)
        used -= np.bincount((begins + width - 1) // BLOCK + 1, minlength=n_blocks + 1)
        blocks = np.flatnonzero(np.cumsum(used)[:-1]).tolist()
        for _ in range(_TURNS):
            state = self._now()
            whole = self._checked(state, blocks)
            gather(whole[field.begin : field.end].reshape(-1, width), tokens, out)
            if self._now() is state:
                return
        raise DamageError("the file is changed all the time")

    def ids(self, row: int) -> Ids:
        """The token ids of a row (a copy).

        Raises:
            DamageError: they are not those that the row's key was made from.
        """
        begin, end = self._range(TOKENS, row, row + 1)
        self._now()
        found = self._content[begin:end].copy().view("<i4")
        # Their key tells, so they are good even where the rest of their MiB is not.
        if self.sidecar.space.key(found) != self.sidecar.key(row):
            raise DamageError(f"the token ids of row {row} are not what was written")
        return found

    def check(self, begin: int, end: int) -> None:
        """Compare the blocks that hold bytes `begin` to `end` with the sidecar.

        Each once, as long as the file stays as it is.

        Raises:
            DamageError: one of them is not what was written.
        """
        self._check_blocks(self._now(), {0, *range(begin // BLOCK, -(-end // BLOCK))})

    def confirm(self, site: str, first: int = 0, beyond: int | None = None) -> None:
        """Raises a DamageError if what was read of rows may have been changed before that."""
        self.check(*self._range(site, first, self.sidecar.n_rows if beyond is None else beyond))

    def check_all(self) -> list[int]:
        """The numbers of all damaged blocks."""
        state = self._now()
        damaged = []
        for block in range(self._layout.n_blocks):
            try:
                self._check_blocks(state, [block])
            except DamageError:
                damaged.append(block)
        return damaged

    def _range(self, site: str, first: int, beyond: int) -> tuple[int, int]:
        field = self._layout.fields[site]
        width = field.nbytes // max(1, field.shape[0])
        offsets = self.sidecar.offsets
        return field.begin + int(offsets[first]) * width, field.begin + int(offsets[beyond]) * width

    def _checked(self, state: _State, blocks: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The file's bytes, good in `blocks` if it is in this state still when they were used.

        As long as a change might leave the same stamp, a copy, of which these alone are filled.
        """
        unchecked = [block for block in blocks if not state.checked[block]]
        if not unchecked or time.time_ns() > state.settles:
            self._check_blocks(state, unchecked)
            return self._content
        own = np.empty_like(self._content)
        for block in self._ahead(blocks):
            part = slice(block * BLOCK, (block + 1) * BLOCK)
            self.load_block(block)
            own[part] = self._content[part]
            self._compare(block, own[part])
        return own

    def _check_blocks(self, state: _State, blocks: Iterable[int]) -> None:
        for block in self._ahead([block for block in blocks if not state.checked[block]]):
            # Else what is changed after this would leave no trace.
            settled = time.time_ns() > state.settles
            self.load_block(block)
            self._compare(block, self._content[block * BLOCK : (block + 1) * BLOCK])
            state.checked[block] = settled

    def _compare(self, block: int, content: npt.NDArray[np.uint8]) -> None:
        if digest(content) != self.sidecar.blocks[block * DIGEST : (block + 1) * DIGEST]:
            raise DamageError(f"MiB {block} of the file is not what was written")
        header = self._layout.header
        if block == 0 and content[: len(header)].tobytes() != header:
            raise DamageError("the header does not fit the sidecar")

    def _now(self) -> _State:
        """The file as it is now: the same object as before if it was not changed."""
        found = os.fstat(self._file)
        state = self._state
        if (found.st_size, found.st_mtime_ns, found.st_ctime_ns) != state.stamp:
            self._state = state = self._look()
        return state

    def _look(self) -> _State:
        """
        Raises:
            DamageError: the size is another. Reading a map beyond the end of its file would end the
                process.
        """
        found = os.fstat(self._file)
        size, changed = found.st_size, found.st_ctime_ns
        if size != self._layout.size:
            raise DamageError(f"the file has {size:,} bytes instead of {self._layout.size:,}")
        tick = _COARSE_TICK if changed % 1_000_000_000 == 0 else _TICK
        checked = np.zeros(self._layout.n_blocks, dtype=np.bool_)
        return _State((size, found.st_mtime_ns, changed), changed + tick, checked)

    def _ahead(self, blocks: Sequence[int]) -> Iterator[int]:
        """The same blocks, each after the disk was told of it and of some that follow.

        It works while one is compared, and reads these alone: where a map is touched the system
        reads as much around the place as it is set to, many times a block or a small part of one.
        """
        told = 0
        for number, block in enumerate(blocks):
            for coming in blocks[told : number + AHEAD + 1]:
                self._tell(coming)
            told = number + AHEAD + 1
            yield block

    def _tell(self, block: int) -> None:
        # Advice: where it is not taken, nothing is lost but time.
        with contextlib.suppress(AttributeError, OSError):
            try:
                # What is in memory already is looked up more quickly than advised.
                os.preadv(self._file, [bytearray(1)], block * BLOCK, os.RWF_NOWAIT)
            except BlockingIOError:
                os.posix_fadvise(self._file, block * BLOCK, BLOCK, os.POSIX_FADV_WILLNEED)

    def load_block(self, block: int) -> None:
        """Have the system read a block, so that what the disk cannot give is an error.

        Else it would be a signal that ends the process, as soon as the map is touched.
        """
        begin = block * BLOCK
        try:
            self._map.madvise(_POPULATE_READ, begin, min(BLOCK, self._layout.size - begin))
        except OSError as error:
            # Older systems do not know it.
            if error.errno != errno.EINVAL:
                raise DamageError(f"MiB {block} of the file cannot be read") from error
