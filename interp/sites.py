"""Names of activations: the only file that knows the hook names of TransformerLens."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.arguments import typed
from interp.errors import SiteError

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

    from interp.model.model import Model


@dataclass(frozen=True)
class SiteKind:
    """What a family of sites is: its hook, and the axes of its activation after [example]."""

    hook: str
    axes: tuple[str, ...]
    meaning: str

    @property
    def per_head(self) -> bool:
        return "head" in self.axes


KINDS: dict[str, SiteKind] = {
    "resid_pre": SiteKind(
        "hook_resid_pre", ("position", "d_model"), "residual stream into a block"
    ),
    "resid_mid": SiteKind(
        "hook_resid_mid", ("position", "d_model"), "residual stream between attention and MLP"
    ),
    "resid_post": SiteKind(
        "hook_resid_post", ("position", "d_model"), "residual stream out of a block"
    ),
    "attn_out": SiteKind(
        "hook_attn_out", ("position", "d_model"), "what the attention adds to the residual stream"
    ),
    "mlp_out": SiteKind(
        "hook_mlp_out", ("position", "d_model"), "what the MLP adds to the residual stream"
    ),
    "mlp_act": SiteKind(
        "mlp.hook_post", ("position", "neuron"), "MLP neurons, after the nonlinearity"
    ),
    "q": SiteKind("attn.hook_q", ("position", "head", "d_head"), "queries, before rotation"),
    "k": SiteKind("attn.hook_k", ("position", "head", "d_head"), "keys, before rotation"),
    "v": SiteKind("attn.hook_v", ("position", "head", "d_head"), "values"),
    "z": SiteKind(
        "attn.hook_z", ("position", "head", "d_head"), "head outputs before the output matrix"
    ),
    "pattern": SiteKind(
        "attn.hook_pattern", ("head", "destination", "source"), "attention probabilities"
    ),
}

_WRITTEN = re.compile(r"(?P<name>[a-z_]+)(?:\.(?P<layer>\d+))?(?:\.h(?P<head>\d+))?\Z")


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


def site_kind(name: str) -> SiteKind:
    """The kind called `name`; a SiteError names the nearest one where there is none."""
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(name, KINDS, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise SiteError(f"Unknown site '{name}'; known are {', '.join(KINDS)}.{hint}")


def heads_at(model: Model, name: str) -> int:
    """Heads at the site `name`: fewer for keys and values in grouped-query attention."""
    return model.n_key_value_heads if name in ("k", "v") else model.n_heads


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


def width_at(model: Model, name: str, length: int) -> int:
    """Numbers for each token of a sequence of `length` at the site `name`."""
    if name == "pattern":
        return heads_at(model, name) * length
    return math.prod(shape_at(model, name))


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
        check(model, one)
        for site in ([sites] if isinstance(sites, str | Site) else sites)
        for one in (expand(model, site) if isinstance(site, str) else [site])
    ]
    return list(dict.fromkeys(found))


def some_named(model: Model, sites: str | Site | Iterable[str | Site]) -> list[Site]:
    """The same, where there must be one at least."""
    found = named(model, sites)
    if not found:
        raise SiteError(f"There are no sites; name one or more of {', '.join(KINDS)}.")
    return found


def shape_at(model: Model, name: str) -> tuple[int, ...]:
    """The shape of one token's activation at the site `name`; patterns have none."""
    if site_kind(name).per_head:
        return heads_at(model, name), int(model.bridge.cfg.d_head)
    return (neurons_at(model),) if name == "mlp_act" else (model.d_model,)


def check(model: Model, site: Site) -> Site:
    """Return `site` if the model has it; otherwise a SiteError says what the model does have."""
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
    hook_point(model, site)
    return site


def hook_point(model: Model, site: Site) -> HookPoint:
    """TransformerLens' hook point for `site`."""
    points = model.bridge.hook_dict
    point = points.get(f"blocks.{site.layer}.{site.kind.hook}")
    # Of a mixture of experts TransformerLens calls the output of all of them "hook_post" too.
    experts = site.name == "mlp_act" and point is points.get(f"blocks.{site.layer}.mlp.hook_out")
    if point is None or experts:
        reason = "its architecture does not expose it"
        if site.name == "resid_mid" and model.parallel_blocks:
            reason = (
                "its blocks run attention and MLP in parallel, so there is no stream between them"
            )
        elif point is not None:
            reason = "its MLPs are mixtures of experts, whose neurons TransformerLens does not show"
        raise SiteError(f"{model.name} has no site '{site.name}': {reason}. Choose another site.")
    return point
