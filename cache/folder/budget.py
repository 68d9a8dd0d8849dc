"""How much a store may take: a budget, a share of the disk that stays free, and what goes first."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from cache.errors import StorageError
from cache.files import storage_errors
from cache.folder.folder import Folder
from cache.index.queries import Index
from cache.sizes import show_size

__all__ = ["Room"]

_FLOOR = 1 << 30
_FLOOR_SHARE = 20  # a twentieth of a small disk
_EVICTED_AT_ONCE = 64
# Bytes that the index, its journal and a sidecar may need, whatever the user says.
_LEAST_FLOOR = 1 << 16


@dataclass(frozen=True)
class Room:
    """The limits of a store.

    Attributes:
        budget: bytes that it may take; None for as much as the disk allows.
        floor: bytes of the disk that must stay free; 1 GiB, or a twentieth of a smaller disk, if
            None.
        shard_size: about how large one file is, in bytes.
    """

    folder: Folder
    budget: int | None
    floor: int | None
    shard_size: int

    def holds(self, size: int) -> bool:
        """Whether so many bytes fit if everything else is evicted."""
        free, floor = self.free()
        most = free - floor + self.folder.catalogue.ask(Index.total)
        return size <= (most if self.budget is None else min(most, self.budget))

    def check(self, size: int, what: str, keep: Collection[str] = ()) -> None:
        """Refuse what cannot fit even if everything else is evicted; else let it begin.

        What must stay free is made free; the rest goes when shards are made.

        Args:
            size: bytes that it takes.
            what: what to call it, such as "10,000 tokens at 12 sites".
            keep: shards that stay, and are a part of it.

        Raises:
            StorageError: with the figures.
        """
        if self.budget is not None and size > self.budget:
            raise StorageError(
                f"{what} take {show_size(size)}, but the store's budget is "
                f"{show_size(self.budget)}; raise the budget, or store fewer sites or tokens."
            )
        stored = self.folder.catalogue.ask(Index.total)
        free, floor = self.free()
        if size > free - floor + stored:
            raise StorageError(
                f"{what} take {show_size(size)}, but the disk of '{self.folder.root}' has "
                f"{show_size(free)} free, of which {show_size(floor)} stay free; choose another "
                "folder, or store fewer sites or tokens."
            )
        self.make(0, keep)

    def make(self, size: int, keep: Collection[str] = ()) -> None:
        """Evict what was not used for longest until `size` bytes more fit.

        Args:
            keep: shards that stay in any case.

        Raises:
            StorageError: they do not fit even then.
        """
        lacking = self._lacking(size)
        tried: set[str] = set(keep)
        while lacking > 0:
            oldest = self.folder.catalogue.ask(Index.oldest, len(tried) + _EVICTED_AT_ONCE)
            victims = []
            for entry in oldest:
                # What is removed is counted, not measured: a file that somebody has mapped keeps
                # its room on the disk for a while, and the rest need not go for that.
                if lacking > 0 and entry.shard not in tried:
                    victims.append(entry.shard)
                    lacking -= entry.bytes
            if not victims:
                free, floor = self.free()
                raise StorageError(
                    f"{show_size(size)} more do not fit into '{self.folder.root}': its budget is "
                    f"{'open' if self.budget is None else show_size(self.budget)}, and the disk "
                    f"has {show_size(free)} free, of which {show_size(floor)} stay free; raise the "
                    "budget, free some space, or choose another folder."
                )
            self.folder.remove(victims)
            tried.update(victims)

    def free(self) -> tuple[int, int]:
        """Bytes free on the disk, and those of them that must stay free."""
        with storage_errors(self.folder.root, "read"):
            disk = os.statvfs(self.folder.root)
        floor = min(_FLOOR, disk.f_blocks * disk.f_frsize // _FLOOR_SHARE)
        floor = max(_LEAST_FLOOR, floor if self.floor is None else self.floor)
        return disk.f_bavail * disk.f_frsize, floor

    def _lacking(self, size: int) -> int:
        free, floor = self.free()
        lacking = size + floor - free
        if self.budget is not None:
            stored = self.folder.catalogue.ask(Index.total)
            lacking = max(lacking, stored + size - self.budget)
        return lacking
