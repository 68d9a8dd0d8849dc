"""On which devices, or on disk, the parts of a model lie."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache.errors import StorageError
from cache.files import expanded
from cache.sizes import parse_size, show_size
from interp.errors import DoesNotFit, ModelError, first_sentence
from interp.loading.offload import attach_disk_blocks
from interp.loading.streaming.stored import Stored, changed, stored_in
from interp.loading.streaming.stream import Source
from interp.model.elsewhere import Elsewhere
from interp.model.memory import available_memory
from interp.model.placed import Placed
from interp.model.vocabulary import quoted

__all__ = ["DeviceMap", "MaxMemory", "Wanted", "for_hugging_face", "place", "stripped"]

DeviceMap = str | Mapping[str, int | str | torch.device]
"""Parts of a model by the names of Hugging Face's modules, and where each lies."""
MaxMemory = Mapping[int | str, int | str]

# Words for a map that is worked out from how much memory is free.
_WORKED_OUT = ("auto", "balanced", "balanced_low_0", "sequential")
# What PyTorch raises for devices that are not here, numbers of more than 64 bits, and kinds of
# device whose modules are not installed.
_NO_DEVICE = (AssertionError, ImportError, OverflowError, RuntimeError, TypeError, ValueError)
# Of what is free, left to activations and to blocks that are brought.
_LEFT_FREE = 0.2


@dataclass(frozen=True)
class Wanted:
    """How a model is to be placed, as the user wrote it.

    Attributes:
        device_map: a map, or a word.
        offload_folder: for weights that must be written anew before they can be read block by
            block.
        max_memory: bytes, or "10GB", by device: a GPU's number or "cpu".
    """

    device_map: DeviceMap
    offload_folder: str | Path | None = None
    max_memory: MaxMemory | None = None


def place(name: str, empty: nn.Module, dtype: torch.dtype, wanted: Wanted) -> Placed:
    """Find a place for every part of a model.

    Args:
        name: of the model, for errors.
        empty: the model without numbers.
        dtype: in which it will be loaded.

    Raises:
        DoesNotFit: a device has less memory free than its parts take.
        ModelError: the map names what there is not, or leaves something out.
    """
    if isinstance(wanted.device_map, str) and wanted.device_map in _WORKED_OUT:
        limits = _limits(wanted.max_memory)
        parts = _worked_out(empty, dtype, wanted.device_map, limits)
    else:
        if wanted.max_memory is not None:
            raise ModelError(
                "max_memory is for a map that is worked out; give device_map='auto' with it, or "
                "leave it out."
            )
        parts = _given(name, empty, wanted.device_map)
    sizes = _sizes(empty, parts, dtype)
    folder = _folder(wanted.offload_folder, parts, asked=isinstance(wanted.device_map, str))
    _check_room(name, sizes, dtype)
    return Placed(parts, folder)


def for_hugging_face(empty: nn.Module, placed: Placed) -> dict[str, str]:
    """The map written out for each module that has weights or tables of its own."""
    found: dict[str, str] = {}
    tied: dict[int, str] = {}
    for path, module in empty.named_modules():
        if module._parameters or module._buffers:
            where = _where(path, placed.parts) or str(placed.main)
            # A tied weight lies where the first module that has it does.
            for weight in module._parameters.values():
                where = tied.setdefault(id(weight), where) if weight is not None else where
            found[path] = where
    if set(found.values()) == {"disk"}:  # which accelerate refuses
        outside = [
            (sum(weight.numel() for weight in module.parameters(recurse=False)), path)
            for path, module in empty.named_modules()
            if path in found and not any(map(str.isdigit, path.split(".")))
        ]
        found[min(outside)[1]] = "cpu"
    return found


def stripped(hf_model: Any, placed: Placed) -> Elsewhere | None:
    """Take accelerate's hooks off a model, and bring what is not where it computes our way.

    Hooks of modules miss what TransformerLens and instruments read of weights, and take the place
    of `forward`, as hooks of instruments do.
    """
    from accelerate.hooks import remove_hook_from_module

    files = _index(hf_model)
    remove_hook_from_module(hf_model, recurse=True)
    if hasattr(hf_model, "hf_device_map"):
        del hf_model.hf_device_map
    main, weights = placed.main, dict[str, Source | Tensor]()
    for name, tensor in hf_model.named_parameters(remove_duplicate=False):
        if tensor.device.type == "meta":
            if name not in files:
                raise ModelError(f"'{name}' was left without numbers; load the model in memory.")
            weights[name] = files[name]
        elif tensor.device != main:
            weights[name] = tensor.detach()
    for module in hf_model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                raise ModelError(f"'{name}' was left without numbers; load the model in memory.")
            if buffer is not None and buffer.device != main:
                module._buffers[name] = buffer.to(main)
    return attach_disk_blocks(hf_model, weights, main) if weights else None


def _index(hf_model: nn.Module) -> dict[str, Source]:
    """Where the weights lie that were left on disk, as accelerate was told."""
    for module in hf_model.modules():
        hooks = [getattr(module, "_hf_hook", None)]
        for hook in hooks:
            hooks += getattr(hook, "hooks", ())
            known: Any = getattr(getattr(hook, "weights_map", None), "dataset", None)
            if getattr(known, "index", None):
                paths = {Path(at["safetensors_file"]) for at in known.index.values()}
                files = {path: stored_in(path) for path in sorted(paths)}
                return {name: _source(name, at, files) for name, at in known.index.items()}
    return {}


def _source(name: str, at: Mapping[str, str], files: Mapping[Path, Mapping[str, Stored]]) -> Source:
    path = Path(at["safetensors_file"])
    found = files[path].get(at.get("weight_name", name))
    if found is None:
        raise changed(path)
    return Source(found, getattr(torch, at["dtype"]))


