"""The models in memory: the last few that were used, and the way back to free memory."""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.compute.turns import ModelSpec

if TYPE_CHECKING:
    from interp.model.model import Model

_OF_MODELS = frozenset({".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".csv"})

MOST = 2
"""So that a run's model and one to compare it with stay."""


@dataclass(frozen=True)
class InMemory:
    """A loaded model.

    Attributes:
        bytes: that its weights take in memory.
    """

    spec: ModelSpec
    name: str
    n_parameters: int
    bytes: int
    dtype: str
    device: str


class Models:
    """Loads models and keeps the last ones. One turn at a time asks for them; anyone may look.

    Args:
        load: loads one.
    """

    def __init__(self, load: Callable[[ModelSpec], Model]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[ModelSpec, float], Model] = OrderedDict()

    def get(self, spec: ModelSpec) -> Model:
        """The model as its folder holds it now.

        Room is made before it is loaded: by the one that was used longest ago, and where that is
        not enough by all.

        Raises:
            ModelError: it cannot be loaded, or does not fit into memory.
        """
        from interp.errors import DoesNotFit

        key = (spec, touched(spec))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            stale = [old for old in self._kept if old[0] == spec]
            left = [old for old in self._kept if old not in stale]
            self._drop([*stale, *left[: len(left) + 1 - MOST]])
        try:
            model = self._load(spec)
        except DoesNotFit:
            with self._lock:
                if not self._kept:
                    raise
                self._drop(list(self._kept))
            model = self._load(spec)
        with self._lock:
            self._kept[key] = model
        return model

    def there(self, spec: ModelSpec) -> Model | None:
        """The model as its folder holds it now, if it is in memory."""
        with self._lock:
            return self._kept.get((spec, touched(spec)))

    def release(self, spec: ModelSpec) -> None:
        """Forget a model; its memory is free when nothing that runs holds it any more."""
        with self._lock:
            self._drop([key for key in self._kept if key[0] == spec])

    def loaded(self) -> list[InMemory]:
        """What is in memory, the last used first."""
        with self._lock:
            models = [(spec, model) for (spec, _), model in reversed(self._kept.items())]
        return [
            InMemory(
                spec,
                model.name,
                model.n_parameters,
                _bytes_here(model),
                str(model.dtype).removeprefix("torch."),
                str(model.device),
            )
            for spec, model in models
        ]

    def _drop(self, keys: list[tuple[ModelSpec, float]]) -> None:
        for key in keys:
            del self._kept[key]
        # Models hold themselves in circles; collected also for those that others dropped.
        gc.collect()


def _bytes_here(model: Model) -> int:
    """What its weights take, without those that are read when they are needed."""
    with model.unread():
        weights = list(model.bridge.original_model.parameters())
    return sum(w.numel() * w.element_size() for w in weights if not w.is_meta)


def touched(spec: ModelSpec) -> float:
    """When a model folder was last written to, so that what is new there is loaded: weights, their
    configuration, the tokenizer, and the examples that a model brings along.

    A file that is put there may be an old one, so that it also counts when that was done.
    """
    folder = Path(os.path.expanduser(spec.source))  # raises nothing for a user that is not there
    try:
        files = [path.stat() for path in folder.iterdir() if path.suffix in _OF_MODELS]
        return max((max(file.st_mtime, file.st_ctime) for file in files), default=0.0)
    except OSError:
        return 0.0
