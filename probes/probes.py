"""Fitted probes: what they answer, where they point, and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from cache.arguments import typed
from cache.files import read_bytes, write_atomic
from interp.errors import ModelError, ProbeError, StorageError
from interp.model.model import Model
from probes.features import Features, as_features

_FORMAT = "obverse probes 1"


@typed
@dataclass(frozen=True)
class Probes:
    """One probe for each site.

    Attributes:
        kind: "mean", "lda", "ridge", "logistic" or "mlp".
        coef: [site, column, dim]; one column for two classes, towards the second.
        intercept: [site, column].
        sites: names of the sites.
        classes: names of the classes; empty where numbers are predicted.
        settings: how they were fitted.
        identity: name and fingerprint of the model the features are of, and Obverse's version.
        gradient: largest entry of the mean loss' gradient at the end [site]; 0 for formulas.
        iterations: steps taken [site].
        hidden: weights [site, neuron, dim] and biases [site, neuron] of a hidden ReLU layer, which
            `coef` then reads.
    """

    kind: str
    coef: Float[Tensor, "site column dim"]
    intercept: Float[Tensor, "site column"]
    sites: tuple[str, ...]
    classes: tuple[str, ...]
    settings: Mapping[str, str | int | float]
    identity: Mapping[str, str] = field(default_factory=dict)
    gradient: Float[Tensor, " site"] = field(default_factory=lambda: torch.zeros(0))
    iterations: Int[Tensor, " site"] = field(default_factory=lambda: torch.zeros(0).long())
    hidden: tuple[Tensor, Tensor] | None = None

    def __repr__(self) -> str:
        what = " / ".join(self.classes) or f"{self.coef.shape[1]} numbers"
        return f"Probes({self.kind!r}, {what}, {len(self.sites)} sites)"

    @classmethod
    def of_report(cls, report: xr.Dataset) -> Probes:
        """The probes of all examples, each at the strength that its report chose."""
        attrs = dict(report.attrs)
        settings = {name: attrs[name] for name in ("folds", "nulls", "bootstraps", "seed", "tol")}
        return cls(
            "logistic",
            torch.as_tensor(report["coef"].values),
            torch.as_tensor(report["intercept"].values),
            tuple(map(str, report["site"].values)),
            tuple(map(str, attrs["classes"])),
            {"kind": "logistic", **settings},
            {
                name: str(attrs[name])
                for name in ("model", "fingerprint", "obverse_version")
                if name in attrs
            },
            torch.as_tensor(report["gradient"].values),
        )

    def decision(self, features: Any) -> Float[Tensor, "site example column"]:
        """Linear predictors: log odds of the second class, or a score for each class or target."""
        found = self._matching(features)
        x = found.values.to(self.coef)
        if self.hidden is not None:
            weight, bias = self.hidden
            x = torch.relu(x @ weight.mT + bias[:, None])
        return x @ self.coef.mT + self.intercept[:, None]

    def predict(self, features: Any) -> Int[Tensor, "site example"]:
        """The class of each example, as an index into `classes`."""
        self._needs_classes()
        z = self.decision(features)
        return (z[..., 0] > 0).long() if z.shape[-1] == 1 else z.argmax(-1)

    def accuracy(self, features: Any, labels: Any) -> xr.DataArray:
        """Whether each example is answered right: correct(site, example), 0 or 1.

        Labels that the probes do not know are never right.
        """
        found = self._matching(features)
        answers = np.array(self.classes)[self.predict(found).cpu().numpy()]
        truth = np.array([str(label) for label in np.asarray(labels)])
        if truth.shape != (len(found),):
            raise ProbeError(
                f"There are {len(found)} examples but labels of shape {truth.shape}; give one "
                "label for each."
            )
        return xr.DataArray(
            (answers == truth).astype(float),
            {"site": list(self.sites)},
            ("site", "example"),
            "correct",
        )

    def direction(self, site: str, towards: str | None = None) -> Float[Tensor, " dim"]:
        """The unit vector along which the probe's answer moves fastest.

        Args:
            site: name of the site.
            towards: the class it points to, away from the mean of the others; the second of two if
                left out.

        Raises:
            ProbeError: there is no such site or class, or the probe is no linear one.
        """
        if self.hidden is not None:
            raise ProbeError("An MLP probe has no direction; use a linear probe.")
        if site not in self.sites:
            raise ProbeError(f"There is no probe at '{site}'; there are {', '.join(self.sites)}.")
        coef = self.coef[self.sites.index(site)]
        if towards is None and len(coef) != 1:
            raise ProbeError("There are several classes; say towards which: towards='…'.")
        if towards is not None and towards not in self.classes:
            raise ProbeError(f"Unknown class '{towards}'; there are {', '.join(self.classes)}.")
        number = 1 if towards is None else self.classes.index(towards)
        if len(coef) == 1:
            vector = coef[0] if number == 1 else -coef[0]
        else:
            vector = coef[number] - coef.mean(0)
        unit: Tensor = vector / vector.norm().clamp(min=1e-30)
        return unit

    def save(self, path: Path | str) -> None:
        """Write `path`.safetensors with the numbers and `path`.json with the rest.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        from safetensors.torch import save

        tensors = {
            "coef": self.coef,
            "intercept": self.intercept,
            "gradient": self.gradient,
            "iterations": self.iterations,
        }
        if self.hidden is not None:
            tensors |= {"hidden.weight": self.hidden[0], "hidden.bias": self.hidden[1]}
        data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
        content = {
            "format": _FORMAT,
            "kind": self.kind,
            "sites": list(self.sites),
            "classes": list(self.classes),
            "settings": dict(self.settings),
            "identity": dict(self.identity),
        }
        # The text goes last: where it is, the numbers are.
        write_atomic(Path(f"{path}.safetensors"), data)
        write_atomic(Path(f"{path}.json"), json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str, model: Model) -> Probes:
        """Read the probes of this model that `save(path)` wrote.

        Raises:
            StorageError: there are none, or the files are damaged.
            ModelError: they belong to another model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            content = json.loads(read_bytes(Path(f"{path}.json")))
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            identity = {str(k): str(v) for k, v in content["identity"].items()}
            if identity.get("fingerprint") != model.fingerprint:
                raise ModelError(
                    f"The probes in '{path}' belong to the model "
                    f"'{identity.get('model', 'unknown')}' with fingerprint "
                    f"{identity.get('fingerprint', 'unknown')}, not to {model.name} "
                    f"({model.fingerprint}); load that model, or fit probes on this one."
                )
            tensors = load(read_bytes(Path(f"{path}.safetensors")))
            hidden = None
            if "hidden.weight" in tensors:
                hidden = tensors["hidden.weight"], tensors["hidden.bias"]
            found = cls(
                str(content["kind"]),
                tensors["coef"],
                tensors["intercept"],
                tuple(map(str, content["sites"])),
                tuple(map(str, content["classes"])),
                dict(content["settings"]),
                identity,
                tensors["gradient"],
                tensors["iterations"],
                hidden,
            )
            if found.coef.ndim != 3 or len(found.coef) != len(found.sites):
                raise ValueError("its numbers do not fit its sites")
        except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            reason = str(error).split("\n")[0]
            raise StorageError(
                f"'{path}' does not hold probes that Obverse wrote ({reason}); save them again."
            ) from error
        return found

    def _matching(self, features: Any) -> Features:
        found = as_features(features)
        theirs, ours = found.identity.get("fingerprint"), self.identity.get("fingerprint")
        if theirs and ours and theirs != ours:
            raise ModelError(
                f"These features are of the model '{found.identity.get('model')}' and the probes "
                f"of '{self.identity.get('model')}'; probe the model they were fitted on."
            )
        dim = self.coef.shape[2] if self.hidden is None else self.hidden[0].shape[2]
        if found.dim != dim:
            raise ProbeError(f"The probes read {dim} dims, but these features have {found.dim}.")
        if len(found.sites) == len(self.sites) and set(found.sites) != set(self.sites):
            return found
        return found.at(list(self.sites)) if found.sites != self.sites else found

    def _needs_classes(self) -> None:
        if not self.classes:
            raise ProbeError("These probes predict numbers; use decision(…).")
