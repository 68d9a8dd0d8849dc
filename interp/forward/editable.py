"""Whether edits of a site reach the rest of the model, tried on the model itself.

TransformerLens shows some activations only after Hugging Face has used them; an edit there would be
dropped, and every patch would seem to do nothing. So the site is zeroed once in every layer, and
what is computed from it must follow.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from interp import sites as site_names
from interp.errors import SiteError
from interp.forward.hooks import hooked
from interp.forward.passes import record
from interp.forward.resid_mid import check_between
from interp.model.model import Model
from interp.sites import Site, neurons_at

# By site what is computed from it alone: without attention there is no head output, and an MLP
# without active neurons adds the same to every token.
_FOLLOWS = {"pattern": "z", "mlp_act": "mlp_out"}
# Relative to what stands there untouched.
_TOLERANCE = 1e-2


def check_editable(model: Model, site: Site) -> Site:
    """Return the site if the model has it and edits there count.

    Raises:
        SiteError: the model has no such site, or drops edits of it.
    """
    site_names.check(model, site)
    if site.name == "resid_mid":
        check_between(model)
    if site.name not in _FOLLOWS:
        return site
    with model.lock:
        if site.name not in model.editable:
            model.editable[site.name] = _follows(model, site.name)
    if not model.editable[site.name]:
        what = "Attention patterns" if site.name == "pattern" else "MLP neurons"
        others = "'q', 'k', 'v' or 'z'" if site.name == "pattern" else "'mlp_out'"
        raise SiteError(
            f"{what} of {model.name} cannot be replaced: TransformerLens shows them only after "
            f"they were used, so an edit would be dropped; patch {others} instead."
        )
    return site


def _follows(model: Model, name: str) -> bool:
    layers = range(model.n_layers)
    edited = [Site(name, layer) for layer in layers]
    after = [Site(_FOLLOWS[name], layer) for layer in layers]
    ids = torch.arange(min(8, model.d_vocab, model.n_ctx), device=model.device)[None]
    plain = record(model, ids, [*edited, *after])
    if name == "mlp_act" and any(plain[site].shape[-1] != neurons_at(model) for site in edited):
        return False
    zeros = [(site_names.hook_point(model, site), torch.zeros_like) for site in edited]
    with warnings.catch_warnings(), hooked(zeros):
        # TransformerLens warns of an edit that it drops; that is what is looked for here.
        warnings.simplefilter("ignore")
        changed = record(model, ids, after)
    return all(_left(name, changed[s]) <= _TOLERANCE * _left(name, plain[s]) for s in after)


def _left(name: str, value: Tensor) -> float:
    """How much there is of the activation that must vanish with the site."""
    value = value.float()
    return float((value if name == "pattern" else value - value[:, :1]).norm())
