"""Compare a store with its checksums, set aside what is damaged, and compute it again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cache.errors import DamageError, GoneError, StorageError
from cache.files import real_folder, remove, storage_errors
from cache.folder.budget import Room
from cache.folder.fill import Progress, fill
from cache.folder.folder import QUARANTINE, Folder
from cache.folder.listing import committed
from cache.folder.recover import Lost, recover, recover_from_index
from cache.folder.writing import write_here
from cache.index.queries import Index
from cache.keys.source import ActivationSource
from cache.keys.space import SiteShape, Space
from cache.shards.layout import BLOCK
from cache.shards.reader import ShardReader
from cache.shards.sidecar import Sidecar
from cache.shards.writer import DATA, read_sidecar, shard_path

__all__ = [
    "MOMENT",
    "Finding",
    "Report",
    "drop",
    "empty_quarantine",
    "repair",
    "set_aside",
    "verify",
]

MOMENT = 0.2
"""Seconds in which an eviction that has begun comes to its end."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes:
        shard: its id, or "" for the index.
        message: what is wrong, and what was done.
        lost: what can be computed again by `repair`.
    """

    shard: str
    message: str
    lost: Lost | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Report:
    """What `verify` looked at and found.

    Attributes:
        shards, bytes: how much is intact.
        findings: what is not.
        repaired: rows that were computed again.
    """

    shards: int
    bytes: int
    findings: tuple[Finding, ...]
    repaired: int = 0


def verify(
    folder: Folder,
    source: ActivationSource | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check every block of every shard, every sidecar, and the index; set aside what is damaged.

    Args:
        source: a model that may help to tell which rows were lost.
        progress: called with (bytes done, bytes in all).
    """
    findings = _check_index(folder, source)
    shards = sorted(committed(folder.root))
    sizes = {shard: _file_size(folder.root, shard) for shard in shards}
    total = sum(sizes.values())
    done = intact = intact_bytes = 0
    for shard in shards:
        finding = _check_shard(folder, shard, source)
        if finding is None:
            intact += 1
            intact_bytes += sizes[shard]
        else:
            findings.append(finding)
        done += sizes[shard]
        if progress:
            progress(done, total)
    return Report(intact, intact_bytes, tuple(findings))


def set_aside(folder: Folder, shard: str, reason: str) -> None:
    """Quarantine a shard, and say so."""
    if folder.read_only:
        raise DamageError(
            f"Shard {shard} of '{folder.root}' is damaged ({reason}), and the store is read-only; "
            "copy it to a place that can be written."
        )
    folder.quarantine(shard)
    warnings.warn(
        f"Shard {shard} of '{folder.root}' is damaged ({reason}); it is set aside, and its rows "
        "are computed again when they are asked for.",
        stacklevel=2,
    )


def repair(room: Room, source: ActivationSource, report: Report) -> Report:
    """Compute again what `verify` found damaged and the model can tell."""
    repaired = 0
    findings = []
    for finding in report.findings:
        lost = finding.lost
        if lost is not None and lost.space == source.space(lost.space.dtype):
            room.folder.check_writable("what is damaged cannot be computed again")
            rows = dict(zip(lost.space.keys(lost.rows), lost.rows, strict=True))
            fill(room, partial(write_here, room, source), lost.space, rows, lost.sites)
            repaired += len(rows)
            message = f"{finding.message}; {len(rows)} of its rows were computed again"
            finding = Finding(finding.shard, message)
        findings.append(finding)
    return replace(report, findings=tuple(findings), repaired=repaired)


def empty_quarantine(folder: Folder) -> list[str]:
    """Remove what was set aside; returns a line for each shard."""
    done = []
    place = real_folder(folder.root, QUARANTINE)
    for path in sorted(place.glob("*")) if place.is_dir() else []:
        if path.is_dir() and not path.is_symlink():
            done.append(f"'{path}' is a folder, which is not removed here")
            continue
        remove(path)
        if path.suffix == DATA:
            done.append(f"damaged shard {path.stem} is removed")
    return done


