"""What probes read: activations of some sites on the same examples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from cache.arguments import typed
from interp.errors import ProbeError
from probes.labels import Codes, group_codes

Strings = tuple[str, ...]
# Tokens at the start of prompts may be the same in many; that is no reason to warn.
_REPEATED = 0.1
_FEW = 5


@typed
@dataclass(frozen=True)
class Features:
    """Activations [site, example, dim], float32 or float64, and what the examples are.

    Attributes:
        values: the activations.
        sites: names of the sites: "resid_post.3", "resid_post.3@name".
        tokens: for each example the token that was read, as text; the word types of control labels.
        prompts: for each example the number of its prompt; groups where no others are given.
        identity: name and fingerprint of the model, and the version of Obverse; empty for
            activations from elsewhere.
    """

    values: Float[Tensor, "site example dim"]
    sites: Strings
    tokens: Strings = ()
    prompts: npt.NDArray[np.int64] | None = None
    identity: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many examples there are."""
        return self.values.shape[1]

    @property
    def dim(self) -> int:
        return self.values.shape[2]

    def select(self, examples: Any) -> Features:
        """Some of the examples: indices, or a mask."""
        chosen = np.arange(len(self))[np.asarray(examples)]
        return replace(
            self,
            values=self.values[:, torch.as_tensor(chosen)],
            tokens=tuple(self.tokens[i] for i in chosen) if self.tokens else (),
            prompts=None if self.prompts is None else self.prompts[chosen],
        )

    def at(self, sites: str | Sequence[str]) -> Features:
        """Some of the sites: by full name, or "resid_post" for all that begin so."""
        wanted = [sites] if isinstance(sites, str) else list(sites)
        kept = [i for i, name in enumerate(self.sites) if any(_is(name, w) for w in wanted)]
        if not kept:
            raise ProbeError(
                f"There are no features of {', '.join(wanted)}; there are {', '.join(self.sites)}."
            )
        return replace(self, values=self.values[kept], sites=tuple(self.sites[i] for i in kept))

    def to_xarray(self) -> xr.DataArray:
        """The same as a labelled array [site, example, dim]."""
        coords: dict[str, Any] = {"site": list(self.sites)}
        if self.tokens:
            coords["token"] = ("example", list(self.tokens))
        if self.prompts is not None:
            coords["prompt"] = ("example", self.prompts)
        values = self.values.detach().cpu().numpy()
        dims = ("site", "example", "dim")
        return xr.DataArray(values, coords, dims, "features", dict(self.identity))


def as_features(features: Any) -> Features:
    """Features from whatever a user has: Features, a labelled array, or numbers.

    Args:
        features: `Features`, an xarray.DataArray with dims site, example and dim, or a tensor or
            array [site, example, dim] or [example, dim].

    Raises:
        ProbeError: the shape is another, there are no sites or examples, or numbers are not finite.
    """
    if isinstance(features, Features):
        found = features
    elif isinstance(features, xr.DataArray):
        found = _from_xarray(features)
    else:
        try:
            values = torch.as_tensor(features)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ProbeError(
                f"A {type(features).__name__} holds no features; give numbers [example, dim] or "
                "[site, example, dim]."
            ) from error
        if values.ndim not in (2, 3):
            raise ProbeError(
                f"Features are numbers [example, dim] or [site, example, dim], and these have the "
                f"shape {tuple(values.shape)}."
            )
        if values.ndim == 2:
            values = values[None]
        found = Features(values, tuple(f"site {i}" for i in range(len(values))))
    return _checked(found)


def fittable(features: Any) -> Features:
    """Features of which products can be taken; see `as_features`.

    Raises:
        ProbeError: no features, or numbers so large or small that their squares are none.
    """
    found = as_features(features)
    low, high = found.values.flatten(1).aminmax(dim=1)
    largest = torch.maximum(high, -low)
    limit = float(torch.finfo(found.values.dtype).max) ** 0.4
    fine = (largest == 0) | ((largest > 1 / limit) & (largest < limit))
    for site in (~fine).nonzero()[:, 0].tolist():
        raise ProbeError(
            f"The largest feature of '{found.sites[site]}' is {float(largest[site]):.1g}, whose "
            "products cannot be told from zero or infinity; scale the features."
        )
    return found


