"""Where a model comes from: a bundled organism, a local folder, or a hub.

A folder is checked before anything is loaded from it, so that what is wrong is said in one
sentence instead of a traceback from three libraries down. Only safetensors are read: a pickled
checkpoint can run code.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from importlib.metadata import entry_points
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cache.files import expanded
from interp.errors import ModelError

ENTRY_POINT_GROUP = "obverse.models"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def bundled_models() -> dict[str, Path]:
    """The folders of the models that installed packages bring along, by name."""
    return {point.name: Path(point.load()()) for point in entry_points(group=ENTRY_POINT_GROUP)}


def locate(source: str | Path) -> tuple[str, Path | None]:
    """Resolve `source` to (what to hand to Hugging Face, the local folder if it is one).

    A name is looked up among the bundled models first, then as a folder, and is otherwise taken
    for a hub id. A ModelError says what is wrong with a folder, or that no such thing can be meant.
    """
    text = str(source)
    names = [point.name for point in entry_points(group=ENTRY_POINT_GROUP)]
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


def check_folder(folder: Path) -> None:
    """Raise a ModelError unless `folder` holds a config, whole safetensors and a tokenizer."""
    if not folder.is_dir():
        raise ModelError(
            f"'{folder}' is a file; give the folder that holds the model's config.json."
        )
    _check_config(folder)
    _check_weights(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"'{folder}' has no tokenizer; put tokenizer.json and tokenizer_config.json beside "
            "the weights."
        )


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"'{folder}' is not a model folder: it has no config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"'{path}' cannot be read as JSON; restore it from the original checkpoint."
        ) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"'{path}' names no model_type; it is not a Hugging Face configuration.")


def _check_weights(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        what = "only pickled weights, which can run code" if pickled else "no weights"
        raise ModelError(f"'{folder}' has {what}; save the model there as safetensors.")
    for name in _indexed_shards(folder):
        if not (folder / name).is_file():
            raise ModelError(f"'{folder}' lacks the weight file '{name}'; copy the model again.")
    for shard in shards:
        try:
            with safe_open(str(shard), framework="pt") as weights:
                weights.keys()
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"'{shard}' is truncated or damaged; copy the file again from its source."
            ) from error


def _indexed_shards(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    try:
        return {
            str(name)
            for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"'{index}' is damaged; copy the file again from its source.") from error
