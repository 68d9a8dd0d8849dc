"""Where the training of a tuned lens stands, in memory and in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cache.files import make_folder, remove, storage_errors, write_atomic
from interp.errors import StorageError
from interp.lens.tuned import CARD, TunedLens
from interp.model.model import Model

__all__ = ["Best", "Checkpoint"]

_STATE = "training.safetensors"
# How much better, as a share, the held-out KL must become to count as progress.
_BETTER = 1e-3


@dataclass
class Best:
    """For each layer the map that was best on the held-out rows; at first the identity.

    Attributes:
        weight, bias: as in `TunedLens`.
        kl: of these maps, on the held-out rows, in nats [layer].
        logit_kl: of the identity.
        stale: readings of the held-out rows since the layer became clearly better [layer].
    """

    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"]
    kl: Float[Tensor, " layer"]
    logit_kl: Float[Tensor, " layer"]
    stale: Float[Tensor, " layer"]

    @classmethod
    def identity(cls, kl: Float[Tensor, " layer"], width: int) -> Best:
        """The logit lens."""
        n = len(kl)
        return cls(
            torch.zeros(n, width, width), torch.zeros(n, width), kl.clone(), kl, torch.zeros(n)
        )

    def update(
        self, kl: Float[Tensor, " layer"], affine: Callable[[int], tuple[Tensor, Tensor]]
    ) -> None:
        """Keep what is better than before."""
        clearly = kl < self.kl * (1 - _BETTER)
        self.stale = torch.where(clearly, 0, self.stale + 1)
        for layer in (kl < self.kl).nonzero().flatten().tolist():
            self.weight[layer], self.bias[layer] = affine(layer)
            self.kl[layer] = kl[layer]

    def lens(self, identity: Mapping[str, str], settings: Mapping[str, Any]) -> TunedLens:
        return TunedLens(
            self.weight,
            self.bias,
            dict(identity),
            dict(settings),
            tuple(self.logit_kl.tolist()),
            tuple(self.kl.tolist()),
        )


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one training.

    Attributes:
        settings: which decide what it makes; the folder of another training is refused.
    """

    folder: Path
    fingerprint: str
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls, folder: Path | str | None, model: Model, settings: Mapping[str, Any]
    ) -> Checkpoint | None:
        if folder is None:
            return None
        make_folder(folder)
        return cls(Path(folder), model.fingerprint, settings)

    def finished(self, model: Model) -> TunedLens | None:
        """What this training has made, if it is done."""
        if not (self.folder / CARD).exists():
            return None
        lens = TunedLens.load(self.folder, model)
        if dict(lens.settings) != dict(self.settings):
            raise self._other()
        remove(self.folder / _STATE)
        return lens

    def read(self) -> tuple[int, Best, dict[str, Tensor]] | None:
        """Steps done, the best maps, and the translators' state; None where nothing was saved."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / _STATE
        if not path.exists():
            return None
        try:
            with storage_errors(path, "read"), safe_open(path, framework="pt") as file:
                notes = json.loads(file.metadata()["training"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            step, of = int(notes["step"]), (notes["fingerprint"], notes["settings"])
            best = Best(*(found.pop(f"best.{name}") for name in Best.__annotations__))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"'{path}' is damaged; remove it to begin the training anew."
            ) from error
        if of != (self.fingerprint, dict(self.settings)):
            raise self._other()
        return step, best, found

    def write(self, step: int, best: Best, state: Mapping[str, Tensor]) -> None:
        """Replace what was saved."""
        from safetensors.torch import save

        notes = {"step": step, "fingerprint": self.fingerprint, "settings": dict(self.settings)}
        tensors = {f"best.{name}": getattr(best, name) for name in Best.__annotations__}
        content = save({**tensors, **state}, metadata={"training": json.dumps(notes)})
        write_atomic(self.folder / _STATE, content)

    def finish(self, lens: TunedLens) -> None:
        lens.save(self.folder)
        remove(self.folder / _STATE)

    def _other(self) -> StorageError:
        return StorageError(
            f"'{self.folder}' holds the training of a lens with other texts, settings or model; "
            "choose another folder."
        )
