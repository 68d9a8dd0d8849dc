"""Models read from their own files, where only those weights are read that stay in memory.

Hugging Face maps every file whole, and reads weights that are to lie on disk as well. Here it is
given promises in place of weights: names, shapes and types, without numbers. It does with them what
it does with weights (renames them, ties them, tells which are missing or do not fit, computes the
tables that no file holds), and afterwards each weight of the model is asked which promise it is.
Whatever was made of promises by any operation is none of them; then nothing is guessed, and Hugging
Face loads the model itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.loading.offload import attach_disk_blocks
from interp.loading.streaming.stored import Stored, stored_in
from interp.loading.streaming.stream import Source, Stream
from interp.model.elsewhere import Elsewhere

__all__ = ["Promised", "fill", "promised"]


@dataclass(frozen=True)
class Promised:
    """A Hugging Face model without numbers in its weights.

    Attributes:
        hf_model: the model; buffers that are computed have their numbers.
        info: what Hugging Face tells of missing, surplus and unfitting weights.
        sources: where the numbers of each weight and saved buffer stand, by all of its names.
    """

    hf_model: Any
    info: Mapping[str, Any]
    sources: Mapping[str, Source]


class _Promises:
    """Weights of files as Hugging Face asks for them, each of which is known again later."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.all = {name: _Promise(one, self) for name, one in stored.items()}
        self._given: dict[int, tuple[Tensor, Stored]] = {}

    def give(self, stored: Stored, dtype: torch.dtype | None) -> Tensor:
        made = torch.empty(stored.shape, dtype=dtype or stored.dtype, device="meta")
        # Held, so that no other comes to bear its identity.
        self._given[_identity(made)] = made, stored
        return made

    def source(self, weight: Tensor) -> Source | None:
        """What was promised as this weight; None if it was made of others, or differs."""
        made, stored = self._given.get(_identity(weight), (None, None))
        if made is None or stored is None or not weight.is_meta:
            return None
        same = (
            (weight.shape, weight.stride(), weight.storage_offset(), weight.dtype)
            == (made.shape, made.stride(), made.storage_offset(), made.dtype)
        ) and not (weight._version or made._version)
        return Source(stored, weight.dtype) if same else None


class _Promise:
    """Stands for a slice of a safetensors file, which Hugging Face takes whole and converts."""

    def __init__(self, stored: Stored, promises: _Promises) -> None:
        self._stored, self._promises = stored, promises

    def __getitem__(self, part: object) -> _Promise:
        if part is not Ellipsis:
            raise NotImplementedError("a promise is taken whole")
        return self

    def to(self, *, device: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        """Without numbers wherever it is wanted."""
        return self._promises.give(self._stored, dtype)


def promised(
    target: str, empty: Any, dtype: torch.dtype, shards: Sequence[Path], files: Mapping[str, Any]
) -> Promised | None:
    """Have Hugging Face build a model from promises; None where it computes with their numbers.

    Args:
        target: the folder.
        empty: the model on the meta device.
        dtype: of its weights.
        shards: the safetensors files that hold them.
        files: what Hugging Face is told about how files are found.

    Raises:
        ModelError: a file is missing, truncated or damaged, or its types are unknown.
    """
    if getattr(type(empty.config), "extra_files", ()):
        return None
    promises = _Promises({name: one for path in shards for name, one in stored_in(path).items()})
    try:
        hf_model, info = type(empty).from_pretrained(
            None,
            config=copy.deepcopy(empty.config),
            state_dict=promises.all,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception:  # it looked at numbers, or found what it will tell of when it has them
        return None
    if info.get("missing_keys") or info.get("mismatched_keys"):
        return Promised(hf_model, info, {})
    sources: dict[str, Source] = {}
    for name, tensor in _named(hf_model):
        found = promises.source(tensor)
        if found is not None:
            sources[name] = found
        elif tensor.is_meta:
            return None
    # It was told of no folder, so that it would not look for files itself.
    hf_model.config.name_or_path = hf_model.name_or_path = target
    if hf_model.can_generate():
        hf_model.generation_config = _generation(target, files)
    return Promised(hf_model, info, sources)


def fill(found: Promised, places: Mapping[str, str], main: torch.device) -> Elsewhere | None:
    """Read the weights that stay, and have the others brought when they are asked for.

    Args:
        found: the model, which gets its numbers.
        places: by the name of each module with weights where they lie: a device or "disk".
        main: where the model computes.

    Returns:
        The weights that do not lie where it computes, if there are.

    Raises:
        ModelError: a file cannot be read, or is not the one that it was.
    """
    model = found.hf_model
    files = Stream({"": found.sources}, torch.device("cpu"))
    try:
        _tie(model, files)
        elsewhere: dict[str, Source | Tensor] = {}
        # Tied weights are one; held, so that no other comes to bear an identity.
        here: dict[int, tuple[Tensor, Source | nn.Parameter]] = {}
        for path, module in model.named_modules():
            for part, empty in module._parameters.items():
                name = f"{path}.{part}" if path else part
                if empty is None:
                    continue
                if name not in found.sources:  # what files may lack, Hugging Face has made up
                    module._parameters[part] = nn.Parameter(empty.detach().to(main))
                    continue
                if id(empty) not in here:
                    lies = found.sources[name]
                    here[id(empty)] = (
                        empty,
                        lies if places[path] == "disk" else _read(files, lies, name, places[path]),
                    )
                known = here[id(empty)][1]
                if isinstance(known, Source):
                    elsewhere[name] = known
                else:
                    module._parameters[part] = known
                    if known.device != main:
                        elsewhere[name] = known.detach()
            for part, buffer in module._buffers.items():
                if buffer is None:
                    continue
                name = f"{path}.{part}" if path else part
                numbers = files.one(name) if name in found.sources else buffer
                module._buffers[part] = numbers.to(main)
    finally:
        files.close()
    return attach_disk_blocks(model, elsewhere, main) if elsewhere else None


def _read(files: Stream, source: Source, name: str, where: str) -> nn.Parameter:
    # Hugging Face leaves what it need not convert in the file, which it maps, and where a matrix
    # begins decides in which order a processor adds: so it begins where it would there.
    mapped = (
        source.dtype == source.stored.dtype and source.stored.begin % source.dtype.itemsize == 0
    )
    values = files.one(name, source.stored.begin if mapped else 0).to(where)
    return nn.Parameter(values, requires_grad=values.is_floating_point())


def _tie(model: Any, files: Stream) -> None:
    """Tie weights that a configuration ties and of which each stands in the files, if equal.

    Hugging Face does so itself where it has numbers, and leaves them apart if they differ.
    """
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    for target, source in list(tied.items()):
        mine, other = model.get_parameter(target), model.get_parameter(source)
        if mine is other:
            continue
        if mine.shape == other.shape and torch.equal(files.one(target), files.one(source)):
            path, _, part = target.rpartition(".")
            setattr(model.get_submodule(path), part, other)
        else:
            del tied[target]


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]


def _generation(target: str, files: Mapping[str, Any]) -> Any:
    """What a folder says of how text is written with its model."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(target, **files)
    except OSError:
        return GenerationConfig.from_pretrained(
            target, config_file_name="config.json", _from_model_config=True, **files
        )


def _identity(tensor: Tensor) -> int:
    found: int = tensor.untyped_storage()._cdata
    return found
