"""How attention scores are made of queries and keys, found by trying the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward.access import Change, changing
from interp.forward.passes import observe
from interp.model.model import Model
from interp.sites import Site

# Scores so small that softmax is far from its ends.
_SCORE = 0.5
# Relative; a norm of keys halves what is doubled, and in bfloat16 scores are off by 0.01 to 0.02.
_LINEAR = 0.08
# Of the score of a single dimension. At one of these distances, rotations as slow as those of a
# context stretched eightfold turn by more.
_ROTATED = 0.1
_DISTANCES = (1, 3, 7)


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


def attention_scores(model: Model, layer: int) -> Scores | None:
    """Give a layer queries and keys of known products, and see how it attends.

    Returns:
        None where the scores do not follow the products.
    """
    n_keys, width = model.n_key_value_heads, int(model.bridge.cfg.d_head)
    generator = torch.Generator().manual_seed(0)

    def drawn(n_heads: int) -> Tensor:
        some: Tensor = torch.rand(n_heads, width, generator=generator).add(0.5)
        return some.mul((_SCORE / width**0.5) ** 0.5)

    query, key = drawn(model.n_heads), drawn(n_keys)
    product = (query * key.repeat_interleave(model.n_heads // n_keys, dim=0)).sum(-1)
    found = _log_odds(model, layer, query.expand(2, -1, -1), torch.stack([key, 2 * key]), 0)
    scale = float((found[0] @ product) / (product @ product))
    if not scale > 0:
        return None
    for times, row in enumerate(found, start=1):
        expected = times * scale * product
        if not float((row - expected).norm()) <= _LINEAR * float(expected.norm()):
            return None
    # One dimension after the other: in all together, a few that rotate could go unnoticed.
    single = torch.eye(width)[:, None] * (_SCORE / scale) ** 0.5
    queries, keys = single.expand(-1, model.n_heads, -1), single.expand(-1, n_keys, -1)
    turned = [
        _log_odds(model, layer, queries, keys, distance)
        for distance in _DISTANCES
        if distance < model.n_ctx
    ]
    # Where a window hides the key, nothing is known.
    off = torch.stack([(row + _SCORE).nan_to_num(0.0, 0.0, 0.0).abs().amax() for row in turned])
    return Scores(scale, by_distance=bool(off.max() > _ROTATED * _SCORE))


@torch.no_grad()
def _log_odds(
    model: Model,
    layer: int,
    queries: Float[Tensor, "row head d_head"],
    keys: Float[Tensor, "row key_value_head d_head"],
    distance: int,
) -> Float[Tensor, "row head"]:
    """Log odds that a token attends to itself and not to the first, beyond those without keys.

    All keys are zero but one: the token's own at distance 0, the first token's otherwise.
    """
    last = max(1, distance)
    n = len(queries)
    ids = torch.arange(last + 1).expand(n + 1, -1) % model.d_vocab
    q_site, k_site, pattern = (Site(name, layer) for name in ("q", "k", "pattern"))
    given = torch.cat([queries, queries[:1]])[:, None].expand(-1, last + 1, -1, -1)
    held = torch.zeros(n + 1, last + 1, *keys.shape[1:])
    held[:n, last if distance == 0 else 0] = keys
    with changing(model, [(q_site, _replacement(given)), (k_site, _replacement(held))]):
        seen = observe(model, ids, [pattern])[pattern].float()[:, :, last].cpu()
    odds = (seen[..., last] / seen[..., 0]).log()
    return odds[:n] - odds[n]


def _replacement(new: Tensor) -> Change:
    return lambda value: new.to(value).reshape(value.shape)