def drop(room: Room, space: Space, sites: Sequence[str] | None) -> None:
    """Remove a space, or some of its sites; shards that hold other sites too are rewritten."""
    folder = room.folder
    folder.check_writable("nothing can be removed from it")
    gone = []
    for shard in folder.catalogue.ask(Index.shards, space.id):
        try:
            reader = folder.reader(shard)
            sidecar = reader.sidecar
            kept = [] if sites is None else [s for s in sidecar.sites if s.name not in sites]
            if len(kept) == len(sidecar.sites):
                continue
            if kept:
                _rewrite(room, reader, kept)
        except GoneError:
            pass
        except DamageError as error:
            set_aside(folder, shard, str(error))
            continue
        gone.append(shard)
    folder.remove(gone)


def _rewrite(room: Room, reader: ShardReader, sites: list[SiteShape]) -> None:
    rows = [reader.ids(row) for row in range(reader.sidecar.n_rows)]
    room.make(reader.sidecar.layout.size, [reader.sidecar.id])
    with room.folder.writer(reader.sidecar.space, sites, rows) as writer:
        for site in sites:
            writer.append({site.name: reader.tensor(site.name)})
            # Wrong numbers must not get a checksum that fits.
            reader.confirm(site.name)
        room.folder.catalogue.enter(writer.commit())


def _check_index(folder: Folder, source: ActivationSource | None) -> list[Finding]:
    findings = []
    try:
        folder.catalogue.check()
    except DamageError as error:
        folder.catalogue.rebuild(str(error))
        findings.append(Finding("", f"{error}; it was made anew from the sidecars"))
    if folder.read_only:
        return findings
    for shard in _without_sidecar(folder):
        message = f"shard {shard} has no sidecar, so that nobody knows whether it is intact"
        findings.append(Finding(shard, message, _recover_from_index(folder, shard, source)))
        folder.catalogue.forget([shard])
    return findings + [Finding("", line) for line in folder.reconcile()]


def _without_sidecar(folder: Folder) -> list[str]:
    """Shards that the index knows and that are not there."""

    def find() -> set[str]:
        # In this order, so that a shard which comes meanwhile is not among them.
        indexed = set(folder.catalogue.ask(Index.shards))
        return indexed - set(committed(folder.root))

    found = find()
    if found:
        # Somebody may just be evicting them.
        time.sleep(MOMENT)
        found &= find()
    return sorted(found)


def _check_shard(folder: Folder, shard: str, source: ActivationSource | None) -> Finding | None:
    """A finding, with the shard set aside, if it is damaged."""
    sidecar: Sidecar | None = None
    try:
        sidecar = read_sidecar(folder.root, shard)
        blocks = ShardReader(folder.root, sidecar).check_all()
        if not blocks:
            return None
        message = _describe(sidecar, blocks)
    except DamageError as error:
        message = str(error)
    except GoneError:
        return None  # evicted meanwhile
    except StorageError as error:
        return Finding(shard, f"shard {shard} cannot be checked: {error}")
    if sidecar is None:
        lost = _recover_from_index(folder, shard, source)
    else:
        lost = recover(shard_path(folder.root, shard, DATA), sidecar)
    if not folder.read_only:
        folder.quarantine(shard)
        message += "; it is set aside"
    return Finding(shard, f"shard {shard}: {message}", lost)


def _recover_from_index(folder: Folder, shard: str, source: ActivationSource | None) -> Lost | None:
    known = folder.catalogue.ask(Index.describe, shard)
    if source is None or known is None:
        return None
    return recover_from_index(shard_path(folder.root, shard, DATA), *known, source)


def _describe(sidecar: Sidecar, blocks: Sequence[int]) -> str:
    names = [
        name
        for name, field_ in sidecar.layout.fields.items()
        if any(b * BLOCK < field_.end and (b + 1) * BLOCK > field_.begin for b in blocks)
    ]
    of = f" of {', '.join(names)}" if names else ""
    listed = ", ".join(str(block) for block in blocks[:8]) + (", …" if len(blocks) > 8 else "")
    return f"{len(blocks)} damaged MiB{of} (number {listed})"


def _file_size(root: Path, shard: str) -> int:
    path = shard_path(root, shard, DATA)
    with storage_errors(path, "read"):
        try:
            return path.lstat().st_size
        except FileNotFoundError:
            return 0
