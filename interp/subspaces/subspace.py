"""One subspace at one place of a model: what is interchanged, and how it is kept in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from cache.files import read_bytes, write_atomic
from interp.errors import DirectionError, ModelError, PromptError, SiteError, StorageError
from interp.kinds import KINDS, site_kind
from interp.model.model import Model
from interp.results import Subspaces
from interp.sites import width_at
from interp.subspaces.rotations import moved

__all__ = ["Subspace", "check_site"]

_FORMAT = "obverse-subspace-1"
_NOTES = ("site", "layer", "position", "identity")
# Of the largest entry of R Rᵀ − 1; rows kept in float32 are nearer.
_ORTHONORMAL = 1e-3


@typed
@dataclass(frozen=True, eq=False)
class Subspace:
    """A subspace of the activations at one layer and position.

    Attributes:
        basis: orthonormal rows [rank, width].
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out" or "mlp_act".
        layer: which block.
        position: the slot's label ("subject -1") on the axis that pairs share.
        identity: of the model, as `model.identity` gives it.

    Raises:
        DirectionError: the rows are not finite, not orthonormal, or none.
        SiteError: there is no such site, or tokens have no one vector there.
    """

    basis: Float[Tensor, "rank width"]
    site: str
    layer: int
    position: str
    identity: Mapping[str, str]

    def __post_init__(self) -> None:
        check_site(self.site)
        object.__setattr__(self, "basis", self.basis.detach())
        rows = self.basis
        if rows.ndim != 2 or not rows.is_floating_point() or not 0 < len(rows) <= rows.shape[1]:
            raise DirectionError(
                f"A subspace is a basis [rank, width] of numbers, not {list(rows.shape)}; give at "
                "least one row, and no more than there are columns."
            )
        apart = rows.double() @ rows.double().T - torch.eye(len(rows), device=rows.device)
        # Written so that NaN is refused too.
        if not float(apart.abs().max()) <= _ORTHONORMAL:
            raise DirectionError(
                "The rows of a subspace must be finite and orthonormal; take those of "
                "torch.linalg.qr(vectors.T)[0].T."
            )

    def __repr__(self) -> str:
        rank, width = self.basis.shape
        return (
            f"Subspace(rank {rank} of {width}, {self.site}.{self.layer} at '{self.position}', of "
            f"{self.identity.get('model', 'a model')})"
        )

    @classmethod
    def of(cls, result: Subspaces, layer: int, position: int | str, rank: int) -> Subspace:
        """Take a subspace out of what `fit_das` returned.

        Args:
            result: of `fit_das`.
            layer: one of its layers.
            position: one of its positions, by number or label.
            rank: one of its ranks.

        Raises:
            PromptError: it has no such cell.
        """
        missing = {"layer", "position", "rank", "component", "width"} - {*result["basis"].dims}
        if missing or not {"model", "fingerprint", "site"} <= result.attrs.keys():
            raise PromptError(
                "The search was cut, or has lost its attributes; give it as fit_das returned it."
            )
        labels = [str(label) for label in result["position_label"].values]
        slots = [int(slot) for slot in result["position"].values]
        known: list[int | str] = [*labels] if isinstance(position, str) else [*slots]
        layers, ranks = (result[name].values.tolist() for name in ("layer", "rank"))
        if position not in known or layer not in layers or rank not in ranks:
            raise PromptError(
                f"The search holds no layer {layer}, position {position!r}, rank {rank}; it holds "
                f"layers {layers}, positions {', '.join(labels)}, ranks {ranks}."
            )
        at = known.index(position)
        cell = result["basis"].sel(layer=layer, rank=rank).isel(position=at)
        rows = torch.from_numpy(cell.transpose("component", "width").values[:rank].copy())
        identity = {name: str(result.attrs[name]) for name in ("model", "fingerprint")}
        return cls(rows, str(result.attrs["site"]), layer, labels[at], identity)

    def interchanged(
        self, base: Float[Tensor, "*row width"], source: Float[Tensor, "*row width"]
    ) -> Float[Tensor, "*row width"]:
        """`base` with its part in the subspace set to that of `source`."""
        rows = self.basis.to(base.device, torch.promote_types(base.dtype, torch.float32))
        found: Tensor = base + moved(rows, (source - base).to(rows.dtype)).to(base.dtype)
        return found

    def check(self, model: Model) -> None:
        """Raise a ModelError unless it belongs to this model."""
        if self.identity.get("fingerprint") != model.fingerprint:
            raise ModelError(
                f"The subspace belongs to the model '{self.identity.get('model')}' with "
                f"fingerprint {self.identity.get('fingerprint')}, not to {model.name} "
                f"({model.fingerprint}); load that model, or search in this one."
            )

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, with its place and its model in the header.

        Raises:
            StorageError: the disk is full, or the path cannot be written.
        """
        from safetensors.torch import save

        notes = {
            "format": _FORMAT,
            "site": self.site,
            "layer": str(self.layer),
            "position": self.position,
            "identity": json.dumps(dict(self.identity)),
        }
        rows = self.basis.detach().cpu().contiguous()
        write_atomic(path, save({"basis": rows}, metadata=notes))

    @classmethod
    def load(cls, path: Path | str, model: Model) -> Subspace:
        """Read a subspace of this model.

        Raises:
            StorageError: there is no such file, or it holds no subspace.
            ModelError: it belongs to another model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        content = read_bytes(path)
        try:
            rows = load(content)["basis"]
            notes = _header(content)
            if notes["format"] != _FORMAT:
                raise ValueError(f"its format is {notes['format']!r}")
            site, layer, position, identity = (notes[name] for name in _NOTES)
            named = {str(k): str(v) for k, v in json.loads(identity).items()}
            found = cls(rows, site, int(layer), position, named)
            if rows.shape[1] != width_at(model, site, 1) or not 0 <= found.layer < model.n_layers:
                found.check(model)
                raise ValueError("it does not fit the model that it names")
        except (
            SafetensorError,
            DirectionError,
            SiteError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise StorageError(
                f"'{path}' is not a subspace that Obverse wrote ({reason}); save it again."
            ) from error
        found.check(model)
        return found


def check_site(site: str) -> None:
    """Raise a SiteError unless each token has one vector there."""
    kind = site_kind(site)
    if kind.per_head or kind.pairwise:
        able = [name for name, one in KINDS.items() if not (one.per_head or one.pairwise)]
        raise SiteError(f"'{site}' has no one vector for a token; take one of {', '.join(able)}.")


def _header(content: bytes) -> dict[str, Any]:
    """What stands in the header of a safetensors file that was read before."""
    size = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + size])["__metadata__"]
    return {str(name): value for name, value in found.items()}
