"""From files to a TransformerLens bridge whose numbers are Hugging Face's."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook

from cache.sizes import show_size
from interp.errors import DoesNotFit, ModelError, first_sentence
from interp.loading import packing
from interp.loading.configuration import check_size
from interp.loading.cutting import asks_for_numbers, bring_cut
from interp.loading.placement import Wanted, for_hugging_face, place, stripped
from interp.loading.where import check_folder, unknown_model
from interp.model.identity.fingerprint import Outline, note_outline
from interp.model.memory import available_memory
from interp.model.packed import parts
from interp.model.vocabulary import quoted

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from interp.model.elsewhere import Elsewhere
    from interp.model.placed import Placed

# A wrong norm, mask or position is off by 0.1 or more, rounding in bfloat16 by less than this.
WRAPPED_TOLERANCE = 0.05
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
    return _load(source, target, folder, dtype, revision, device, None)[:2]


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
    hf_model, tokenizer, placed = _load(source, target, folder, dtype, revision, None, wanted)
    assert placed is not None
    return hf_model, tokenizer, placed, stripped(hf_model, placed)


def _load(
    source: str,
    target: str,
    folder: Path | None,
    dtype: torch.dtype | None,
    revision: str | None,
    device: torch.device | None,
    wanted: Wanted | None,
) -> tuple[Any, Any, Placed | None]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    placed: Placed | None = None
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
            offload = None if placed.folder is None else str(placed.folder)
            parts = for_hugging_face(empty, placed)
            where |= {"device_map": parts, "offload_folder": offload}
        elif plain:
            _check_memory(source, skeleton, dtype, device)
        tokenizer = AutoTokenizer.from_pretrained(target, **files)
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
    return hf_model, tokenizer, placed


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


def wrap(
    hf_model: Any,
    tokenizer: Any,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    elsewhere: Elsewhere | None = None,
) -> TransformerBridge:
    """TransformerLens' bridge around a Hugging Face model, if it computes the same logits.

    Args:
        device: where it goes; where it computes, if some of its weights lie elsewhere.
        elsewhere: these.

    Raises:
        ModelError: TransformerLens does not know the architecture, or computes something else.
    """
    from transformer_lens.model_bridge import TransformerBridge

    hf_model = (hf_model.to(device) if elsewhere is None else hf_model).eval()
    config = hf_model.config.get_text_config()
    length = min(8, config.vocab_size, getattr(config, "max_position_embeddings", 8))
    ids = torch.arange(length, device=device)[None]
    try:
        expected = _logits(hf_model, ids)
    except Exception as error:  # settings of which each is in order, and that do not fit together
        raise ModelError(
            f"'{name}' computes nothing with the settings in its config.json "
            f"({first_sentence(error)}); restore it from the original checkpoint."
        ) from error
    boot = functools.partial(
        TransformerBridge.boot_transformers, name, tokenizer=tokenizer, device=device, dtype=dtype
    )
    try:
        if elsewhere is None:
            bridge = boot(hf_model=hf_model)
        else:
            # What it cuts out of weights while it wraps them would stay in memory.
            nan = asks_for_numbers(hf_model, lambda empty: boot(hf_model=empty))
            with elsewhere.closed(nan=nan):
                bridge = boot(hf_model=hf_model)
            bring_cut(bridge, elsewhere)
        found = _logits(bridge, ids)
    except ModelError:
        raise
    except Exception as error:
        architecture = type(hf_model).__name__
        raise ModelError(
            f"TransformerLens cannot wrap '{name}' ({architecture}): {first_sentence(error)}"
        ) from error
    if not bool(torch.isfinite(expected).all()) and _finite(hf_model):
        raise ModelError(
            f"'{name}' computes no finite logits from finite weights, so a setting in its "
            "config.json is wrong; restore it from the original checkpoint."
        )
    difference = (found - expected).norm() / expected.norm().clamp(min=1e-12)
    # NaN is told of by the check of the weights, which names the tensor.
    if float(difference) > WRAPPED_TOLERANCE:
        raise ModelError(
            f"TransformerLens computes other logits for {type(hf_model).__name__} than Hugging "
            f"Face does (relative difference {float(difference):.2g}), so nothing measured on it "
            "would be true; use another architecture or version of transformer-lens."
        )
    return bridge


def _finite(model: Any) -> bool:
    return all(
        is_finite(one)
        for name, weight in model.named_parameters()
        for _, one in parts(name, weight)
        if one.is_floating_point()
    )


def is_finite(values: torch.Tensor) -> bool:
    """Whether no number is infinite or NaN, in one pass over them: `torch.isfinite` makes several
    tensors of their size and takes 40 times as long."""
    if values.numel() == 0:
        return True
    # NaN goes through both.
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(values.detach()))


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits in float32, from a Hugging Face model or a bridge."""
    with torch.no_grad():
        output = model(ids, use_cache=False)
    logits: torch.Tensor = getattr(output, "logits", output)
    return logits.float()
