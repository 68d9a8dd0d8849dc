"""A Jacobian lens (Gurnee et al. 2026): for each layer the mean Jacobian of the final stream.

J_l is the mean, over prompts and over the positions t of a prompt, of the sum over positions t' ≥ t
of ∂ h_final(t') / ∂ h_l(t). The lens reads the stream h after block l as the model's readout of
J_l h; with J_l = 1 that is the logit lens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from interp.errors import DirectionError, ModelError, SiteError, StorageError
from interp.forward.interventions import Intervention
from interp.lens.jacobian import directions, files, sparse
from interp.model.model import Model
from interp.prompts.masks import Positions
from interp.prompts.tokens import Prompts

__all__ = ["JacobianLens"]

# Notes of a fit that say of how much text it is, and not which lens it is.
_AMOUNTS = ("n_prompts", "standard_error", "rows")


@typed
@dataclass(frozen=True, eq=False)
class JacobianLens:
    """Reads the stream after block l as the model's readout of J[l] @ h.

    Attributes:
        J: {block: [d_model, d_model]}, float32 on the CPU; the last block needs none.
        n_prompts: over how many prompts the mean was taken.
        metadata: what is known of the fit, by name. A lens that was fitted here notes the model's
            fingerprint.
        embedding: the same from the embedding (layer 0 of `logit_lens`), where there is one.
    """

    J: Mapping[int, Float[Tensor, "d_model d_model"]]
    n_prompts: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    embedding: Float[Tensor, "d_model d_model"] | None = None

    def __post_init__(self) -> None:
        if not self.J:
            raise ModelError("A Jacobian lens needs the matrix of one layer at least.")
        found = [self.embedding] if self.embedding is not None else []
        for layer, matrix in self.J.items():
            if isinstance(layer, bool) or not isinstance(layer, Integral) or layer < 0:
                raise ModelError(f"'{layer}' is not the number of a block of a Jacobian lens.")
            found.append(matrix)
        first = next(iter(self.J.values()))
        width = len(first) if first.ndim else 0
        if any(matrix.shape != (width, width) for matrix in found):
            raise ModelError(
                "The matrices of a Jacobian lens must all be [d_model, d_model]; fit it again."
            )
        if not all(bool(torch.isfinite(matrix).all()) for matrix in found):
            raise ModelError("A Jacobian lens must be of finite numbers; fit it again.")
        # Whatever it is made of: a lens is read on any device, and in float32.
        whole = {int(layer): matrix.detach().float().cpu() for layer, matrix in self.J.items()}
        object.__setattr__(self, "J", whole)
        if self.embedding is not None:
            object.__setattr__(self, "embedding", self.embedding.detach().float().cpu())

    def __repr__(self) -> str:
        of = f", of {self.metadata['model']}" if "model" in self.metadata else ""
        layers = self.source_layers
        return (
            f"JacobianLens({len(layers)} layers from {layers[0]} to {layers[-1]}, d_model "
            f"{self.d_model}, {self.n_prompts} prompts{of})"
        )

    @property
    def d_model(self) -> int:
        return len(next(iter(self.J.values())))

    @property
    def source_layers(self) -> list[int]:
        """The blocks that it has a matrix for."""
        return sorted(self.J)

    def layers(self, model: Model) -> list[int]:
        """What it reads, counted as by `logit_lens`: 0 is the embedding, l what l blocks leave."""
        return [*self._read(), model.n_layers]

    def _read(self) -> list[int]:
        first = [0] if self.embedding is not None else []
        return [*first, *(layer + 1 for layer in self.source_layers)]

    def matrix(self, layer: int) -> Float[Tensor, "d_model d_model"]:
        """The matrix of a layer as `logit_lens` counts.

        Raises:
            ModelError: the lens was not fitted there.
        """
        found = self.embedding if layer == 0 else self.J.get(layer - 1)
        if found is None:
            where = "for the embedding" if layer == 0 else f"after {layer} blocks"
            raise ModelError(
                f"The Jacobian lens has no matrix {where}; fit it with that layer, or choose "
                f"another one (after {', '.join(str(one + 1) for one in self.source_layers)})."
            )
        return found

    def _behind(self, block: int) -> Float[Tensor, "d_model d_model"]:
        """The matrix of the stream after a block, as `J` counts."""
        if block not in self.J:
            raise ModelError(
                f"The Jacobian lens has no matrix after block {block}; it has those after "
                f"{', '.join(map(str, self.source_layers))}."
            )
        return self.J[block]

    def translate(
        self, layer: int, hidden: Float[Tensor, "*row d_model"]
    ) -> Float[Tensor, "*row d_model"]:
        """J h of streams of a layer, as `logit_lens` counts them; the last one has no matrix."""
        found: Tensor = hidden.float() @ self.matrix(layer).to(hidden.device).T
        return found.to(hidden.dtype)

    def check(self, model: Model) -> None:
        """Raise a ModelError unless the lens can be this model's, and where it names one, is."""
        if self.d_model != model.d_model or self.source_layers[-1] >= model.n_layers - 1:
            raise ModelError(
                f"A Jacobian lens of {self.d_model} dims up to block {self.source_layers[-1]} is "
                f"not one of {model.name} ({model.d_model} dims, {model.n_layers} blocks, of which "
                "the last needs none); load the model that it was fitted on."
            )
        target = self.metadata.get("target_layer", model.n_layers - 1)
        if target != model.n_layers - 1:
            raise ModelError(
                f"The Jacobian lens leads to block {str(target)[:20]} and not to the last one of "
                f"{model.name}; fit it for this model."
            )
        own = self.metadata.get("fingerprint")
        if own is not None and own != model.fingerprint:
            raise ModelError(
                f"The Jacobian lens belongs to the model '{str(self.metadata.get('model'))[:80]}' "
                f"with fingerprint {str(own)[:32]}, not to {model.name} ({model.fingerprint}); "
                "load that model, or fit a lens for this one."
            )

    def save(
        self,
        path: Path | str,
        *,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ) -> None:
        """Write one file, which TransformerLens' `JacobianLens.load` reads too.

        Args:
            path: of the file; in a folder that exists it is "lens.pt".
            dtype: of the matrices in the file; TransformerLens writes float16.

        Raises:
            StorageError: the disk is full, the path cannot be written, or the numbers do not fit
                the dtype.
        """
        files.write(
            files.place(path), self.J, self.n_prompts, dict(self.metadata), self.embedding, dtype
        )

    @classmethod
    def load(cls, path: Path | str, model: Model) -> JacobianLens:
        """Read a lens of this model, fitted here, by TransformerLens or by the paper's code.

        Nothing in the file is run. One that names no fingerprint is taken where width and number
        of layers fit, with a warning: whether it is of these very weights nobody can tell.

        Args:
            path: of the file, or a folder that holds "lens.pt".

        Raises:
            StorageError: there is no lens, or it is damaged.
            ModelError: it belongs to another model.
        """
        path = files.place(path)
        content = files.read(path, files.most_bytes(model.n_layers, model.d_model))
        try:
            lens = cls(content.J, content.n_prompts, content.metadata, content.embedding)
        except ModelError as error:
            raise StorageError(f"'{path}' cannot be used: {error}") from None
        lens.check(model)
        files.check_named(path, content.metadata, model)
        return lens

    @classmethod
    def merge(cls, lenses: Sequence[JacobianLens]) -> JacobianLens:
        """The lens of all the prompts of several, fitted on different texts of one model.

        Raises:
            ModelError: there are none, or they were not fitted in the same way on one model.
        """
        return _merged(lenses)

    def lens_vectors(
        self, model: Model, tokens: directions.Tokens, layer: int
    ) -> Float[Tensor, "token d_model"]:
        """The direction of each token in the stream after block `layer`: rows of W_U J.

        A step along it raises the token's logit most, to first order and but for the final norm,
        which it leaves out. In float32; `Intervention.add`, `ablate` and `dose_response` take it.

        Args:
            tokens: texts that are one token each, with the space before them, or token ids.
            layer: a block that the lens has a matrix for.

        Raises:
            ModelError: the lens belongs to another model, or has no such matrix.
            PromptError: a text is not one token.
        """
        self.check(model)
        return directions.vectors(model, self._behind(layer), tokens)

    def decompose(
        self,
        model: Model,
        vectors: Float[Tensor, "*example d_model"],
        layer: int,
        *,
        k: int = 25,
    ) -> xr.Dataset:
        """Write streams after block `layer` as sums of a few tokens' lens vectors.

        Orthogonal matching pursuit with coefficients that are not negative.

        Args:
            vectors: [example, d_model], or one [d_model].
            k: the most tokens for each.

        Returns:
            token(example, k), id(example, k) and coordinate(example, k), in lens vectors, by how
            much each contributes; explained(example): the share of the squared length. Beyond the
            last token stand "", -1 and NaN.

        Raises:
            ModelError: the lens belongs to another model, or has no such matrix.
            DirectionError: the vectors are not of the stream, or not finite.
        """
        self.check(model)
        matrix = self._behind(layer)
        if vectors.is_complex():
            raise DirectionError("A vector must be of real numbers.")
        rows = vectors.detach().float().reshape(-1, vectors.shape[-1] if vectors.ndim else 1)
        if vectors.ndim > 2 or not len(rows) or rows.shape[1] != model.d_model:
            raise DirectionError(f"Give one vector of {model.d_model} dims, or one each example.")
        if not bool(torch.isfinite(rows).all()):
            raise DirectionError("A vector must be of finite numbers.")
        if not 1 <= k <= model.d_vocab:
            raise DirectionError(f"A sum of {k} tokens is none; choose 1 to {model.d_vocab}.")
        return sparse.decomposition(model, matrix, rows, layer, k)

    def swap(
        self,
        model: Model,
        source: str | int,
        target: str | int,
        layers: Sequence[int],
        *,
        clamp_to: Prompts | str | None = None,
        strength: float = 1.0,
        positions: Positions = "all",
    ) -> list[Intervention]:
        """Interventions that exchange the streams' coordinates along two tokens' lens vectors.

        Args:
            source: one token.
            target: another.
            layers: after which blocks.
            clamp_to: the prompts that the interventions are for. Each of their tokens then gets the
                coordinates that it has without interventions, the other way round, at every layer;
                tokens that are written later are left alone. Without, the coordinates that stand
                there are exchanged, so that a layer can undo what the one before has done.
            strength: 1 for the exchange, 2 for twice as far.
            positions: which tokens.

        Raises:
            ModelError: the lens belongs to another model, or has no such matrix.
            PromptError: a text is not one token, or both are the same.
            DirectionError: both have one direction.
        """
        self.check(model)
        if not layers:
            raise SiteError("A swap at no layer does nothing; name one block or more.")
        matrices = {layer: self._behind(layer) for layer in layers}
        return directions.exchanges(model, matrices, source, target, strength, positions, clamp_to)

    def spread(self) -> xr.Dataset:
        """How far each matrix is from the identity, and how well it is known.

        Returns:
            distance(layer): |J − 1| / |1|, Frobenius; cosine(layer): of J and the identity, as
            vectors; standard_error(layer): of the mean over prompts, as a share of |J|, and
            noise(layer), the same as a share of |1|: the distance that it alone would make. These
            are NaN where the file does not tell. Layers as `logit_lens` counts them.
        """
        size = self.d_model**0.5
        noted = self.metadata.get("standard_error")
        errors = noted if isinstance(noted, Mapping) else {}
        rows = []
        for layer in self._read():
            matrix = self.matrix(layer).double()
            length = float(matrix.norm())
            apart = float((matrix - torch.eye(self.d_model)).norm()) / size
            cosine = float(matrix.trace()) / size / max(length, 1e-300)
            error = errors.get(str(layer))
            share = error if isinstance(error, float) else np.nan
            rows.append((apart, cosine, share, share * length / size))
        columns = np.array(rows).T
        names = ("distance", "cosine", "standard_error", "noise")
        return xr.Dataset(
            {name: ("layer", values) for name, values in zip(names, columns, strict=True)},
            coords={"layer": self._read()},
            attrs={
                "instrument": "spread of a Jacobian lens",
                "model": str(self.metadata.get("model", "")),
                "n_prompts": self.n_prompts,
            },
        )