# -- maps ------------------------------------------------------------------------------------------


def _given(name: str, empty: nn.Module, device_map: DeviceMap) -> dict[str, str]:
    if isinstance(device_map, str):
        device_map = {"": device_map}
    names = {path for path, _ in empty.named_modules()}
    weights = {path for path, _ in empty.named_parameters(remove_duplicate=False)}
    parts: dict[str, str] = {}
    for part, where in device_map.items():
        if part not in names:
            near = difflib.get_close_matches(str(part), sorted(names), n=1, cutoff=0.3)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise ModelError(
                f"The device_map names {quoted(str(part))}, and '{name}' has no part of that name"
                f"{hint}"
            )
        parts[part] = _device(where)
    missing = [weight for weight in sorted(weights) if _where(weight, parts) is None]
    if missing:
        raise ModelError(
            f"The device_map has no place for {len(missing)} weights of '{name}' "
            f"('{missing[0]}' first); give one for '' to place what is left."
        )
    return parts


def _device(where: object) -> str:
    if str(where) in ("disk", "cpu"):
        return str(where)
    try:
        if isinstance(where, bool):
            raise ValueError("no number")
        device = torch.device("cuda", where) if isinstance(where, int) else torch.device(str(where))
        if device.type in ("meta", "cpu"):
            raise ValueError("no such place")
        torch.empty(0, device=device)
    except _NO_DEVICE as error:
        raise ModelError(
            f"The device_map puts parts on {quoted(str(where))}, which is not here; there are "
            f"{', '.join(_here())}."
        ) from error
    return f"{device.type}:{device.index or 0}" if device.type == "cuda" else str(device)


def _here() -> list[str]:
    return [*(f"'cuda:{n}'" for n in range(torch.cuda.device_count())), "'cpu'", "'disk'"]


def _where(weight: str, parts: Mapping[str, str]) -> str | None:
    """Where a weight lies: the longest name that it begins with tells."""
    while weight not in parts:
        if not weight:
            return None
        weight = weight.rpartition(".")[0]
    return parts[weight]


def _limits(max_memory: MaxMemory | None) -> dict[int | str, int]:
    """Bytes for weights by device: what is given, or most of what is free."""
    found: dict[int | str, int] = {}
    if max_memory is not None:
        for where, size in max_memory.items():
            known = where == "cpu" or (
                isinstance(where, int) and 0 <= where < torch.cuda.device_count()
            )
            if not known:
                raise ModelError(
                    f"max_memory names {quoted(str(where))}, which is not here; give the numbers "
                    "of GPUs, or 'cpu'."
                )
            try:
                found[where] = parse_size(size)
            except StorageError as error:
                raise ModelError(f"max_memory: {first_sentence(error)}") from error
        return found
    for number in range(torch.cuda.device_count()):
        found[number] = int(torch.cuda.mem_get_info(number)[0] * (1 - _LEFT_FREE))
    free = available_memory()
    found["cpu"] = int((free if free is not None else 1 << 62) * (1 - _LEFT_FREE))
    return found


def _worked_out(
    empty: nn.Module, dtype: torch.dtype, word: str, limits: Mapping[int | str, int]
) -> dict[str, str]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = getattr(empty, "_no_split_modules", None)
    memory: dict[int | str, int] = dict(limits)
    memory.setdefault("cpu", 0)
    if word != "sequential":
        memory = get_balanced_memory(
            empty,
            max_memory=memory,
            no_split_module_classes=whole,
            dtype=dtype,
            low_zero=word == "balanced_low_0",
        )
    found = infer_auto_device_map(
        empty, max_memory=memory, no_split_module_classes=whole, dtype=dtype
    )
    return {part: _device(where) for part, where in found.items()}


# -- room ------------------------------------------------------------------------------------------


def _sizes(empty: nn.Module, parts: Mapping[str, str], dtype: torch.dtype) -> dict[str, int]:
    """Bytes of the weights that lie in each place."""
    found: dict[str, int] = {}
    for name, weight in empty.named_parameters():
        where = _where(name, parts)
        assert where is not None
        found[where] = found.get(where, 0) + weight.numel() * dtype.itemsize
    return found


def _check_room(name: str, sizes: Mapping[str, int], dtype: torch.dtype) -> None:
    for where, takes in sizes.items():
        free = _free(where)
        if where != "disk" and free is not None and takes > free:
            others = ", ".join(f"{show_size(n)} on {w}" for w, n in sizes.items() if w != where)
            besides = f" (besides {others})" if others else ""
            raise DoesNotFit(
                f"'{name}' does not fit: the device_map puts {show_size(takes)} of weights in "
                f"{str(dtype).removeprefix('torch.')} on {where}, where {show_size(free)} are "
                f"free{besides}; put more of its blocks on disk."
            )


def _free(where: str) -> int | None:
    if where == "cpu":
        return available_memory()
    if not where.startswith("cuda"):
        return None
    kept = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    return int(torch.cuda.mem_get_info(where)[0]) + kept


def _folder(given: str | Path | None, parts: Mapping[str, str], *, asked: bool) -> Path | None:
    if given is None:
        return None
    if "disk" not in parts.values() and not asked:
        raise ModelError(
            "An offload_folder is for parts on disk, and the device_map puts none there; leave it "
            "out."
        )
    if not str(given):  # an empty variable of a shell; it would be where the process happens to be
        raise ModelError("The offload_folder has no name; give a folder, or leave it out.")
    folder = expanded(str(given))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"The offload_folder {quoted(str(folder))} cannot be written to ({reason}); give "
            "another."
        ) from error
    return folder
