"""Whether a model's blocks have a residual stream between attention and MLP that can be set.

TransformerLens hooks that stream on the MLP's branch, after the skip connection has kept a
reference to the same tensor, so an edit has to be made in place to reach both. Whether it does,
and whether anything is added to the stream there at all, is for each architecture to show.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp import sites as site_names
from interp.errors import SiteError
from interp.forward.hooks import Hook, hooked
from interp.model.model import Model
from interp.sites import Site

# An edit that reaches one of the two branches only is off by as much as the stream is long.
_TOLERANCE = 0.1


def check_between(model: Model) -> None:
    """Turn the stream between attention and MLP round, and see whether the block's output follows.

    Tried once for each model, in every block.

    Raises:
        SiteError: the output is not the edited stream plus what the MLP makes of it.
    """
    with model.lock:
        if model.stream_between is None:
            model.stream_between = _follows(model)
    if not model.stream_between:
        raise SiteError(
            f"{model.name} has no site 'resid_mid': its blocks do not add the MLP's output to the "
            "stream that follows the attention. Choose another site."
        )


def _follows(model: Model) -> bool:
    kept: dict[Site, Tensor] = {}

    def turn(site: Site) -> Hook:
        def hook(value: Tensor) -> None:
            value.neg_()
            kept[site] = value.clone()

        return hook

    def keep(site: Site) -> Hook:
        def hook(value: Tensor) -> None:
            kept[site] = value.clone()

        return hook

    hooks = []
    for layer in range(model.n_layers):
        for name, make in (("resid_mid", turn), ("mlp_out", keep), ("resid_post", keep)):
            site = Site(name, layer)
            hooks.append((site_names.hook_point(model, site), make(site)))
    ids = torch.arange(min(8, model.d_vocab, model.n_ctx), device=model.device)[None]
    with hooked(hooks), torch.no_grad():
        model.bridge(ids, use_cache=False)
    for layer in range(model.n_layers):
        middle, added, output = (
            kept[Site(name, layer)].float() for name in ("resid_mid", "mlp_out", "resid_post")
        )
        # Written so that NaN is refused too.
        if not float((output - added - middle).norm()) <= _TOLERANCE * float(middle.norm()):
            return False
    return True
