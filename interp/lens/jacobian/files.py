"""The file of a Jacobian lens, as the paper's code and TransformerLens write it.

`torch.save` of {"J": {block: [d_model, d_model]}, "n_prompts", "source_layers", "d_model"}, and
"metadata" of plain values where there are any. What this package adds is ignored by the others:
"J_embedding", and in the metadata the model's fingerprint.
"""

from __future__ import annotations

import io
import itertools
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache.files import expanded, make_folder, open_regular, storage_errors, write_atomic
from cache.sizes import show_size
from interp.errors import ModelError, StorageError
from interp.model.model import Model

__all__ = ["Content", "check_named", "most_bytes", "place", "read", "write"]

NAME = "lens.pt"
"""What a lens is called in its folder, as TransformerLens looks for it."""

_EMBEDDING = "J_embedding"
# Besides the matrices: notes, and what a zip file needs for each entry.
_BESIDE = 16 << 20
_DEEPEST = 8
# Names and values in the notes: what stands in a file once can stand in its notes very often.
_MOST_NOTES = 1 << 20
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class _WrongError(ValueError):
    """Something in a file is not what it should be."""


@dataclass(frozen=True)
class Content:
    """What stands in a file, each thing of the right type and shape."""

    J: dict[int, Tensor]
    n_prompts: int
    metadata: dict[str, Any]
    embedding: Tensor | None


def place(path: Path | str) -> Path:
    """The file that a path names: in a folder "lens.pt"."""
    found = expanded(path)
    return found / NAME if found.is_dir() else found


def most_bytes(n_layers: int, width: int) -> int:
    """What the file of a model's lens can take, in float64."""
    return 8 * n_layers * width * width + _BESIDE


def write(
    path: Path,
    J: Mapping[int, Tensor],
    n_prompts: int,
    metadata: dict[str, Any],
    embedding: Tensor | None,
    dtype: str,
) -> None:
    """
    Raises:
        StorageError: the numbers or notes do not fit the format, or the disk refuses.
    """
    if dtype not in _DTYPES:
        raise StorageError(f"A lens is saved as {', '.join(_DTYPES)}, not as '{dtype}'.")
    kind = _DTYPES[dtype]

    def stored(matrix: Tensor) -> Tensor:
        found = matrix.detach().to("cpu", kind).contiguous()
        if not bool(torch.isfinite(found).all()):
            raise StorageError(f"The lens has numbers beyond {dtype}; save it in float32.")
        # Of its own storage: a part of a larger tensor would be written with all of it.
        return found.clone()

    try:
        notes = _notes(metadata)
    except _WrongError as error:
        raise StorageError(f"The lens cannot be saved: {error}; take that out.") from error
    payload: dict[str, Any] = {
        "J": {int(layer): stored(J[layer]) for layer in sorted(J)},
        "n_prompts": int(n_prompts),
        "source_layers": sorted(J),
        "d_model": len(next(iter(J.values()))),
    }
    if notes:
        payload["metadata"] = notes
    if embedding is not None:
        payload[_EMBEDDING] = stored(embedding)
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    make_folder(path.parent)
    write_atomic(path, buffer.getvalue())


