"""Where the fit of a Jacobian lens stands, in memory and in its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cache.files import expanded, make_folder, read_bytes, remove, write_atomic
from interp.errors import StorageError
from interp.lens.jacobian.files import NAME
from interp.lens.jacobian.lens import JacobianLens
from interp.model.model import Model

__all__ = ["Folder", "Sums"]

_STATE = "fitting.safetensors"
# Seconds between two savings, and how many times longer than the last saving itself took.
_EVERY = 10.0
_TIMES = 20.0


@dataclass
class Sums:
    """Of the Jacobians of the first `done` prompts.

    Attributes:
        total: [layer, d_model, d_model].
        squares: of the lengths (Frobenius) of each prompt's own [layer].
        done: prompts that are in it.
    """

    total: Float[Tensor, "layer d_model d_model"]
    squares: Float[Tensor, " layer"]
    done: int = 0

    @classmethod
    def none(cls, layers: int, width: int) -> Sums:
        return cls(torch.zeros(layers, width, width), torch.zeros(layers, dtype=torch.float64))

    def standard_error(self) -> Float[Tensor, " layer"]:
        """Of the mean Jacobian, as a share of its length; NaN for a single prompt."""
        mean = self.total.double().square().sum((1, 2)).div(self.done**2)
        variance = (self.squares / self.done - mean).clamp(min=0) / (self.done - 1 or torch.nan)
        return (variance / mean.clamp(min=1e-300)).sqrt()


@dataclass
class Folder:
    """The folder of one fit.

    Attributes:
        settings: which decide what it makes; the folder of another fit is refused.
    """

    path: Path
    settings: Mapping[str, Any]
    _saved: float = field(default_factory=time.monotonic)
    _took: float = 0.0

    @classmethod
    def of(cls, folder: Path | str | None, settings: Mapping[str, Any]) -> Folder | None:
        if folder is None:
            return None
        path = expanded(folder)
        make_folder(path)
        return cls(path, settings)

    def finished(self, model: Model) -> JacobianLens | None:
        """What this fit has made, if it is done."""
        path = self.path / NAME
        if not path.exists():
            return None
        lens = JacobianLens.load(path, model)
        if {name: lens.metadata.get(name) for name in self.settings} != dict(self.settings):
            raise self._other()
        remove(self.path / _STATE)
        return lens

    def read(self, sums: Sums, prompts: int) -> None:
        """Go on from what was saved, if anything was, of so many prompts."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.path / _STATE
        if not path.exists():
            return
        try:
            content = read_bytes(path, links=False)
            found = load(content)
            length = int.from_bytes(content[:8], "little")
            notes = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["fit"])
            done, settings = int(notes["done"]), notes["settings"]
            total, squares = found["total"], found["squares"]
        except (
            SafetensorError,
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise self._damaged() from error
        if settings != dict(self.settings):
            raise self._other()
        for found_sum, own in ((total, sums.total), (squares, sums.squares)):
            alike = found_sum.shape == own.shape and found_sum.dtype == own.dtype
            if not alike or not bool(torch.isfinite(found_sum).all()):
                raise self._damaged()
        if not 1 <= done <= prompts:
            raise self._damaged()
        sums.total, sums.squares, sums.done = total, squares, done

    def write(self, sums: Sums, *, now: bool = False) -> None:
        """Replace what was saved, if that was long ago."""
        from safetensors.torch import save

        begun = time.monotonic()
        if not now and begun - self._saved < max(_EVERY, _TIMES * self._took):
            return
        notes = json.dumps({"done": sums.done, "settings": dict(self.settings)})
        content = save({"total": sums.total, "squares": sums.squares}, metadata={"fit": notes})
        write_atomic(self.path / _STATE, content)
        self._saved = time.monotonic()
        self._took = self._saved - begun

    def finish(self, lens: JacobianLens) -> None:
        lens.save(self.path / NAME)
        remove(self.path / _STATE)

    def _damaged(self) -> StorageError:
        return StorageError(f"'{self.path / _STATE}' is damaged; remove it to begin the fit anew.")

    def _other(self) -> StorageError:
        return StorageError(
            f"'{self.path}' holds the fit of a lens with other texts, settings or model; choose "
            "another folder."
        )
