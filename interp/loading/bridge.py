"""From files to a Hugging Face model and its tokenizer, checked against their configuration."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.modules.module import register_module_module_registration_hook

from cache.sizes import show_size
from interp.errors import DoesNotFit, ModelError, first_sentence
from interp.loading import packing
from interp.loading.configuration import check_size
from interp.loading.offloaded import own_folder
from interp.loading.placement import Wanted, for_hugging_face, place, stripped
from interp.loading.promised import Promised, fill, promised
from interp.loading.where import check_folder, shards_in, unknown_model
from interp.model.identity.fingerprint import Outline, note_outline
from interp.model.memory import available_memory
from interp.model.vocabulary import quoted

if TYPE_CHECKING:
    from interp.model.elsewhere import Elsewhere
    from interp.model.placed import Placed

# Modules that hold no weights themselves, for each weight and besides.
_MODULES_OF_ONE_WEIGHT, _MODULES = 16, 2000
# Of a model whose files are not here yet; the largest have some tens of thousands.
_MODULES_OF_ANY = 500_000


def load_hugging_face(
    source: str,
    target: str,
    folder: Path | None,
    dtype: torch.dtype | None,
    revision: str | None,
    device: torch.device | None = None,
) -> tuple[Any, Any]:
    """A Hugging Face model, whole and in eager attention, and its tokenizer.

    Args:
        dtype: of its numbers; float32 if left out, or what packed weights were packed with.
        device: where it will go from the computer's memory, into which it is loaded.

    Raises:
        DoesNotFit: there is not enough memory for it.
        ModelError: it cannot be found or read, or its weights are not those of its configuration.
    """
    found = _load(source, target, folder, dtype, revision, device, None)
    return found.hf_model, found.tokenizer


def load_placed(
    source: str,
    target: str,
    folder: Path | None,
    dtype: torch.dtype | None,
    revision: str | None,
    wanted: Wanted,
) -> tuple[Any, Any, Placed, Elsewhere | None]:
    """As `load_hugging_face`, with its parts where they are wanted.

    Returns:
        Also where its parts lie, and the weights that do not lie where it computes, if there are.

    Raises:
        DoesNotFit: some device has not enough memory.
        ModelError: as there; or the parts cannot be placed so.
    """
    with contextlib.ExitStack() as written:
        found = _load(source, target, folder, dtype, revision, None, wanted, written)
        assert found.placed is not None
        assert found.settle is not None
        elsewhere = found.settle()
        if elsewhere is not None:  # they go when the model does
            weakref.finalize(elsewhere, written.pop_all().close)
    return found.hf_model, found.tokenizer, found.placed, elsewhere


class _Loaded(NamedTuple):
    """What was loaded.

    Attributes:
        hf_model, tokenizer: these.
        placed: where its parts are to lie.
        settle: puts them there, if they are placed; returns the weights that do not lie where the
            model computes.
    """

    hf_model: Any
    tokenizer: Any
    placed: Placed | None
    settle: Callable[[], Elsewhere | None] | None


def _load(
    source: str,
    target: str,
    folder: Path | None,
    dtype: torch.dtype | None,
    revision: str | None,
    device: torch.device | None,
    wanted: Wanted | None,
    written: contextlib.ExitStack | None = None,
) -> _Loaded:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    placed: Placed | None = None
    without: Promised | None = None
    files = {"revision": revision, "trust_remote_code": False, "local_files_only": bool(folder)}
    where: dict[str, Any] = {}
    try:
        # A hub that cannot be reached is waited for once, not for each of the tokenizer's files.
        config = AutoConfig.from_pretrained(target, **files)
        # One that a config.json asks for may be code from a hub ("kernels-community/…").
        config._attn_implementation = "eager"
        _check_architecture(target, config)
        dtype = packing.dtype(target, config, dtype) or torch.float32
        skeleton = _skeleton(config, _MODULES_OF_ANY) if folder is None else _fit(folder, config)
        # How much of packed weights is unpacked is their library's matter.
        plain = getattr(config, "quantization_config", None) is None
        if wanted is not None:
            if not plain:
                raise ModelError(
                    f"The weights of '{source}' are quantised, and those cannot be placed by a "
                    "device_map; leave it out, or load a checkpoint that is not quantised."
                )
            empty = _empty(config, dtype, _MODULES_OF_ANY)
            placed = place(source, empty, dtype, wanted)
            places = for_hugging_face(empty, placed)
            if folder is not None:
                without = promised(target, empty, dtype, shards_in(folder), files)
            where |= {"device_map": places, "offload_folder": None}
            if placed.folder is not None and without is None and written is not None:
                where["offload_folder"] = str(own_folder(placed.folder, written))
        elif plain:
            _check_memory(source, skeleton, dtype, device)
        tokenizer = AutoTokenizer.from_pretrained(target, **files)
        if without is not None:
            hf_model, info = without.hf_model, without.info
        else:
            hf_model, info = AutoModelForCausalLM.from_pretrained(
                target,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                attn_implementation="eager",
                output_loading_info=True,
                # Without this the shapes that do not fit are only told on the screen; see below.
                ignore_mismatched_sizes=True,
                **files,
                **where,
            )
    except ModelError:
        raise
    except Exception as error:  # Hugging Face raises a dozen unrelated types here
        if placed is not None and placed.folder is None and "offload_folder" in str(error):
            raise ModelError(
                f"The files of '{source}' hold weights otherwise than it computes with them, so "
                "those that are to lie on disk must be written anew; give a folder for them: "
                "offload_folder=…."
            ) from error
        if placed is not None and placed.folder is not None and "serializ" in str(error):
            raise ModelError(
                f"Weights cannot be written to the offload_folder '{placed.folder}' "
                f"({first_sentence(error)}); make room there, or give another."
            ) from error
        if folder is None:
            raise unknown_model(source, first_sentence(error)) from error
        raise ModelError(
            f"The model in '{folder}' cannot be loaded: {first_sentence(error)}"
        ) from error
    if plain:
        note_outline(hf_model, skeleton)
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"'{target}' lacks {len(missing)} weights ('{missing[0]}' first), which would be "
            "filled at random; save the whole model again."
        )
    misfits = sorted(str(entry[0]) for entry in info.get("mismatched_keys", ()))
    misfits += _blocks_left_out(hf_model, info.get("unexpected_keys", ()))
    if misfits:
        raise ModelError(
            f"The weights in '{target}' do not fit its config.json ('{misfits[0]}' first); restore "
            "both from the same checkpoint."
        )
    settle: Callable[[], Elsewhere | None] | None = None
    if without is not None and placed is not None:
        settle = functools.partial(fill, without, places, placed.main)
    elif placed is not None:
        settle = functools.partial(stripped, hf_model, placed)
    return _Loaded(hf_model, tokenizer, placed, settle)


def _check_architecture(target: str, config: Any) -> None:
    """Raise a ModelError where a configuration says two things about what is to be computed.

    Many architectures share the names of their weights, so that each would load as another.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kinds: dict[str, set[str]] = {}
    for kind, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        kinds.setdefault(str(architecture), set()).add(str(kind))
    for named in config.architectures or ():
        if config.model_type not in kinds.get(str(named), {config.model_type}):
            raise ModelError(
                f"The config.json of '{target}' names the model_type "
                f"{quoted(config.model_type)} and the architecture {quoted(str(named))}, which do "
                "not go together; restore it from the original checkpoint."
            )