def read(path: Path, most: int) -> Content:
    """
    Args:
        most: bytes that the file may hold, packed or unpacked.

    Raises:
        StorageError: it cannot be read, or is no lens.
    """
    with storage_errors(path, "read"), open(open_regular(path, links=True), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise StorageError(
                f"'{path}' has {show_size(size)}, more than any lens of this model; check the path."
            )
        wrong = "its content is not tensors and plain values, or is damaged"
        cause: Exception
        try:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > most:
                raise _WrongError(f"it unpacks to {show_size(unpacked)}")
            file.seek(0)
            # Tensors and plain values only: nothing in the file is run.
            return _content(torch.load(file, map_location="cpu", weights_only=True))
        except OSError:
            raise
        except _WrongError as error:
            wrong, cause = str(error), error
        except zipfile.BadZipFile as error:
            wrong, cause = "it is no file of torch.save, or is cut off", error
        except Exception as error:  # the unpickler raises a dozen unrelated types
            cause = error
    raise StorageError(
        f"'{path}' is not the file of a Jacobian lens: {wrong}; copy it again, or fit the lens "
        "again."
    ) from cause


def check_named(path: Path, metadata: Mapping[str, Any], model: Model) -> None:
    """For a file without a fingerprint, hold what it does name against the model, and warn.

    Raises:
        ModelError: it names another model, or another revision of it.
    """
    if "fingerprint" in metadata:
        return
    named = metadata.get("model_name")
    if isinstance(named, str) and _short(named) != _short(model.name):
        raise ModelError(
            f"The lens in '{path}' says that it was fitted on '{named[:80]}', not on {model.name}; "
            "load that model, or fit a lens for this one."
        )
    revision = metadata.get("model_revision")
    config = getattr(model.bridge.original_model, "config", None)
    own = getattr(config, "_commit_hash", None)
    if isinstance(revision, str) and isinstance(own, str) and revision != own:
        raise ModelError(
            f"The lens in '{path}' was fitted on revision {revision[:40]} of {model.name}, not on "
            f"{own[:40]}; load that revision."
        )
    warnings.warn(
        f"The lens in '{path}' names no fingerprint, so nothing but its shape"
        + (" and the model's name" if isinstance(named, str) else "")
        + f" tells that it was fitted on {model.name}.",
        stacklevel=4,
    )


def _short(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def _content(payload: Any) -> Content:
    """
    Raises:
        _WrongError: says what is wrong.
    """
    if not isinstance(payload, dict):
        raise _WrongError("it holds no names")
    if "J" not in payload and "jacobian_sum" in payload:
        raise _WrongError("it holds the sums of a fit that is not done")
    if not isinstance(payload.get("J"), dict) or not payload["J"]:
        raise _WrongError("it has no matrices 'J'")
    width = payload.get("d_model")
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise _WrongError("its 'd_model' is not a number of dims")
    matrices: dict[int, Tensor] = {}
    for key, matrix in payload["J"].items():
        layer = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key
        if not _is_int(layer) or not 0 <= layer < 1 << 20 or layer in matrices:
            raise _WrongError("a layer of 'J' is not the number of a block")
        matrices[layer] = _matrix(matrix, width, f"the matrix of layer {layer}")
    layers = payload.get("source_layers", list(matrices))
    if not isinstance(layers, list | tuple) or not all(map(_is_int, layers)):
        raise _WrongError("its 'source_layers' are not numbers of blocks")
    if sorted(layers) != sorted(matrices):
        raise _WrongError("its 'source_layers' are not those of 'J'")
    n_prompts = payload.get("n_prompts", 0)
    if not _is_int(n_prompts) or n_prompts < 0:
        raise _WrongError("its 'n_prompts' is not a number of prompts")
    metadata = payload.get("metadata")
    if not isinstance(metadata, dict | None):
        raise _WrongError("its 'metadata' are not names with plain values")
    metadata = _notes(metadata or {})
    start = payload.get(_EMBEDDING)
    if start is not None:
        start = _matrix(start, width, "the matrix of the embedding")
    return Content(matrices, n_prompts, metadata, start)


def _matrix(value: Any, width: int, what: str) -> Tensor:
    # A tensor can claim any shape with a stride of 0, so its shape is looked at before its numbers.
    plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout is torch.strided
    if not plain or value.device.type != "cpu" or not value.is_floating_point():
        raise _WrongError(f"{what} is not a tensor of numbers")
    if tuple(value.shape) != (width, width):
        raise _WrongError(f"{what} is not [{width}, {width}]")
    matrix: Tensor = value.detach().float().contiguous()
    if not bool(torch.isfinite(matrix).all()):
        raise _WrongError(f"{what} has numbers that are not finite")
    return matrix


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _notes(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The notes of a lens, copied."""
    found: dict[str, Any] = _plain(metadata, 0, itertools.count())
    return found


def _plain(value: Any, depth: int, count: Iterator[int]) -> Any:
    if depth > _DEEPEST:
        raise _WrongError("its notes are nested too deeply")
    if next(count) >= _MOST_NOTES:
        raise _WrongError("its notes are too many")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return [_plain(item, depth + 1, count) for item in value]
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: _plain(item, depth + 1, count) for key, item in value.items()}
    raise _WrongError(f"its notes hold a {type(value).__name__}, which is no plain value")
