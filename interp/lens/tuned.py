"""A tuned lens (Belrose et al. 2023): for each layer an affine map into the last stream's terms."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from cache.files import make_folder, read_bytes, remove, write_atomic
from interp.errors import ModelError, StorageError
from interp.model.model import Model

__all__ = ["CARD", "TunedLens"]

_FORMAT = {"format": "obverse-tuned-lens", "version": 1}
CARD = "lens.json"
"""The file that describes a saved lens; written last."""


@typed
@dataclass(frozen=True)
class TunedLens:
    """Reads layer l as the model's readout of h + h @ weight[l] + bias[l].

    Attributes:
        weight: what each layer's translation adds to the identity [layer, d_model, d_model],
            float32; layer 0 is the embedding. The last stream needs none.
        bias: [layer, d_model].
        identity: name and fingerprint of the model that it was trained on.
        settings: how it was trained.
        logit_kl, tuned_kl: mean KL from the model's prediction to the logit lens's and to this
            one's, on held-out text, in nats [layer].
    """

    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"]
    identity: Mapping[str, str]
    settings: Mapping[str, Any]
    logit_kl: tuple[float, ...]
    tuned_kl: tuple[float, ...]

    def __repr__(self) -> str:
        layers, width = self.bias.shape
        return f"TunedLens({layers} layers, d_model {width}, of {self.identity['model']})"

    def translate(
        self, layer: int, hidden: Float[Tensor, "*row d_model"]
    ) -> Float[Tensor, "*row d_model"]:
        """A layer's stream in the coordinates of the last; the last one itself is unchanged."""
        if layer == len(self.weight):
            return hidden
        weight, bias = (t[layer].to(hidden.device) for t in (self.weight, self.bias))
        found: Tensor = hidden.float() + hidden.float() @ weight + bias
        return found.to(hidden.dtype)

    def curve(self) -> xr.Dataset:
        """logit_kl(layer) and tuned_kl(layer) on held-out text, in nats."""
        values = {"logit_kl": self.logit_kl, "tuned_kl": self.tuned_kl}
        return xr.Dataset(
            {name: ("layer", np.array(kl)) for name, kl in values.items()},
            coords={"layer": np.arange(len(self.weight))},
            attrs={"instrument": "tuned lens", **self.identity},
        )

    def check(self, model: Model) -> None:
        """Raise a ModelError unless the lens was trained on this model."""
        if self.identity["fingerprint"] != model.fingerprint:
            raise ModelError(
                f"The tuned lens belongs to the model '{self.identity['model']}' with fingerprint "
                f"{self.identity['fingerprint']}, not to {model.name} ({model.fingerprint}); load "
                "that model, or train a lens for this one."
            )

    def save(self, folder: Path | str) -> None:
        """Write safetensors and `lens.json`, which names them; an older lens is replaced.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        from safetensors.torch import save

        folder = Path(folder)
        make_folder(folder)
        content = save({"weight": self.weight.contiguous(), "bias": self.bias.contiguous()})
        digest = hashlib.sha256(content).hexdigest()
        # Named by its content, so that the old lens stays whole until the card names the new one.
        tensors = folder / f"lens-{digest[:16]}.safetensors"
        write_atomic(tensors, content)
        card = {
            **_FORMAT,
            "tensors": tensors.name,
            "sha256": digest,
            "identity": dict(self.identity),
            "settings": dict(self.settings),
            "logit_kl": self.logit_kl,
            "tuned_kl": self.tuned_kl,
        }
        write_atomic(folder / CARD, json.dumps(card, indent=1, allow_nan=False) + "\n")
        for other in folder.glob("lens-*.safetensors"):
            if other != tensors:
                remove(other)

    @classmethod
    def load(cls, folder: Path | str, model: Model) -> TunedLens:
        """Read the lens of this model.

        Raises:
            StorageError: there is no lens, or it is damaged.
            ModelError: it belongs to another model.
        """
        folder = Path(folder)
        card_bytes = read_bytes(folder / CARD)
        try:
            card = json.loads(card_bytes)
            if {name: card[name] for name in _FORMAT} != _FORMAT:
                raise ValueError("another format")
            identity = {str(k): str(v) for k, v in card["identity"].items()}
            settings = {str(k): v for k, v in card["settings"].items()}
            tensors, digest = folder / Path(card["tensors"]).name, str(card["sha256"])
            kl = [tuple(float(x) for x in card[name]) for name in ("logit_kl", "tuned_kl")]
            untrained = torch.empty(0)
            cls(untrained, untrained, identity, settings, *kl).check(model)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(
                f"'{folder / CARD}' does not describe a tuned lens ({error}); train it again."
            ) from error
        weight, bias = _tensors(tensors, digest, model)
        return cls(weight, bias, identity, settings, *kl)


def _tensors(path: Path, digest: str, model: Model) -> tuple[Tensor, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise StorageError(f"'{path}' is damaged; copy it again, or train the lens again.")
    try:
        found = load(content)
        weight, bias = found["weight"], found["bias"]
    except (SafetensorError, KeyError) as error:
        raise StorageError(f"'{path}' is not the file of a tuned lens; train it again.") from error
    layers, width = model.n_layers, model.d_model
    if weight.shape != (layers, width, width) or bias.shape != (layers, width):
        raise StorageError(f"The lens in '{path}' has another shape than {model.name}; train it.")
    return weight, bias
