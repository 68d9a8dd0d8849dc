"""Places in a model: how they are written, and whether and where a model has them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.arguments import typed
from interp.errors import SiteError
from interp.kinds import KINDS, TOKEN_AXES, SiteKind, site_kind

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

    from interp.model.model import Model


_WRITTEN = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?:\.(?P<layer>\d+))?(?:\.h(?P<head>\d+))?\Z")


@typed
@dataclass(frozen=True, order=True)
class Site:
    """A place in the model: a kind of activation, a layer, and for per-head kinds a head.

    `str(Site("z", 3, head=5))` is "z.3.h5", and `Site.parse` reads that back.
    """

    name: str
    layer: int
    head: int | None = None

    def __post_init__(self) -> None:
        kind = site_kind(self.name)
        if self.head is not None and not kind.per_head:
            raise SiteError(f"The site '{self.name}' has no heads; leave the head out.")

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read "resid_pre.3" or "z.3.h5"."""
        match = _WRITTEN.match(text)
        if not match or match["layer"] is None:
            raise SiteError(f"'{text}' is not a site; write it like 'resid_pre.3' or 'z.3.h5'.")
        head = None if match["head"] is None else int(match["head"])
        return cls(match["name"], int(match["layer"]), head)

    def __str__(self) -> str:
        suffix = "" if self.head is None else f".h{self.head}"
        return f"{self.name}.{self.layer}{suffix}"

    @property
    def kind(self) -> SiteKind:
        return KINDS[self.name]

    @property
    def token_axes(self) -> tuple[int, ...]:
        """Which axes of its activation [example, …] run over tokens, those changed first.

        Where the site is one head, its activation has no axis for heads.
        """
        axes = [axis for axis in self.kind.axes if self.head is None or axis != "head"]
        return tuple(1 + at for at, axis in enumerate(axes) if axis in TOKEN_AXES)


def heads_at(model: Model, name: str) -> int:
    """Heads at the site `name`: fewer for keys and values in grouped-query attention."""
    return model.n_heads if site_kind(name).heads == "query" else model.n_key_value_heads


def neurons_at(model: Model) -> int:
    """Neurons of one MLP.

    Raises:
        SiteError: the MLPs of its blocks differ in width.
    """
    widths = sorted(set(model.mlp_widths))
    if len(widths) > 1:
        raise SiteError(
            f"The MLPs of {model.name} have from {widths[0]} to {widths[-1]} neurons, so its "
            "neurons are no one site; use 'mlp_out' instead."
        )
    return widths[0]


def shape_at(model: Model, name: str) -> tuple[int, ...]:
    """The shape of one token's activation at the site `name`; of a pair of tokens in patterns."""
    sizes = {
        "head": lambda: heads_at(model, name),
        "d_model": lambda: model.d_model,
        "d_head": lambda: int(model.bridge.cfg.d_head),
        "neuron": lambda: neurons_at(model),
    }
    return tuple(sizes[axis]() for axis in site_kind(name).axes if axis not in TOKEN_AXES)


def width_at(model: Model, name: str, length: int) -> int:
    """Numbers for each token of a sequence of `length` at the site `name`."""
    return math.prod(shape_at(model, name)) * (length if site_kind(name).pairwise else 1)


def expand(model: Model, name: str) -> list[Site]:
    """The site `name` ("resid_pre") at every layer, or the one site that `name` writes out."""
    if "." in name:
        return [Site.parse(name)]
    site_kind(name)
    return [Site(name, layer) for layer in range(model.n_layers)]


def named(model: Model, sites: str | Site | Iterable[str | Site]) -> list[Site]:
    """The sites that a user's wording names, each once: "resid_post", "resid_post.3", `Site`s.

    Raises:
        SiteError: the model has no such site, layer or head.
    """
    found = [
        one
        for site in ([sites] if isinstance(sites, str | Site) else sites)
        for one in (expand(model, site) if isinstance(site, str) else [site])
    ]
    return list(hook_points(model, found))


def some_named(model: Model, sites: str | Site | Iterable[str | Site]) -> list[Site]:
    """The same, where there must be one at least."""
    found = named(model, sites)
    if not found:
        raise SiteError(f"There are no sites; name one or more of {', '.join(KINDS)}.")
    return found


def check(model: Model, site: Site) -> Site:
    """Return `site` if the model has it; otherwise a SiteError says what the model does have."""
    hook_points(model, [site])
    return site


def hook_points(model: Model, sites: Iterable[Site]) -> dict[Site, HookPoint]:
    """TransformerLens' hook points for `sites`.

    Raises:
        SiteError: the model has no such site, layer or head.
    """
    points = model.bridge.hook_dict  # put together anew at every look
    return {site: _hook_point(model, site, points) for site in sites}


def _hook_point(model: Model, site: Site, points: Mapping[str, HookPoint]) -> HookPoint:
    if not 0 <= site.layer < model.n_layers:
        raise SiteError(
            f"Layer {site.layer} is out of range: {model.name} has layers 0 to "
            f"{model.n_layers - 1}."
        )
    if site.head is not None:
        heads = heads_at(model, site.name)
        if not 0 <= site.head < heads:
            raise SiteError(
                f"Head {site.head} is out of range: {model.name} has heads 0 to {heads - 1} "
                f"at '{site.name}'."
            )
    block = f"blocks.{site.layer}"
    point = points.get(f"{block}.{site.kind.hook}")
    # Of a mixture of experts TransformerLens calls the output of all of them "hook_post" too.
    experts = site.kind.unit == "neuron" and point is points.get(f"{block}.mlp.hook_out")
    if point is None or experts:
        reason = "its architecture does not expose it"
        if site.kind.part == "between" and model.parallel_blocks:
            reason = (
                "its blocks run attention and MLP in parallel, so there is no stream between them"
            )
        elif point is not None:
            reason = "its MLPs are mixtures of experts, whose neurons TransformerLens does not show"
        raise SiteError(f"{model.name} has no site '{site.name}': {reason}. Choose another site.")
    return point
