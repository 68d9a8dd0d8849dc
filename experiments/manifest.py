"""The results a run has stored so far, each with its checksum.

A result counts as stored once it stands in stages.json; a file whose content does not have the
checksum given there is as good as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Literal

from cache.files import make_folder, read_bytes, remove, remove_temporaries, sha256, write_atomic
from experiments.errors import RunError, StorageError
from experiments.layout import RESULTS, STAGES, check_name, read_json, write_json

__all__ = ["Kind", "Manifest"]

Kind = Literal["table", "dataset", "document"]
_SUFFIXES: dict[str, str] = {"table": ".parquet", "dataset": ".nc"}
_CHUNKS = ".chunks"


class Manifest:
    """stages.json of one run directory, and the files it speaks of.

    Paths are derived from names, never read from the file: a manifest that somebody else wrote
    cannot point outside of its directory.
    """

    def __init__(self, directory: Path) -> None:
        """Read the manifest; a missing one is empty. Raises RunError for a damaged one."""
        self.directory = directory
        path = directory / STAGES
        data = read_json(path) if path.exists() else {}
        self._results: dict[str, dict[str, str]] = data.get("results", {})
        self._documents: dict[str, dict[str, str]] = data.get("documents", {})
        self._partial: dict[str, dict[str, Any]] = data.get("partial", {})
        try:
            for name, entry in self._results.items():
                _ = self._path(name, entry["kind"]), entry["sha256"]
            for name, entry in self._documents.items():
                _ = self._path(name, "document"), entry["sha256"]
            for name, entry in self._partial.items():
                _ = check_name(name), entry["items"], entry["chunk_size"], list(entry["sha256"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"'{path}' is damaged; remove the run directory and run it again."
            ) from error

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
        return _damage(self.path(name), entry["sha256"])

    def read(self, name: str, kind: Kind) -> bytes:
        """The content of a stored result. Raises RunError where it is missing or changed."""
        entry = self._documents if kind == "document" else self._results
        if name not in entry or (kind != "document" and entry[name]["kind"] != kind):
            there = ", ".join(self.names(kind)) or "none"
            raise RunError(f"'{self.directory}' has no {kind} '{name}'; there are: {there}.")
        data = read_bytes(self.path(name))
        if hashlib.sha256(data).hexdigest() != entry[name]["sha256"]:
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
        make_folder(path.parent)
        write_atomic(path, data)
        entry = {"kind": kind, "file": str(path.relative_to(self.directory))}
        entry["sha256"] = hashlib.sha256(data).hexdigest()
        (self._documents if kind == "document" else self._results)[name] = entry
        self._save()

    def forget(self, name: str) -> None:
        """Drop a stored result or document and remove its file."""
        path = self.path(name)
        self._results.pop(name, None)
        self._documents.pop(name, None)
        self._save()
        remove(path)

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
            intact.append(read_bytes(path))
        entry["sha256"] = entry["sha256"][: len(intact)]
        return intact

    def add_chunk(self, name: str, data: bytes) -> None:
        """Store the next chunk of an unfinished table (see `chunks`, to be called first)."""
        digests = self._partial[name]["sha256"]
        path = self._chunk(name, len(digests))
        make_folder(path.parent)
        write_atomic(path, data)
        digests.append(hashlib.sha256(data).hexdigest())
        self._save()

    def drop_chunks(self, name: str) -> None:
        """Remove the chunks of a table, for instance since it is finished."""
        if self._partial.pop(name, None) is not None:
            self._save()
        folder = self.directory / RESULTS / _CHUNKS / check_name(name)
        remove_temporaries(folder)
        for path in folder.glob("[0-9]*.parquet"):
            remove(path)
        for emptied in (folder, folder.parent):
            with contextlib.suppress(OSError):
                emptied.rmdir()

    def clear(self) -> None:
        """Remove every stored file, the manifest last. Other people's files stay."""
        for name in [*self._partial]:
            self.drop_chunks(name)
        for name in [*self._documents, *self._results]:
            remove(self.path(name))
        self._results, self._documents = {}, {}
        remove(self.directory / STAGES)
        with contextlib.suppress(OSError):
            (self.directory / RESULTS).rmdir()

    def _save(self) -> None:
        value = {"results": self._results, "documents": self._documents, "partial": self._partial}
        write_json(self.directory / STAGES, value)

    def _path(self, name: str, kind: str) -> Path:
        if kind == "document":
            stem, _, suffix = name.rpartition(".")
            if not check_name(stem) or suffix not in ("html", "md", "txt", "csv", "svg"):
                raise ValueError(f"{name!r} cannot name a document: use .html, .md, .txt, …")
            return self.directory / name
        return self.directory / RESULTS / f"{check_name(name)}{_SUFFIXES[kind]}"

    def _chunk(self, name: str, index: int) -> Path:
        return self.directory / RESULTS / _CHUNKS / check_name(name) / f"{index:06d}.parquet"


def _damage(path: Path, digest: str) -> str | None:
    if not path.is_file():
        return "is missing"
    try:
        return None if sha256(path) == digest else "does not match its checksum"
    except StorageError:
        return "cannot be read"
