"""What a space's model answers to a fixed input, kept beside its activations.

A space is named by weights and configuration. Code has no name: two versions of a library, or a
class that somebody patched before the model was loaded, compute other activations under the same
name. So each space keeps the activations of a short fixed input, and a model is compared with them
when a process uses it first.
"""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from cache.errors import DamageError, GoneError, StorageError
from cache.files import (
    TEMPORARY_PREFIX,
    make_folder,
    read_bytes,
    real_folder,
    remove,
    write_atomic,
)
from cache.folder.folder import Folder
from cache.index.queries import Index
from cache.keys.source import ActivationSource
from cache.keys.space import Space
from cache.shards.sidecar import digest, seal_json

__all__ = ["FOLDER", "HasWitness", "Witness", "Witnesses", "compare"]

FOLDER = "witnesses"
_FORMAT = "obverse-witness-1"
_MOST_NUMBERS = 1 << 18
_MOST_BYTES = 8 << 20
# Shards of which a row is computed again where there is no witness, and how much more rounding
# they may show: prompts are longer, and were run together with others.
_TRIED = 3
_LENIENCE = 4


@dataclass(frozen=True)
class Witness:
    """Activations of a fixed input.

    Attributes:
        values: in float32 [block, position, number].
        tolerance: the relative error, of each vector, that rounding makes in this process.
    """

    values: npt.NDArray[np.float32]
    tolerance: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float32], tolerance: float) -> Witness:
        """Of large models some numbers of each vector, evenly spaced, are enough."""
        blocks, positions, width = values.shape
        kept = max(1, min(width, _MOST_NUMBERS // max(1, blocks * positions)))
        places = np.linspace(0, width - 1, kept).astype(np.int64)
        return cls(np.ascontiguousarray(values[..., places], dtype="<f4"), tolerance)

    def agrees(self, other: Witness) -> bool:
        """Whether both are of one model, but for rounding."""
        if self.values.shape != other.values.shape:
            return False
        return _agree(self.values, other.values, max(self.tolerance, other.tolerance))

    def encode(self, space: Space) -> bytes:
        return seal_json(
            {
                "format": _FORMAT,
                "space": space.id,
                "shape": list(self.values.shape),
                "values": base64.b64encode(self.values.tobytes()).decode(),
                "tolerance": self.tolerance,
            }
        )

    @classmethod
    def decode(cls, content: bytes, space: Space) -> Witness:
        """Raises a DamageError if a single byte is wrong."""
        try:
            body = json.loads(content)["body"]
            if seal_json(body) != content or (body["format"], body["space"]) != (_FORMAT, space.id):
                raise ValueError("another content")
            shape, tolerance = body["shape"], body["tolerance"]
            if len(shape) != 3 or not all(type(n) is int and 0 < n < 1 << 32 for n in shape):
                raise ValueError("no shape")
            # With a larger one any model would agree.
            if type(tolerance) is not float or not 0 <= tolerance < 1:
                raise ValueError("no tolerance")
            values = np.frombuffer(base64.b64decode(body["values"]), "<f4").reshape(shape)
            return cls(values, tolerance)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamageError("the witness is damaged") from error


@runtime_checkable
class HasWitness(Protocol):
    """A source that can tell what it answers to a fixed input."""

    def witness(self) -> Witness: ...


class Witnesses:
    """The witnesses of a store, and which of them this process has been compared with."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._admitted: set[tuple[str, bytes]] = set()

    def admit(self, source: ActivationSource, space: Space, *, keep: bool = False) -> None:
        """Compare a model with what a space was filled by; asked before the space is used.

        A space from before there were witnesses is compared by some of its rows, which are
        computed again.

        Args:
            keep: whether a witness is written where there is none.

        Raises:
            StorageError: they compute something else.
        """
        if not isinstance(source, HasWitness):
            return
        ours = source.witness()
        known = (space.id, digest(ours.values.tobytes()))
        if known in self._admitted:
            return
        if not compare(self._folder.root, ours, space):
            shards = self._folder.catalogue.ask(Index.shards, space.id)
            for shard in _spread(shards):
                if not _is_computed_again(self._folder, shard, source, space, ours.tolerance):
                    raise _other_model(self._folder.root, space)
            if not keep:
                return
            if not self._folder.read_only:
                # Where it cannot be written, rows are compared the next time.
                with contextlib.suppress(StorageError):
                    _write(self._folder.root, ours, space)
        self._admitted.add(known)

    def forget(self, space: Space) -> None:
        """Remove the witness of a space of which everything was removed."""
        self._admitted = {known for known in self._admitted if known[0] != space.id}
        remove(_path(self._folder.root, space))

    def tidy(self) -> list[str]:
        """Remove witnesses of spaces of which nothing is left; returns a line for each."""
        done = []
        place = real_folder(self._folder.root, FOLDER)
        ids = {space.id for space in self._folder.catalogue.ask(Index.spaces)}
        used = {one for one in ids if self._folder.catalogue.ask(Index.shards, one)}
        for path in sorted(place.glob("*")) if place.is_dir() else []:
            if path.is_dir() and not path.is_symlink():
                continue
            if path.stem not in used or path.name.startswith(TEMPORARY_PREFIX):
                remove(path)
                done.append(f"'{path.name}' is the witness of nothing and is removed")
        self._admitted.clear()
        return done


def compare(root: Path, ours: Witness, space: Space) -> bool:
    """Whether a space has a witness; a StorageError if it is another model's."""
    try:
        content = read_bytes(_path(root, space), _MOST_BYTES, links=False)
        theirs = Witness.decode(content, space)
    except (StorageError, DamageError):
        return False
    if not ours.agrees(theirs):
        raise _other_model(root, space)
    return True


def _write(root: Path, witness: Witness, space: Space) -> None:
    path = _path(root, space)
    make_folder(path.parent)
    write_atomic(path, witness.encode(space))


def _path(root: Path, space: Space) -> Path:
    return real_folder(root, FOLDER) / f"{space.id}.json"


def _other_model(root: Path, space: Space) -> StorageError:
    name = space.label or "the model"
    return StorageError(
        f"What '{root}' holds of {name} was computed by other code than {name} runs here, with the "
        "same weights (another version of a library, or a patch, then or now), so it is neither "
        "read nor added to; use another store, or remove it with 'obverse cache rm'."
    )


def _spread(shards: list[str]) -> list[str]:
    places = np.linspace(0, len(shards) - 1, min(_TRIED, len(shards))).astype(int)
    return [shards[place] for place in places]


def _is_computed_again(
    folder: Folder, shard: str, source: ActivationSource, space: Space, tolerance: float
) -> bool:
    """Whether the shortest row of a shard is what the model computes; true if it cannot be told."""
    try:
        reader = folder.reader(shard)
        row = int(np.argmin(reader.sidecar.lengths))
        sites = reader.sidecar.sites
        stored = {site.name: reader.tensor(site.name, row, row + 1) for site in sites}
        ids = reader.ids(row)
    except (DamageError, GoneError):
        return True
    limit = _LENIENCE * max(tolerance, torch.finfo(space.torch_dtype).eps)
    for _, values in source.activations([ids], sites):
        for name, value in values.items():
            ours = value.to("cpu", torch.float32).flatten(1).numpy()
            if not _agree(ours, stored[name].float().flatten(1).numpy(), limit):
                return False
    return True


def _agree(
    ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32], tolerance: float
) -> bool:
    """Whether vectors (the last axis) differ by no more than a share of their norm."""
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return False
    mine, other = (np.nan_to_num(x, posinf=0, neginf=0).astype(np.float64) for x in (ours, theirs))
    size = np.linalg.norm(other, axis=-1)
    least = 1e-6 * max(1e-12, float(size.max(initial=0)))
    return bool(
        (np.linalg.norm(mine - other, axis=-1) <= tolerance * np.maximum(size, least)).all()
    )
