"""Where a model is to lie, as it is written on a command line or in the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from cache.members import StandsTwice, each_once
from interp.errors import ModelError
from interp.model.vocabulary import quoted

__all__ = ["DEVICE_MAP", "MAX_MEMORY", "OFFLOAD_FOLDER", "from_environment", "placing"]

DEVICE_MAP, OFFLOAD_FOLDER, MAX_MEMORY = (
    "OBVERSE_DEVICE_MAP",
    "OBVERSE_OFFLOAD_FOLDER",
    "OBVERSE_MAX_MEMORY",
)
_LARGEST = 1 << 20  # characters
_DIGITS = 9  # of a GPU's number


def placing(
    device_map: str | None, offload_folder: str | None = None, max_memory: str | None = None
) -> dict[str, Any]:
    """Arguments of `load_model`; none where nothing is written.

    Args:
        device_map: a word, or a JSON object such as '{"": "cpu", "model.layers": "disk"}'.
        offload_folder: a folder.
        max_memory: such as "cpu=20GB,0=70GB".

    Raises:
        ModelError: it cannot be read.
    """
    found: dict[str, Any] = {}
    if device_map is not None:
        found["device_map"] = _map(device_map)
    if offload_folder is not None:
        found["offload_folder"] = offload_folder
    if max_memory is not None:
        found["max_memory"] = _limits(max_memory)
    return found


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The same, from the environment variables that have it."""
    names = (DEVICE_MAP, OFFLOAD_FOLDER, MAX_MEMORY)
    device_map, folder, memory = (environment.get(name) or None for name in names)
    return placing(device_map, folder, memory)


def _map(text: str) -> str | dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return text.strip()
    try:
        if len(text) > _LARGEST:
            raise ValueError("too long")
        parts = json.loads(text, object_pairs_hook=each_once)
    except StandsTwice as error:
        raise ModelError(
            f"The device map has two places for {quoted(error.member)}; give one."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"The device map {quoted(text)} is no JSON; write it like "
            '{"": "cpu", "model.layers": "disk"}, or auto.'
        ) from error
    bad = [where for where in parts.values() if isinstance(where, bool | float | list | dict)]
    if bad or None in parts.values():
        raise ModelError("A device map gives each part a GPU's number, a device or 'disk'.")
    return dict(parts)


def _limits(text: str) -> dict[int | str, str]:
    found: dict[int | str, str] = {}
    for each in text.split(","):
        where, equals, size = (part.strip() for part in each.partition("="))
        number = where.isascii() and where.isdigit() and len(where) <= _DIGITS
        device = int(where) if number else where
        if not equals or not where or device in found:
            raise ModelError(
                f"The limits {quoted(text)} cannot be read; write each device once, like "
                "cpu=20GB,0=70GB."
            )
        found[device] = size
    return found
