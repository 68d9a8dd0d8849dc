"""From a name, a folder or a model in memory to a `Model`, checked before it is handed out."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cache.arguments import typed
from cache.keys.space import DTYPES, dtype_name
from interp.errors import DoesNotFit, ModelError
from interp.forward.source import ModelSource
from interp.loading.alibi import check_alibi
from interp.loading.allocator import keep_freed_memory
from interp.loading.bridge import load_hugging_face, load_placed
from interp.loading.packing import check_gradients
from interp.loading.placement import Wanted
from interp.loading.quiet import quiet
from interp.loading.where import locate
from interp.loading.wrapping import check_finite, wrap
from interp.model.memory import is_out_of_memory
from interp.model.model import Model
from interp.model.vocabulary import quoted

# Hugging Face sets PyTorch's default dtype, and replaces functions of PyTorch and of its own, for
# the whole process while it builds a model: two at once would get each other's, and leave them.
_ONE_AT_A_TIME = threading.RLock()


@typed
def load_model(
    source: str | Path | Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
    device_map: str | Mapping[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    max_memory: Mapping[Any, int | str] | None = None,
) -> Model:
    """Load a model to work on.

    A model that is larger than a device can lie on several: `device_map` says which of its parts
    lie where. It computes on the first GPU of the map, on the CPU where there is none. Parts that
    lie elsewhere (on another GPU, in the computer's memory, on disk) are brought there block by
    block when they are needed, and let go when another is. Results are those of the same model on
    one device.

    Models are loaded one at a time, whatever threads ask for them. Hugging Face sets PyTorch's
    default dtype for the whole process meanwhile, so nothing else should be computed then where
    `dtype` is not float32.

    Args:
        source: the name of a bundled organism ("reversal-curse"), a local Hugging Face folder, a
            hub id ("gpt2"), a Hugging Face model in memory (give its `tokenizer` too), a
            TransformerBridge (not in compatibility mode; it is put into eval mode and its weights
            are frozen, and what hooks it has stay), or a Model (returned as it is).
        device: "cpu", "cuda", "mps"; the GPU where there is one if left out. A bridge stays
            where it is.
        dtype: "float32" (default, whatever the checkpoint holds), "float16" or "bfloat16" (or
            "bf16" …). A model in memory keeps its own, and one with packed weights by default what
            they were packed with.
        revision: branch, tag or commit on the hub.
        tokenizer: for models in memory; others bring their own.
        device_map: instead of `device`: "auto", which fills GPUs, then the computer's memory, and
            leaves the rest on disk ("balanced" and "sequential" as in accelerate); or for each part
            by the name of its Hugging Face module ("model.layers.3", "lm_head", "" for what is
            left) a GPU's number, "cpu" or "disk".
        offload_folder: where weights are written that the model's files do not hold as it computes
            with them (experts of a mixture), in a folder of their own, which is removed when the
            model is; others are read from these files.
        max_memory: bytes, or "20GB", that weights may take by GPU number and "cpu", for a map that
            is worked out; four fifths of what is free if left out.

    Raises:
        DoesNotFit: a device has not enough memory for the parts that are to lie there.
        ModelError: the model is unknown, incomplete, damaged, or has non-finite weights.
    """
    if isinstance(source, Model):
        return source
    wanted = None
    if device_map is not None:
        if device is not None:
            raise ModelError("A device_map says where a model lies; leave device=… out.")
        if not isinstance(source, str | Path):
            raise ModelError(
                "A model in memory lies where it is; leave device_map=… out, or give the name or "
                "folder that it was loaded from."
            )
        wanted = Wanted(device_map, offload_folder, max_memory)
    elif offload_folder is not None or max_memory is not None:
        what = "offload_folder" if offload_folder is not None else "max_memory"
        raise ModelError(f"{what}=… goes with a device_map; give one, such as device_map='auto'.")
    chosen = _device(device)
    if not isinstance(source, str | Path):
        if dtype is not None or revision is not None:
            raise ModelError("A model in memory has its dtype and revision; leave them out.")
        with _ONE_AT_A_TIME:
            return _from_memory(source, tokenizer, chosen, moved=device is not None)
    if tokenizer is not None:
        raise ModelError(f"'{source}' brings its own tokenizer; leave tokenizer=… out.")
    precision = _dtype(dtype) if dtype is not None else None
    target, folder = locate(source)
    if folder is not None and revision is not None:
        raise ModelError(
            f"'{source}' is a folder of this machine and has no revisions; leave "
            f"{quoted(revision)} out, or give a hub id."
        )
    files = str(source), target, folder, precision, revision
    placed, elsewhere = None, None
    with _ONE_AT_A_TIME, _within_memory(str(source)), quiet():
        if wanted is None:
            hf_model, hf_tokenizer = load_hugging_face(*files, chosen)
        else:
            hf_model, hf_tokenizer, placed, elsewhere = load_placed(*files, wanted)
            chosen = placed.main
        bridge, answered = wrap(
            hf_model, hf_tokenizer, target, chosen, precision or hf_model.dtype, elsewhere
        )
        return _checked(
            Model(
                bridge,
                source=str(source),
                path=folder,
                tokenizer=hf_tokenizer,
                activation_source=ModelSource,
                revision=revision,
                placed=placed,
                elsewhere=elsewhere,
                answered=answered,
            )
        )


@contextlib.contextmanager
def _within_memory(name: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # A thread has memory of its own.
        told = isinstance(error, MemoryError) or "start new thread" in str(error)
        if not told and not is_out_of_memory(error):  # type: ignore[arg-type]
            raise
        raise DoesNotFit(
            f"Memory ran out while '{name}' was loaded; put more of its parts on disk "
            "(device_map), load it in bfloat16, or use a machine with more memory."
        ) from error


def _from_memory(source: Any, tokenizer: Any, device: torch.device, *, moved: bool) -> Model:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel

    held = source.original_model if isinstance(source, TransformerBridge) else source
    if isinstance(held, PreTrainedModel) and any(hasattr(m, "_hf_hook") for m in held.modules()):
        raise ModelError(
            "accelerate has placed this model, with code of its own before each module; load it by "
            "its name or folder with device_map=…, which places it here."
        )
    if isinstance(source, TransformerBridge):
        bridge, name = source, str(source.cfg.model_name or type(source.original_model).__name__)
        tokenizer = tokenizer if tokenizer is not None else source.tokenizer
        here = next(source.original_model.parameters()).device
        if moved and (device.type, device.index or 0) != (here.type, here.index or 0):
            raise ModelError(
                f"The bridge is on {here}; leave device=… out, or move it there first."
            )
        if tokenizer is None:
            raise ModelError("The bridge has no tokenizer; give one: tokenizer=….")
        # TransformerLens has changed it in a way that a file keeps a part of; workers get a file.
        with quiet(), tempfile.TemporaryDirectory() as folder:
            tokenizer = _from_files(tokenizer, folder)
    elif isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise ModelError("A Hugging Face model in memory needs its tokenizer: tokenizer=….")
        # Hooks see scores and patterns only in eager attention.
        source.set_attn_implementation("eager")
        name = source.config.name_or_path or type(source).__name__
        # TransformerLens reads configuration and tokenizer by name, so they get a folder.
        with quiet(), tempfile.TemporaryDirectory() as folder:
            # Saving a model sets this; one that was never saved lacks it.
            source.config.architectures = [type(source).__name__]
            source.config.save_pretrained(folder)
            tokenizer = _from_files(tokenizer, folder)
            bridge, _ = wrap(source, tokenizer, folder, device, source.dtype)
    else:
        raise ModelError(
            f"A {type(source).__name__} is not a model; give a name, a folder, a Hugging Face "
            "model or a TransformerBridge."
        )
    return _checked(
        Model(
            bridge,
            source=name,
            path=None,
            tokenizer=tokenizer,
            activation_source=ModelSource,
            in_memory=True,
        )
    )


def _from_files(tokenizer: Any, folder: str) -> Any:
    tokenizer.save_pretrained(folder)
    # AutoTokenizer would choose a class by the architecture, which may cut other tokens.
    return type(tokenizer).from_pretrained(folder, local_files_only=True)


def _checked(model: Model) -> Model:
    if model.device.type == "cpu":
        keep_freed_memory()
    if model.bridge.compatibility_mode:
        raise ModelError(
            f"{model.name} was put in compatibility mode, which changes its weights; load it raw."
        )
    check_alibi(model)
    weights = model.weights()
    for name in weights:
        # What was brought while the logits were compared was looked at then.
        if model.elsewhere is None or not model.elsewhere.was_examined(name):
            check_finite(model.name, name, weights[name])
    if model.elsewhere is None:  # packed weights are not placed
        check_gradients(model.name, model.bridge.original_model)
    return model


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"There is no device '{device}' here; use 'cpu'.") from error
    return chosen


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    name = dtype_name(str(dtype))
    if name not in DTYPES:
        raise ModelError(f"Unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}.")
    return DTYPES[name]
