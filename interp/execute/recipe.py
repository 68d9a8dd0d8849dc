"""How another process comes by the same model."""

from __future__ import annotations

import copy
import tempfile
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file

from interp.errors import ModelError
from interp.execute import Executor, Workers
from interp.loading.bridge import load_hugging_face
from interp.loading.load import load_model
from interp.loading.quiet import quiet
from interp.loading.where import bundled_models
from interp.model.identity.fingerprint import canonical_weights, plain_name, twin
from interp.model.memory import fitting_threads
from interp.model.model import Model

R = TypeVar("R")

# The same weights give the same logits but for rounding.
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
_BUFFERS = "buffers.safetensors"


@dataclass(frozen=True)
class Saved:
    """A model that was made in memory and saved for the workers.

    Attributes:
        tokenizer: its tokenizer's class.
        logits: what it says after a few tokens, at some places of the vocabulary.
    """

    tokenizer: type
    logits: tuple[float, ...]


@dataclass(frozen=True)
class ModelRecipe:
    """What a worker needs to load a model; picklable.

    Attributes:
        source: hub id, name of a bundled model, or folder.
        dtype: "float32", "float16" or "bfloat16".
        revision: branch, tag or commit on the hub.
        device: "cpu", "cuda" or "mps"; the worker's GPU, if it has one, if left out.
        fingerprint: of the model that is meant; not checked if left out.
        tokenizer: the same of its tokenizer.
        saved: of a model that was made in memory.
        parts: where the parts of a model lie that is larger than a device; its GPUs are numbered
            from 0 on, since a worker sees no others than its own.
        folder: in which weights are written that its files do not hold as it computes with them.
    """

    source: str
    dtype: str = "float32"
    revision: str | None = None
    device: str | None = None
    fingerprint: str | None = None
    tokenizer: str | None = None
    saved: Saved | None = None
    parts: tuple[tuple[str, str], ...] = ()
    folder: str | None = None

    @property
    def gpus(self) -> int:
        """How many a worker needs."""
        return max(1, len(_gpus(where for _, where in self.parts)))

    @classmethod
    def of(cls, model: Model) -> ModelRecipe:
        """The recipe of a model that is loaded.

        A model made in memory is saved, once, to a temporary folder that goes when the model does.

        Raises:
            ModelError: it was made in memory and cannot be saved as it is.
        """
        with model.lock:
            seen = model.look()
            if seen.changes:
                raise ModelError(
                    f"{model.name} is more than its weights and configuration say "
                    f"({seen.changes[0].what}), so workers cannot have it; undo that, or use the "
                    "executor 'serial'."
                )
            known = _RECIPES.get(model)
            if known is None or known.fingerprint != seen.fingerprint:
                known = _RECIPES[model] = _recipe(model)
            return known

    def load(self) -> Model:
        """Load the model.

        Raises:
            ModelError: it cannot be loaded here, or is not the model that is meant.
        """
        model = self._from_copy(self.saved) if self.saved else self._from_source()
        differs = self.fingerprint not in (None, model.fingerprint)
        if differs or self.tokenizer not in (None, model.tokenizer_fingerprint):
            what = "other weights or settings" if differs else "another tokenizer"
            raise ModelError(
                f"A worker found '{self.source}' with {what} than the model loaded before; give "
                "all machines the same files, and do not change them meanwhile."
            )
        return model

    def _from_source(self) -> Model:
        given: dict[str, Any] = {"dtype": self.dtype, "revision": self.revision}
        if not self.parts:
            return load_model(self.source, device=self.device, **given)
        parts = dict(self.parts)
        folder = self.folder if "disk" in parts.values() else None
        return load_model(self.source, device_map=parts, offload_folder=folder, **given)

    def _from_copy(self, saved: Saved) -> Model:
        folder = Path(self.source)
        if not folder.is_dir():
            raise ModelError(
                f"The model was made in memory and saved to '{folder}', which this machine does "
                "not see; save it in a folder that all machines share, and load it from there."
            )
        # As the model here was made: AutoTokenizer could choose another class.
        precision = getattr(torch, self.dtype)
        with quiet():
            hf_model, _ = load_hugging_face(self.source, self.source, folder, precision, None)
            for name, value in load_file(folder / _BUFFERS).items():
                module, _, buffer = name.rpartition(".")
                hf_model.get_submodule(module)._buffers[buffer] = value
            tokenizer = saved.tokenizer.from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
        model = load_model(hf_model, device=self.device, tokenizer=tokenizer)
        wanted = torch.tensor(saved.logits)
        difference = float((torch.tensor(_logits(model)) - wanted).norm() / wanted.norm())
        if not difference <= _TOLERANCE.get(model.dtype, 1e-3):
            raise ModelError(
                "The model in memory computes something else than its weights and class say (hooks "
                "or a forward pass of its own?), so workers cannot have it; use the executor "
                "'serial'."
            )
        return model