def example_groups(features: Features, groups: Any) -> Codes:
    """Groups of the examples, as numbers.

    Where none are given, each prompt is a group, and each example where there are no prompts with
    several. Examples that are the very same at every site are of one group then, or a probe would
    be tested on what it has learned. Groups that are given are taken as they are, with a warning
    where many examples of different groups are the very same.

    Raises:
        ProbeError: as `group_codes` does.
    """
    found = group_codes(features.prompts if groups is None else groups, len(features))
    same = alike(features)
    if groups is None and int(found.max()) + 1 == len(features):
        if int(same.max()) + 1 < min(_FEW, len(features)):
            raise ProbeError(
                f"The {len(features)} examples have {int(same.max()) + 1} different features only, "
                "so that a probe would be tested on what it has learned; give groups=… if that is "
                "meant."
            )
        return same
    groups_of = np.zeros(int(same.max()) + 1, dtype=np.int64)
    pairs = np.unique(np.stack([same, found], 1), axis=0)
    np.add.at(groups_of, pairs[:, 0], 1)
    share = float((groups_of[same] > 1).mean())
    if share > _REPEATED:
        warnings.warn(
            f"{share:.0%} of the examples are the very same as one of another group, so that a "
            "probe can be tested on what it has learned, and p values and intervals count them "
            "twice; put them into one group.",
            stacklevel=3,
        )
    return found


def alike(features: Features) -> Codes:
    """A number for each example; those that are the very same at every site have the same."""
    values = features.values.detach()
    few = np.ascontiguousarray(values[0, :, :8].cpu().numpy())
    # A few numbers tell nearly all examples apart, and only the others are looked at whole.
    _, kind, count = np.unique(few, axis=0, return_inverse=True, return_counts=True)
    number = np.arange(len(features))
    known: dict[bytes, int] = {}
    for example in np.flatnonzero(count[kind.reshape(-1)] > 1).tolist():
        row = values[:, example].cpu().numpy().tobytes()
        number[example] = known.setdefault(row, example)
    return group_codes(number, len(features))


def _from_xarray(array: xr.DataArray) -> Features:
    missing = {"example", "dim"} - set(map(str, array.dims))
    if missing:
        raise ProbeError(
            f"Features need the dims site, example and dim; this array has "
            f"{', '.join(map(str, array.dims))}."
        )
    if "site" not in array.dims:
        array = array.expand_dims("site")
    array = array.transpose("site", "example", "dim")
    names = array["site"].values if "site" in array.coords else range(array.sizes["site"])
    return Features(
        torch.as_tensor(np.ascontiguousarray(array.values)),
        tuple(str(name) for name in names),
        tuple(map(str, array["token"].values)) if "token" in array.coords else (),
        np.asarray(array["prompt"].values) if "prompt" in array.coords else None,
        {str(key): str(value) for key, value in array.attrs.items()},
    )


def _checked(features: Features) -> Features:
    values = features.values
    if values.ndim != 3:
        raise ProbeError(
            f"Features are an array [site, example, dim], not one of shape {tuple(values.shape)}."
        )
    if not len(features.sites) or not values.numel():
        raise ProbeError("There are no features: give at least one site, one example and one dim.")
    if len(features.sites) != len(values):
        raise ProbeError(f"{len(features.sites)} names do not fit {len(values)} sites.")
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    values = values.detach()
    low, high = values.flatten(1).aminmax(dim=1)  # makes no copy, and shows what is not finite
    for site in (~(low.isfinite() & high.isfinite())).nonzero()[:, 0].tolist():
        bad = int((~torch.isfinite(values[site]).all(1)).nonzero()[0])
        raise ProbeError(
            f"The features of '{features.sites[site]}' are not finite in example {bad}; leave such "
            "examples out, or load the model in float32."
        )
    return replace(features, values=values.contiguous())


def _is(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith((f"{wanted}.", f"{wanted}@"))