def _fit(folder: Path, config: Any) -> Outline:
    """What the model will hold, built no further than its files can fill it.

    Raises:
        ModelError: the configuration asks for more than its weight files hold.
    """
    weights = check_folder(folder)
    packed = getattr(config, "quantization_config", None) is not None
    skeleton = _skeleton(config, _MODULES_OF_ONE_WEIGHT * len(weights) + _MODULES)
    check_size(str(folder), skeleton.weights, skeleton.tables, weights, packed=packed)
    return skeleton


def _skeleton(config: Any, modules: int) -> Outline:
    """What a model of a configuration holds; it is built without memory for its weights."""
    return _built(_Settings(config), modules)


class _Settings:
    """A configuration that equals another one of the same settings."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._told = (type(config), config.to_json_string(use_diff=False))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and self._told == other._told

    def __hash__(self) -> int:
        return hash(self._told)


@functools.lru_cache(maxsize=16)
def _built(settings: _Settings, modules: int) -> Outline:
    return Outline.of(_empty(settings.config, None, modules))


def _empty(config: Any, dtype: torch.dtype | None, modules: int) -> Any:
    """A model of a configuration, without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with modules_at_most(modules), torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            copy.deepcopy(config),
            dtype=dtype,
            attn_implementation="eager",
            trust_remote_code=False,
        )


def _check_memory(
    name: str, skeleton: Outline, dtype: torch.dtype, device: torch.device | None
) -> None:
    """Raise DoesNotFit if a model takes more memory than is free."""
    n = skeleton.weights
    takes = n * dtype.itemsize + skeleton.table_bytes
    places = {"of this computer": available_memory()}
    if device is not None and device.type == "cuda":
        # What torch keeps for later use is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        places[f"of {device}"] = torch.cuda.mem_get_info(device)[0] + kept
    for where, free in places.items():
        if free is not None and takes > free:
            half = ", load it in bfloat16, which takes half" if dtype.itemsize > 2 else ""
            raise DoesNotFit(
                f"'{name}' does not fit into the memory {where}: its {n:,} parameters take "
                f"{show_size(takes)} in {str(dtype).removeprefix('torch.')}, and "
                f"{show_size(free)} are free; free some{half}, or use a smaller model."
            )


@contextlib.contextmanager
def modules_at_most(most: int) -> Iterator[None]:
    """Inside, this thread may put no more than `most` modules together."""
    thread, count = threading.get_ident(), itertools.count(1)

    def check(*_: object) -> None:
        if threading.get_ident() == thread and next(count) > most:
            raise ModelError(
                f"The config.json asks for more than {most:,} modules, far more than there are "
                "weights; restore both from the same checkpoint."
            )

    handle = register_module_module_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _blocks_left_out(hf_model: Any, unexpected: Iterable[str]) -> list[str]:
    """Weights of blocks beyond those that the configuration asks for."""
    numbered = re.compile(r"(.*?\.)(\d+)\.")
    highest: dict[str, int] = {}
    for match in filter(None, map(numbered.match, hf_model.state_dict())):
        highest[match[1]] = max(int(match[2]), highest.get(match[1], -1))
    found = [match for match in map(numbered.match, sorted(unexpected)) if match]
    return [m.string for m in found if m[1] in highest and int(m[2]) > highest[m[1]]]
