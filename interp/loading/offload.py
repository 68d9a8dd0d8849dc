"""Blocks whose weights lie in the model's files, or in other memory, brought one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from interp.errors import ModelError
from interp.model.elsewhere import Elsewhere, Slot
from interp.model.identity.fingerprint import plain_name

__all__ = ["Stored", "attach_disk_blocks", "group_of"]

_NUMBERED = re.compile(r"(?:.*?\.)?\d+(?=\.)")


@dataclass(frozen=True)
class Stored:
    """A weight in a safetensors file.

    Attributes:
        file: which.
        name: what it is called there.
        dtype: what it is to be here.
    """

    file: Path
    name: str
    dtype: torch.dtype


def attach_disk_blocks(
    hf_model: nn.Module, weights: Mapping[str, Stored | Tensor], device: torch.device
) -> Elsewhere:
    """Have a model bring some of its weights when they are asked for, block by block.

    Args:
        hf_model: which may be without numbers where these weights are.
        weights: where they lie, by the names that a checkpoint has: files, or memory that the model
            does not compute in.
        device: where it computes.
    """
    elsewhere = Elsewhere(Files(weights, device), device)
    for path, module in hf_model.named_modules():
        names = {n: f"{path}.{n}" if path else n for n in module._parameters}
        mine = {n: Slot(group_of(name), name) for n, name in names.items() if name in weights}
        if mine:
            elsewhere.take(module, mine)
    return elsewhere


def group_of(name: str) -> str:
    """What a weight is brought with: its block, or the module that holds it."""
    name = plain_name(name)
    block = _NUMBERED.match(name)
    return block.group() if block else name.rpartition(".")[0]


class Files:
    """Weights in safetensors files or in memory, as `Elsewhere` asks for them.

    Args:
        weights: where each lies, by name.
        device: where it is wanted.
    """

    def __init__(self, weights: Mapping[str, Stored | Tensor], device: torch.device) -> None:
        self._weights, self._device = weights, device
        self._groups: dict[str, list[str]] = {}
        for name in weights:
            self._groups.setdefault(group_of(name), []).append(name)
        files = {one.file for one in weights.values() if isinstance(one, Stored)}
        self._files = {file: _stamp(file) for file in sorted(files)}

    def group(self, name: str) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        by_file: dict[Path, list[tuple[str, Stored]]] = {}
        for weight in self._groups[name]:
            one = self._weights[weight]
            if isinstance(one, Stored):
                by_file.setdefault(one.file, []).append((weight, one))
            else:
                found[weight] = one.to(self._device)
        for file, wanted in by_file.items():
            found |= self._read(file, wanted, self._device)
        return found

    def one(self, name: str) -> Tensor:
        one = self._weights[name]
        if isinstance(one, Stored):
            return self._read(one.file, [(name, one)], torch.device("cpu"))[name]
        return one

    def state(self) -> Hashable:
        self._check(self._files)
        held = (one for one in self._weights.values() if isinstance(one, Tensor))
        return (*self._files.items(), *((one.data_ptr(), one._version) for one in held))

    def _read(
        self, file: Path, wanted: Iterable[tuple[str, Stored]], device: torch.device
    ) -> dict[str, Tensor]:
        self._check([file])
        try:
            with safe_open(str(file), framework="pt", device="cpu") as content:
                # Copies: what is mapped would change, or end the process, with the file.
                return {
                    name: content.get_tensor(one.name).to(device, one.dtype, copy=True)
                    for name, one in wanted
                }
        except (OSError, SafetensorError) as error:
            raise _changed(file) from error

    def _check(self, files: Iterable[Path]) -> None:
        for file in files:
            if _stamp(file) != self._files[file]:
                raise _changed(file)


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise _changed(file) from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _changed(file: Path) -> ModelError:
    return ModelError(
        f"'{file}' is no longer the file that the model was loaded from, and some of its blocks "
        "are read from there; load the model again."
    )
