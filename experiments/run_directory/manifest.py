"""The results a run has stored so far, each with its checksum.

A result counts as stored once it stands in stages.json; a file whose content does not have the
checksum given there is as good as missing. The other files of a run (settings, provenance,
verdicts) have their checksums there too.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from pathlib import Path
from typing import Any, Literal

from cache.files import (
    is_real,
    make_folder,
    read_bytes,
    real_folder,
    remove,
    remove_temporaries,
    sha256,
    write_atomic,
)
from experiments.errors import RunError, StorageError
from experiments.run_directory.layout import FIGURES, RESULTS, STAGES, check_name, to_json
from experiments.run_directory.schema import check_manifest, parse, read

__all__ = ["Kind", "Manifest"]

Kind = Literal["table", "dataset", "document"]
_SUFFIXES: dict[str, str] = {"table": ".parquet", "dataset": ".nc"}
_CHUNKS = ".chunks"
# Endings of documents: those beside the settings, and those of single figures in a folder.
_PAGES = ("html", "md", "txt")
_FIGURES = ("csv", "svg")


class Manifest:
    """stages.json of one run directory, and the files it speaks of.

    Paths are derived from names, never read from the file: a manifest that somebody else wrote
    cannot point outside of its directory. Nor can a link: none is followed below the directory.
    """

    def __init__(self, directory: Path) -> None:
        """Read the manifest; a missing one is empty.

        Raises:
            RunError: it is damaged.
            StorageError: it cannot be read.
        """
        self.directory = directory
        self._files: dict[str, list[str]] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._documents: dict[str, dict[str, Any]] = {}
        self._partial: dict[str, dict[str, Any]] = {}
        path = directory / STAGES
        self.exists = path.exists() or path.is_symlink()
        if self.exists:
            self._take(check_manifest(parse(read(path), path), path))

    @property
    def begun(self) -> bool:
        """Whether anything was computed."""
        return bool(self._results or self._documents or self._partial)

    def names(self, kind: Kind | None = None) -> list[str]:
        """The stored results (of one kind), in the order they were computed."""
        if kind == "document":
            return list(self._documents)
        return [n for n, entry in self._results.items() if kind in (None, entry["kind"])]

    def path(self, name: str) -> Path:
        """The file of a stored result or document. Raises KeyError for others."""
        if name in self._documents:
            return self._path(name, "document")
        return self._path(name, self._results[name]["kind"])

    def damage(self, name: str) -> str | None:
        """What is wrong with a stored result's file, or None if its content is as it was."""
        entry = self._documents.get(name) or self._results[name]
        try:
            self._folder(entry["kind"], name)
        except StorageError:
            return "is behind a symbolic link"
        return _damage(self.path(name), entry["sha256"], entry["bytes"])

    def read(self, name: str, kind: Kind) -> bytes:
        """The content of a stored result. Raises RunError where it is missing or changed."""
        entry = self._documents if kind == "document" else self._results
        if name not in entry or (kind != "document" and entry[name]["kind"] != kind):
            there = ", ".join(self.names(kind)) or "none"
            raise RunError(f"'{self.directory}' has no {kind} '{name}'; there are: {there}.")
        self._folder(kind, name)
        data = read_bytes(self.path(name), entry[name]["bytes"] + 1, links=False)
        if _digest(data) != entry[name]["sha256"]:
            raise RunError(
                f"'{self.path(name)}' does not match its checksum; run the study again, which "
                "computes it anew."
            )
        return data

    def store(self, name: str, kind: Kind, data: bytes) -> None:
        """Write a result and note it, in this order."""
        path = self._path(name, kind)
        if name in self._results and self._results[name]["kind"] != kind:
            self.forget(name)
        make_folder(self._folder(kind, name))
        write_atomic(path, data)
        (self._documents if kind == "document" else self._results)[name] = {
            "kind": kind,
            "file": str(path.relative_to(self.directory)),
            "bytes": len(data),
            "sha256": _digest(data),
        }
        self._save()

    def forget(self, name: str) -> None:
        """Drop a stored result or document and remove its file."""
        path = self.path(name)
        self._folder("document" if name in self._documents else "table", name)
        self._results.pop(name, None)
        self._documents.pop(name, None)
        self._save()
        remove(path)

    # --- the run's own files ------------------------------------------------------------------

    def write_file(self, name: str, data: bytes) -> None:
        """Write one of the run's own files, which need not be new.

        Two files cannot change at once. Until the new content stands in its place the manifest
        knows both checksums, so that a kill at any point leaves a file that is known.
        """
        path, digest = self.directory / name, _digest(data)
        there = sha256(path, links=False) if is_real(path) else None
        known = [one for one in self._files.get(name, ()) if one == there and one != digest]
        self._files[name] = [*known, digest]
        self._save()
        write_atomic(path, data)
        self.note_file(name, data)

    def note_file(self, name: str, data: bytes) -> None:
        """Take down the checksum of one of the run's own files as it is."""
        if self._files.get(name) != [_digest(data)]:
            self._files[name] = [_digest(data)]
            self._save()

    def remove_file(self, name: str) -> None:
        """Remove one of the run's own files."""
        remove(self.directory / name)
        if self._files.pop(name, None) is not None:
            self._save()

    def is_file(self, name: str, data: bytes) -> bool:
        """Whether `data` is what the run wrote into its own file of that name."""
        return _digest(data) in self._files.get(name, ())

    # --- unfinished tables --------------------------------------------------------------------

    def chunks(self, name: str, items: int, chunk_size: int) -> list[bytes]:
        """The intact chunks of an unfinished table, from the first one on without a gap.

        Chunks of another division (of another number of items) are dropped.
        """
        entry = self._partial.get(name, {})
        if (entry.get("items"), entry.get("chunk_size")) != (items, chunk_size):
            self.drop_chunks(name)
            self._partial[name] = {"items": items, "chunk_size": chunk_size, "sha256": []}
            return []
        intact = []
        for index, digest in enumerate(entry["sha256"]):
            path = self._chunk(name, index)
            if _damage(path, digest) is not None:
                break
            intact.append(read_bytes(path, links=False))
        entry["sha256"] = entry["sha256"][: len(intact)]
        return intact

    def add_chunk(self, name: str, data: bytes) -> None:
        """Store the next chunk of an unfinished table (see `chunks`, to be called first)."""
        digests = self._partial[name]["sha256"]
        path = self._chunk(name, len(digests))
        make_folder(path.parent)
        write_atomic(path, data)
        digests.append(_digest(data))
        self._save()

    def drop_chunks(self, name: str) -> None:
        """Remove the chunks of a table, for instance since it is finished."""
        if self._partial.pop(name, None) is not None:
            self._save()
        folder = self._chunk(name, 0).parent
        remove_temporaries(folder)
        for path in folder.glob("[0-9]*.parquet"):
            remove(path)
        for emptied in (folder, folder.parent):
            with contextlib.suppress(OSError):
                emptied.rmdir()

    def clear(self) -> None:
        """Remove every stored file, the manifest last. Other people's files stay."""
        self._folder("table")
        for name in [*self._partial]:
            self.drop_chunks(name)
        for name in [*self._documents, *self._results]:
            remove(self.path(name))
        self._results, self._documents, self._files = {}, {}, {}
        remove(self.directory / STAGES)
        for folder in (RESULTS, FIGURES):
            with contextlib.suppress(OSError):
                (self.directory / folder).rmdir()

    def _take(self, data: dict[str, Any]) -> None:
        self._files, self._partial = data["files"], data["partial"]
        self._results, self._documents = data["results"], data["documents"]
        path = self.directory / STAGES
        try:
            for entries, kinds in (
                (self._results, tuple(_SUFFIXES)),
                (self._documents, ("document",)),
            ):
                for name, entry in entries.items():
                    file = self._path(name, entry["kind"]).relative_to(self.directory)
                    if entry["kind"] not in kinds or entry["file"] != str(file):
                        raise ValueError(f"'{name}' is no {kinds[0]}")
            for name, entry in self._partial.items():
                most = max(1, math.ceil(entry["items"] / max(1, entry["chunk_size"])))
                if not check_name(name) or len(entry["sha256"]) > most:
                    raise ValueError(f"'{name}' has too many chunks")
        except (ValueError, KeyError) as error:
            raise RunError(
                f"'{path}' is damaged; remove the run directory and run it again."
            ) from error

    def _save(self) -> None:
        value = {
            "files": self._files,
            "results": self._results,
            "documents": self._documents,
            "partial": self._partial,
        }
        write_atomic(self.directory / STAGES, to_json(value))
        self.exists = True

    def _folder(self, kind: str, name: str = "") -> Path:
        """Where results of a kind lie, unless that is a link to somewhere else."""
        if kind != "document":
            return real_folder(self.directory, RESULTS)
        figure = name.rpartition(".")[2] in _FIGURES
        return real_folder(self.directory, FIGURES) if figure else self.directory

    def _path(self, name: str, kind: str) -> Path:
        if kind == "document":
            stem, _, suffix = name.rpartition(".")
            if not check_name(stem) or suffix not in (*_PAGES, *_FIGURES):
                raise ValueError(f"{name!r} cannot name a document: use .html, .md, .csv, …")
            return (self.directory / FIGURES if suffix in _FIGURES else self.directory) / name
        return self.directory / RESULTS / f"{check_name(name)}{_SUFFIXES[kind]}"

    def _chunk(self, name: str, index: int) -> Path:
        folder = real_folder(self.directory, RESULTS, _CHUNKS, check_name(name))
        return folder / f"{index:06d}.parquet"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _damage(path: Path, digest: str, size: int | None = None) -> str | None:
    if not is_real(path):
        there = path.exists() or path.is_symlink()
        return "is not a regular file" if there else "is missing"
    try:
        if size is not None and path.stat().st_size != size:
            return "does not match its checksum"
        return None if sha256(path, links=False) == digest else "does not match its checksum"
    except (OSError, StorageError):
        return "cannot be read"
