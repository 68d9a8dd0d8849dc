"""Where a model comes from: a bundled organism, a local folder, or a hub.

A folder is checked before anything is loaded from it, so that what is wrong is said in one
sentence instead of a traceback from three libraries down. Only safetensors are read: a pickled
checkpoint can run code.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from cache.files import expanded
from interp.errors import ModelError
from interp.loading.configuration import Weights, check_configuration, read_json, weights_in
from interp.model.vocabulary import quoted

ENTRY_POINT_GROUP = "obverse.models"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
# What Hugging Face opens in a folder besides Python, which it is told to leave alone.
_OPENED = {".json", ".txt", ".model", ".jinja", ".safetensors", ".tiktoken", ".bpe", ".vocab"}
_LARGEST = 512 << 20  # bytes, of anything but weights
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt*", "*.h5", "*.msgpack")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def bundled_models() -> dict[str, Path]:
    """The folders of the models that installed packages bring along, by name."""
    return {point.name: Path(point.load()()) for point in _points()}


def _points() -> Sequence[EntryPoint]:
    return _points_of(entry_points, tuple(map(_changed, sys.path)))


@functools.lru_cache(maxsize=1)
def _points_of(
    read: Callable[..., Iterable[EntryPoint]], _found_in: tuple[tuple[str, int], ...]
) -> Sequence[EntryPoint]:
    """The entry points of the packages in some folders, whose metadata is a file for each."""
    return tuple(read(group=ENTRY_POINT_GROUP))


def _changed(folder: str) -> tuple[str, int]:
    """When something was last installed into a folder, or removed from it, in nanoseconds."""
    try:
        return folder, os.stat(folder or ".").st_mtime_ns
    except OSError:
        return folder, 0


def locate(source: str | Path) -> tuple[str, Path | None]:
    """Resolve `source` to (what to hand to Hugging Face, the local folder if it is one).

    A name is looked up among the bundled models first, then as a folder, and is otherwise taken
    for a hub id. A ModelError says what is wrong with a folder, or that no such thing can be meant.
    """
    text = str(source)
    names = [point.name for point in _points()]
    if text in names:
        folder = bundled_models()[text]
        check_folder(folder)
        return str(folder), folder
    path = expanded(text)
    if os.path.exists(path):  # False, not an OSError, for a name that no file can have
        check_folder(path)
        return str(path), path
    if text.startswith((".", "/", "~")) or not _HUB_ID.match(text):
        raise ModelError(f"There is no folder '{text}'; give an existing model folder or a hub id.")
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.8)
    if near:
        # Asking the hub would take long where there is none, and can only end in the same advice.
        raise ModelError(f"Unknown model '{text}'; did you mean '{near[0]}'?")
    return text, None


def unknown_model(source: str, reason: str) -> ModelError:
    """The error for a hub id that could not be loaded, with the nearest bundled name."""
    names = sorted(bundled_models())
    near = difflib.get_close_matches(source, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"bundled are: {', '.join(names) or 'none'}."
    return ModelError(
        f"Unknown model '{source}': it is neither bundled nor a folder, and the hub did not give "
        f"it ({reason}); {hint}"
    )


def check_folder(folder: Path) -> Weights:
    """Names, shapes and types of the weights in `folder`, if it can be loaded.

    Raises:
        ModelError: it does not hold a configuration, the whole safetensors of it and a tokenizer;
            or something in it is no regular file, or points out of it.
    """
    if not folder.is_dir():
        raise ModelError(
            f"'{folder}' is a file; give the folder that holds the model's config.json."
        )
    if not (folder / "config.json").exists():
        raise ModelError(f"'{folder}' is not a model folder: it has no config.json.")
    _check_files(folder)
    weights = weights_in(shards_in(folder))
    check_configuration(folder / "config.json", weights)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"'{folder}' has no tokenizer; put tokenizer.json and tokenizer_config.json beside "
            "the weights."
        )
    return weights


def _check_files(folder: Path) -> None:
    """Whatever Hugging Face may open is a regular file, and of a size that can be read."""
    for path in (*folder.iterdir(), *(folder / "additional_chat_templates").glob("*")):
        if path.suffix not in _OPENED or path.is_dir():
            continue
        try:
            status = path.stat()
        except OSError as error:
            raise ModelError(f"'{path}' is a broken link; copy the model again.") from error
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"'{path}' is no regular file but a device or a pipe; remove it.")
        if path.suffix != ".safetensors" and status.st_size > _LARGEST:
            raise ModelError(
                f"'{path}' has {status.st_size:,} bytes, more than any tokenizer or configuration; "
                "restore it from the original checkpoint."
            )
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"'{folder}' holds an adapter of another model; merge it into that one and save both "
            "together (merge_and_unload in PEFT)."
        )


def shards_in(folder: Path) -> list[Path]:
    """The weight files that Hugging Face reads.

    Raises:
        ModelError: there are none, some are missing, or the index points out of the folder.
    """
    if not any(folder.glob("*.safetensors")):
        pickled = any(path for kind in _PICKLED for path in folder.glob(kind))
        what = "only pickled weights, which can run code" if pickled else "no weights"
        raise ModelError(f"'{folder}' has {what}; save the model there as safetensors.")
    shards = _indexed_shards(folder)
    for name in shards:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"The index of '{folder}' points to {quoted(name)}, which is no safetensors file "
                "beside it; only those are read."
            )
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' lacks the weight file '{name}'; copy the model again.")
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if not shards:
        raise ModelError(
            f"'{folder}' has neither model.safetensors nor an index of its parts; copy the model "
            "again."
        )
    return [folder / name for name in shards]


def _indexed_shards(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return []
    found = read_json(index)
    parts = found if isinstance(found, dict) else {}
    named = parts.get("weight_map")
    if (
        not isinstance(named, dict)
        or not isinstance(parts.get("metadata", {}), dict)
        or not all(isinstance(name, str) for name in named.values())
    ):
        raise ModelError(f"'{index}' is damaged; copy the file again from its source.")
    return sorted(set(named.values()))
