"""How attention scores are made of queries and keys, found by trying the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.components.norms import Norm, closed_norm
from interp.forward.access import Change, changing
from interp.forward.packing import find
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
        cap: the soft cap that the scores pass (Gemma 2), if any.
        query_norm, key_norm: RMS norms that queries and keys pass before, of each head or of all
            heads together, if any: the products are then those of queries and keys over their
            sizes.
        width: of a head.
    """

    scale: float
    by_distance: bool
    cap: float | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    width: int = 0

    def gain(self, name: Literal["q", "k"], n_heads: int) -> Float[Tensor, "head d_head"] | None:
        """What a norm of queries or keys multiplies each of their numbers with."""
        norm = self.query_norm if name == "q" else self.key_norm
        if norm is None:
            return None
        rows = norm.gain.reshape(-1, self.width)
        return rows.repeat_interleave(n_heads // len(rows), dim=0)

    def products(
        self,
        query: Float[Tensor, "row head d_head"],
        key: Float[Tensor, "row key_value_head d_head"],
    ) -> Float[Tensor, "row head"]:
        """q · k of what the norms make of them."""
        q, k = _normed(self.query_norm, query), _normed(self.key_norm, key)
        return (q * k.repeat_interleave(q.shape[-2] // k.shape[-2], dim=-2)).sum(-1)


def attention_scores(model: Model, layer: int) -> Scores | None:
    """Give a layer queries and keys of known products, and see how it attends.

    Returns:
        None where the scores do not follow the products.
    """
    n_keys, width = model.n_key_value_heads, int(model.bridge.cfg.d_head)
    settings = model.bridge.original_model.config.get_text_config()
    cap = getattr(settings, "attn_logit_softcapping", None)
    norms = _head_norms(model, layer)
    if norms is None:
        return None
    found = Scores(1.0, False, cap, norms["q_norm"], norms["k_norm"], width)
    generator = torch.Generator().manual_seed(0)

    def drawn(n_heads: int) -> Tensor:
        some: Tensor = torch.rand(n_heads, width, generator=generator).add(0.5)
        return some.mul((_SCORE / width**0.5) ** 0.5)

    query, key = drawn(model.n_heads), drawn(n_keys)
    queries, keys = query.expand(2, -1, -1), torch.stack([key, 2 * key])
    products = found.products(queries, keys)
    odds = _log_odds(model, layer, queries, keys, 0, cap)
    scale = float((odds[0] @ products[0]) / (products[0] @ products[0]))
    if not scale > 0:
        return None
    for row, expected in zip(odds, scale * products, strict=True):
        if not float((row - expected).norm()) <= _LINEAR * float(expected.norm()):
            return None
    # One dimension after the other: in all together, a few that rotate could go unnoticed.
    single = torch.eye(width)[:, None] * (_SCORE / scale) ** 0.5
    queries, keys = single.expand(-1, model.n_heads, -1), single.expand(-1, n_keys, -1)
    expected = scale * found.products(queries, keys)
    turned = [
        # Where a window hides the key, nothing is known.
        (_log_odds(model, layer, queries, keys, distance, cap) + expected).nan_to_num(0.0, 0.0)
        for distance in _DISTANCES
        if distance < model.n_ctx
    ]
    off = torch.stack([row.abs().amax() for row in turned]).amax()
    return replace(found, scale=scale, by_distance=bool(off > _ROTATED * expected.abs().amax()))


def _head_norms(model: Model, layer: int) -> dict[str, Norm | None] | None:
    """The norms that queries and keys pass, None for none; None where one is no RMS norm."""
    found: dict[str, Norm | None] = {"q_norm": None, "k_norm": None}
    for name in found:
        module = find(model.bridge.blocks[layer], f"attn.{name}.original_component")
        if module is None:
            continue
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 1:
            return None
        probe = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(1))
        norm = closed_norm(model, module, probe.to(weight))
        # With a shift, scores would be no products; none is found exactly in half precision.
        if norm is None or norm.centred or bool(norm.shift.abs().max() > 0.02):
            return None
        found[name] = norm
    return found


def _normed(norm: Norm | None, values: Float[Tensor, "row head d_head"]) -> Tensor:
    if norm is None:
        return values
    moved = values.to(norm.gain.device)
    whole = moved.flatten(-2) if len(norm.gain) != values.shape[-1] else moved
    return norm(whole).reshape(values.shape).cpu()


@torch.no_grad()
def _log_odds(
    model: Model,
    layer: int,
    queries: Float[Tensor, "row head d_head"],
    keys: Float[Tensor, "row key_value_head d_head"],
    distance: int,
    cap: float | None,
) -> Float[Tensor, "row head"]:
    """Log odds that a token attends to itself and not to the first, beyond those without keys.

    As they would be without a soft cap.

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
    beyond = odds[:n] - odds[n]
    return beyond if cap is None else cap * (beyond / cap).atanh()


def _replacement(new: Tensor) -> Change:
    return lambda value: new.to(value).reshape(value.shape)
