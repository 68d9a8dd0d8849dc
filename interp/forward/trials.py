"""What a model shows of a site before it is used, tried on the model itself.

TransformerLens names some hook points after streams that an architecture may not have there, and
shows some activations only after Hugging Face has used them: what was read would be something else,
and an edit would be dropped, so that every patch would seem to do nothing. Which sites are tried
stands on their kind (`interp.kinds`). A trial is made once (`Model.once`), in every block, without
anybody's hooks.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp import sites as site_names
from interp.errors import ModelError, SiteError
from interp.forward.hooks import Hook, hooked, unhooked
from interp.kinds import EditTrial, StreamTrial
from interp.model.model import Model
from interp.sites import Site

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

# An edit that reaches one of two branches only is off by as much as the stream is long.
_STREAM_TOLERANCE = 0.1
# Relative to what stands there untouched.
_EDIT_TOLERANCE = 1e-2


def shown(model: Model, sites: Iterable[Site]) -> dict[Site, HookPoint]:
    """Hook points of sites that the model has, and has shown to have where their kind asks for it.

    Raises:
        SiteError: the model has no such site.
    """
    points = site_names.hook_points(model, sites)
    for name, trial in {site.name: site.kind.trial for site in points}.items():
        if trial is None:
            continue
        if not model.once(("shown", name), functools.partial(_is_stream, model, name, trial)):
            raise SiteError(
                f"{model.name} has no site '{name}': its blocks do not add the MLP's output to the "
                "stream that follows the attention. Choose another site."
            )
    return points


def editable(model: Model, sites: Iterable[Site]) -> dict[Site, HookPoint]:
    """Hook points of sites that the model has and where edits count.

    Raises:
        SiteError: the model has no such site, or drops edits of it.
    """
    points = shown(model, sites)
    for name, kind in {site.name: site.kind for site in points}.items():
        if kind.edit_trial is None:
            continue
        follows = functools.partial(_follows, model, name, kind.edit_trial)
        if not model.once(("editable", name), follows):
            raise SiteError(
                f"{kind.plural} of {model.name} cannot be replaced: TransformerLens shows them "
                "only after they were used, so an edit would be dropped; patch "
                f"{kind.edit_trial.instead} instead."
            )
    return points


def check_seen(model: Model, wanted: Iterable[Site], kept: Mapping[Site, Tensor]) -> None:
    """
    Raises:
        ModelError: there is a site that a run of the model did not come by.
    """
    for site in wanted:
        if site not in kept:
            raise ModelError(
                f"{model.name} never computes '{site}' where TransformerLens could see it; "
                "choose another site."
            )


def _is_stream(model: Model, name: str, trial: StreamTrial) -> bool:
    """Turn the stream round, and see whether what comes out of the block follows."""
    layers = range(model.n_layers)
    middle, added, out = ([Site(n, i) for i in layers] for n in (name, trial.added, trial.out))
    kept = _run(model, [*middle, *added, *out], dict.fromkeys(middle, Tensor.neg_))
    for site, more, after in zip(middle, added, out, strict=True):
        stream = kept[site].float()
        missed = kept[after].float() - kept[more].float() - stream
        # Written so that NaN is refused too.
        if not float(missed.norm()) <= _STREAM_TOLERANCE * float(stream.norm()):
            return False
    return True


def _follows(model: Model, name: str, trial: EditTrial) -> bool:
    """Zero the site in every layer, and see whether what is computed from it vanishes."""
    layers = range(model.n_layers)
    edited, after = ([Site(n, layer) for layer in layers] for n in (name, trial.follows))
    plain = _run(model, [*edited, *after], {})
    if not edited[0].kind.pairwise:
        shape = site_names.shape_at(model, name)
        if any(tuple(plain[site].shape[2:]) != shape for site in edited):
            return False
    with warnings.catch_warnings():
        # TransformerLens warns of an edit that it drops; that is what is looked for here.
        warnings.simplefilter("ignore")
        changed = _run(model, after, dict.fromkeys(edited, torch.zeros_like))
    return all(_left(trial, changed[s]) <= _EDIT_TOLERANCE * _left(trial, plain[s]) for s in after)


def _left(trial: EditTrial, value: Tensor) -> float:
    """How much there is of the activation that must vanish with the site."""
    value = value.float()
    return float((value - value[:, :1] if trial.alike else value).norm())


def _run(model: Model, looked: list[Site], changes: Mapping[Site, Hook]) -> dict[Site, Tensor]:
    """Activations of a short prompt under these changes, and no others."""
    kept: dict[Site, Tensor] = {}

    def hook(site: Site) -> Hook:
        def change_and_keep(value: Tensor) -> Tensor | None:
            changed = changes[site](value) if site in changes else None
            kept[site] = (value if changed is None else changed).clone()
            return changed

        return change_and_keep

    points = site_names.hook_points(model, [*changes, *looked])
    hooks = [(point, hook(site)) for site, point in points.items()]
    ids = torch.arange(min(8, model.d_vocab, model.n_ctx), device=model.device)[None]
    with model.lock, unhooked(model.bridge.hook_dict.values()), hooked(hooks), torch.no_grad():
        model.bridge(ids, use_cache=False)
    check_seen(model, looked, kept)
    return kept
