"""How attention scores are made of queries and keys, found by trying the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp import sites as site_names
from interp.forward import TOLERANCE, observe
from interp.hooks import Hook, hooked
from interp.model import Model
from interp.sites import Site

# Scores so small that softmax is far from its ends.
_SCORE = 0.5


@dataclass(frozen=True)
class Scores:
    """Attention scores are scale · q · k, plus what depends on positions alone.

    Attributes:
        scale: what products of queries and keys are multiplied with.
        by_distance: whether they are rotated by their positions before, so that this holds only
            for a token that attends to itself.
    """

    scale: float
    by_distance: bool


@torch.no_grad()
def attention_scores(model: Model, layer: int) -> Scores | None:
    """Give two tokens queries and keys of known products, and see how the second attends.

    Row 0 has keys of zero at both tokens, rows 1 and 2 a key and its double at the second token,
    row 3 the key at the first.

    Returns:
        None where the scores do not follow the products.
    """
    ids = torch.arange(2, device=model.device).expand(4, -1) % model.d_vocab
    sites = [Site(name, layer) for name in ("q", "k", "pattern")]
    width = int(model.bridge.cfg.d_head)
    generator = torch.Generator().manual_seed(0)

    def positive(n_heads: int) -> Tensor:
        # So that every dimension tells whether it is rotated.
        drawn: Tensor = torch.rand(n_heads, width, generator=generator) + 0.5
        return drawn.mul((_SCORE / width**0.5) ** 0.5).to(model.device)

    query, key = positive(model.n_heads), positive(model.n_key_value_heads)
    queries = query.expand(4, 2, -1, -1)
    keys = torch.zeros(4, 2, *key.shape, device=model.device)
    keys[1, 1], keys[2, 1], keys[3, 0] = key, 2 * key, key
    hooks = [
        (site_names.hook_point(model, site), _replacement(new))
        for site, new in zip(sites, (queries, keys), strict=False)
    ]
    with model.lock, hooked(hooks):
        seen = observe(model, ids, sites[2:])[sites[2]].float()[:, :, 1]
    log_odds = (seen[..., 1] / seen[..., 0]).log()
    log_odds = log_odds - log_odds[0]
    product = (query * key.repeat_interleave(len(query) // len(key), dim=0)).sum(-1)
    scale = float((log_odds[1] @ product) / (product @ product))
    tolerance = 10 * TOLERANCE[model.dtype] * float((scale * product).norm())

    def follows(found: Tensor, expected: Tensor) -> bool:
        return float((found - expected).norm()) <= tolerance

    if not (follows(log_odds[1], scale * product) and follows(log_odds[2], 2 * scale * product)):
        return None
    return Scores(scale, by_distance=not follows(log_odds[3], -scale * product))


def _replacement(new: Tensor) -> Hook:
    return lambda value: new.to(value.dtype).reshape(value.shape)