def _merged(lenses: Sequence[JacobianLens]) -> JacobianLens:
    if not lenses:
        raise ModelError("There are no lenses to merge; give two or more.")
    first, total = lenses[0], sum(lens.n_prompts for lens in lenses)
    for lens in lenses:
        if lens.n_prompts < 1:
            raise ModelError("A lens that does not tell of how many prompts it is has no weight.")
        alike = lens.source_layers == first.source_layers and lens.d_model == first.d_model
        if not alike or (lens.embedding is None) != (first.embedding is None):
            raise ModelError("Lenses of different layers or widths cannot be merged.")
        if _which(lens) != _which(first):
            differ = [k for k in {**_which(lens), **_which(first)} if _differ(lens, first, k)]
            raise ModelError(
                f"These lenses were not fitted in the same way ('{sorted(differ)[0]}' differs); "
                "merge lenses of one model and one kind of fit."
            )

    texts = [lens.metadata["rows"] for lens in lenses if "rows" in lens.metadata]
    if len(set(texts)) < len(texts):
        raise ModelError("Two of these lenses were fitted on the same texts; give each once.")

    def mean(matrices: Sequence[Tensor]) -> Tensor:
        weighted = [m.double() * lens.n_prompts for m, lens in zip(matrices, lenses, strict=True)]
        return (torch.stack(weighted).sum(0) / total).float()

    J = {layer: mean([lens.J[layer] for lens in lenses]) for layer in first.source_layers}
    starts = [lens.embedding for lens in lenses if lens.embedding is not None]
    notes = {**_which(first), "n_prompts": total} if first.metadata else {}
    return JacobianLens(J, total, notes, mean(starts) if starts else None)


def _which(lens: JacobianLens) -> dict[str, Any]:
    return {name: value for name, value in lens.metadata.items() if name not in _AMOUNTS}


def _differ(a: JacobianLens, b: JacobianLens, name: str) -> bool:
    return bool(_which(a).get(name) != _which(b).get(name))
