"""Compare a store with its checksums, set aside what is damaged, and compute it again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache.errors import DamageError, StorageError
from cache.files import remove, storage_errors
from cache.fill import fill
from cache.folder import QUARANTINE, Folder
from cache.index import Index
from cache.layout import BLOCK
from cache.reader import ShardReader
from cache.room import Room
from cache.shard import DATA, DESCRIPTION, read_sidecar, shard_path
from cache.sidecar import Sidecar
from cache.source import ActivationSource
from cache.space import Ids, SiteShape, Space

__all__ = ["Finding", "Report", "drop", "empty_quarantine", "repair", "set_aside", "verify"]


@dataclass(frozen=True)
class Damage:
    """Rows that can be computed again: their token ids are intact."""

    space: Space
    sites: tuple[SiteShape, ...]
    rows: tuple[Ids, ...]


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
    lost: Damage | None = field(default=None, repr=False)


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


def verify(folder: Folder, progress: Callable[[int, int], None] | None = None) -> Report:
    """Check every block of every shard, every sidecar, and the index; set aside what is damaged.

    Args:
        progress: called with (bytes done, bytes in all).
    """
    findings = _check_index(folder)
    shards = sorted(folder.committed())
    sizes = {shard: _file_size(folder.root, shard) for shard in shards}
    done = intact = intact_bytes = 0
    for shard in shards:
        finding = _check_shard(folder, shard)
        if finding is None:
            intact += 1
            intact_bytes += sizes[shard]
        else:
            findings.append(finding)
        done += sizes[shard]
        if progress:
            progress(done, sum(sizes.values()))
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


def repair(
    store_folder: Folder, room: Room, source: ActivationSource, report: Report, shard_size: int
) -> Report:
    """Compute again what `verify` found damaged and the model can tell."""
    repaired = 0
    remaining = []
    for finding in report.findings:
        lost = finding.lost
        if lost is None or lost.space != source.space(lost.space.dtype):
            remaining.append(finding)
            continue
        rows = dict(zip(lost.space.keys(lost.rows), lost.rows, strict=True))
        fill(store_folder, room, source, lost.space, rows, lost.sites, shard_size=shard_size)
        repaired += len(rows)
        message = f"{finding.message}; its {len(rows)} rows were computed again"
        remaining.append(Finding(finding.shard, message))
    return replace(report, findings=tuple(remaining), repaired=repaired)


def empty_quarantine(folder: Folder) -> list[str]:
    """Remove what was set aside; returns a line for each shard."""
    done = []
    place = folder.root / QUARANTINE
    for path in sorted(place.glob("*")) if place.is_dir() else []:
        remove(path)
        if path.suffix == DATA:
            done.append(f"damaged shard {path.stem} is removed")
    return done


def drop(folder: Folder, room: Room, space: Space, sites: Sequence[str] | None) -> None:
    """Remove a space, or some of its sites; shards that hold other sites too are rewritten."""
    gone = []
    for shard in folder.indexed(Index.shards, space.id):
        try:
            reader = folder.reader(shard)
        except StorageError:
            gone.append(shard)
            continue
        sidecar = reader.sidecar
        kept = [] if sites is None else [s for s in sidecar.sites if s.name not in sites]
        if len(kept) == len(sidecar.sites):
            continue
        if kept:
            _rewrite(folder, room, reader, kept)
        gone.append(shard)
    folder.remove(gone)


def _rewrite(folder: Folder, room: Room, reader: ShardReader, sites: list[SiteShape]) -> None:
    rows = [reader.ids(row) for row in range(reader.sidecar.n_rows)]
    room.make(reader.sidecar.layout.size, [reader.sidecar.id])
    with folder.writer(reader.sidecar.space, sites, rows) as writer:
        for site in sites:
            writer.append({site.name: reader.tensor(site.name)})
        folder.enter(writer.commit())


def _check_index(folder: Folder) -> list[Finding]:
    findings = []
    try:
        folder.check_index()
    except DamageError as error:
        folder.rebuild_index()
        findings.append(Finding("", f"{error}; it was made anew from the sidecars"))
    if not folder.read_only:
        findings += [Finding("", line) for line in folder.reconcile()]
    return findings


def _check_shard(folder: Folder, shard: str) -> Finding | None:
    """A finding, with the shard set aside, if it is damaged."""
    sidecar: Sidecar | None = None
    lost = None
    try:
        sidecar = read_sidecar(folder.root, shard)
        reader = ShardReader(folder.root, sidecar)
        blocks = reader.check_all()
        if not blocks:
            return None
        message = _describe(sidecar, blocks)
        lost = _intact_rows(reader)
    except DamageError as error:
        message = str(error)
    except StorageError as error:
        if not shard_path(folder.root, shard, DESCRIPTION).exists():
            return None  # evicted meanwhile
        message = f"its data cannot be read ({error})"
    if not folder.read_only:
        folder.quarantine(shard)
        message += "; it is set aside"
    return Finding(shard, f"shard {shard}: {message}", lost)


def _describe(sidecar: Sidecar, blocks: Sequence[int]) -> str:
    names = [
        name
        for name, field_ in sidecar.layout.fields.items()
        if any(b * BLOCK < field_.end and (b + 1) * BLOCK > field_.begin for b in blocks)
    ]
    of = f" of {', '.join(names)}" if names else ""
    listed = ", ".join(str(block) for block in blocks[:8]) + (", …" if len(blocks) > 8 else "")
    return f"{len(blocks)} damaged MiB{of} (number {listed})"


def _intact_rows(reader: ShardReader) -> Damage | None:
    sidecar = reader.sidecar
    try:
        rows = tuple(reader.ids(row) for row in range(sidecar.n_rows))
    except DamageError:
        return None
    return Damage(sidecar.space, sidecar.sites, rows)


def _file_size(root: Path, shard: str) -> int:
    path = shard_path(root, shard, DATA)
    with storage_errors(path, "read"):
        return path.stat().st_size if path.exists() else 0