@dataclass(frozen=True)
class OnModel:
    """A `start` for `execute`: units whose payloads are called with the model."""

    recipe: ModelRecipe

    @property
    def gpus(self) -> int:
        """How many each worker needs."""
        return self.recipe.gpus

    def __call__(self) -> Callable[[Callable[[Model], R]], R]:
        """Load the model; returns what runs a payload."""
        return partial(_call, self.recipe.load())


def on_model(
    model: Model, executor: Executor | Workers
) -> Callable[[], Callable[[Callable[[Model], R]], R]]:
    """A `start` for `execute` with this model: itself where units run here, otherwise its recipe.

    Raises:
        ModelError: workers cannot be given it.
    """
    if executor.kind == "serial":
        return lambda: partial(_call, model)
    return OnModel(ModelRecipe.of(model))


def _call(model: Model, payload: Callable[[Model], R]) -> R:
    with fitting_threads(model):
        return payload(model)


_RECIPES: weakref.WeakKeyDictionary[Model, ModelRecipe] = weakref.WeakKeyDictionary()


def _recipe(model: Model) -> ModelRecipe:
    source, saved = model.source, None
    if model.in_memory:
        source, saved = _save(model), Saved(type(model.tokenizer), _logits(model))
    elif model.path is not None and source not in bundled_models():
        source = str(model.path.resolve())
    parts: dict[str, str] = {}
    if model.placed is not None:
        numbers = {gpu: f"cuda:{n}" for n, gpu in enumerate(_gpus(model.placed.parts.values()))}
        parts = {part: numbers.get(where, where) for part, where in model.placed.parts.items()}
    folder = None if model.placed is None else model.placed.folder
    return ModelRecipe(
        source,
        dtype=str(model.dtype).removeprefix("torch."),
        revision=model.revision,
        device=None if parts else model.device.type,
        parts=tuple(parts.items()),
        folder=None if folder is None else str(folder.resolve()),
        fingerprint=model.fingerprint,
        tokenizer=model.tokenizer_fingerprint,
        saved=saved,
    )


def _gpus(places: Iterable[str]) -> list[str]:
    found = {where for where in places if where.startswith("cuda")}
    return sorted(found, key=lambda where: int(where.partition(":")[2] or 0))


def _save(model: Model) -> str:
    """Write the model into a temporary folder that is removed with it; returns the folder."""
    original = model.bridge.original_model
    weights = canonical_weights(original)
    plain: Any = twin(original)
    if weights.keys() != plain.state_dict().keys():
        raise ModelError(
            f"The weights of the {type(original).__name__} in memory have names of their own, so "
            "workers cannot be given it; use the executor 'serial', or save the model yourself and "
            "load it from there."
        )
    plain.config = copy.deepcopy(plain.config)
    plain.load_state_dict(weights, assign=True)
    folder = tempfile.TemporaryDirectory(prefix="obverse-model-")
    weakref.finalize(model, folder.cleanup)
    with quiet():
        plain.save_pretrained(folder.name)
        save_file(_computed_buffers(original), Path(folder.name) / _BUFFERS)
        model.tokenizer.save_pretrained(folder.name)
    return folder.name


def _computed_buffers(original: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that no checkpoint holds: they are made from the configuration, and may be cast."""
    saved = canonical_weights(original).keys()
    real = {name for name, _ in twin(original).named_buffers()}
    named = original.named_buffers(remove_duplicate=False)
    found = {plain_name(name): value for name, value in named}
    return {n: v.cpu().clone() for n, v in found.items() if n in real and n not in saved}


def _logits(model: Model) -> tuple[float, ...]:
    """Logits after a few tokens, at 64 places of the vocabulary at most."""
    ids = torch.arange(min(8, model.d_vocab, model.n_ctx), device=model.device)[None]
    with torch.no_grad():
        logits = model.bridge(ids)[0, -1].float().cpu()
    places = torch.linspace(0, len(logits) - 1, min(64, len(logits))).long()
    return tuple(logits[places].tolist())
