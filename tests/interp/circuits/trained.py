"""What the trained induction model's circuit is, told by where its heads attend.

Edges play no part in it. A previous-token head attends to the token before, an induction head to
the token after an earlier occurrence of the present one; Elhage et al. 2021 show how the two work
together, and this gives the true edges: the previous-token head reads tokens as its values, and is
read by the keys of induction heads; these read tokens as queries and values, and write the answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.interp.circuits import train_induction
from tests.interp.circuits.planted import Planted, draw_repetition
from tests.interp.circuits.train_induction import N_DISTINCT, N_LAYERS
from tests.interp.tiny import BOS, N_SPECIAL, VOCABULARY

ATTENDS = 0.5
"""Share of the attention by which a head is known."""
ALIVE = 0.25
"""A head counts if what it reads and writes is this large, relative to its layer's largest: the
lasso leaves the others a pattern, but nothing to say."""


def attention_shares(hf: object) -> tuple[Tensor, Tensor]:
    """On random sequences that come twice: attention to the token before, and induction's.

    Returns:
        Two shares [layer, head], means over sequences and positions.
    """
    generator = torch.Generator().manual_seed(99)
    order = torch.rand(64, len(VOCABULARY) - N_SPECIAL, generator=generator).argsort(1)
    once = order[:, :N_DISTINCT] + N_SPECIAL
    ids = torch.cat([torch.full((64, 1), VOCABULARY.index(BOS)), once, once], dim=1)
    with torch.no_grad():
        attentions = hf(ids, use_cache=False, output_attentions=True).attentions  # type: ignore[operator]
    pattern = torch.stack(attentions).mean(1)  # [layer, head, destination, source]
    before = [pattern[..., i, i - 1] for i in range(2, N_DISTINCT + 1)]
    # The token at 1 + N + i stood at 1 + i before; after it came the one at 2 + i.
    after = [pattern[..., 1 + N_DISTINCT + i, 2 + i] for i in range(N_DISTINCT - 1)]
    return torch.stack(before).mean(0), torch.stack(after).mean(0)


def known_heads(hf: object) -> tuple[list[str], list[str]]:
    """The names of the previous-token heads of the first layer, and induction heads of the last."""
    size, _ = train_induction.sizes(hf)
    alive = size > ALIVE * size.max(1, keepdim=True).values
    before, after = attention_shares(hf)

    def names(layer: int, share: Tensor) -> list[str]:
        found = torch.nonzero(alive[layer] & (share[layer] > ATTENDS)).flatten()
        return [f"a{layer}.h{head}" for head in found.tolist()]

    return names(0, before), names(N_LAYERS - 1, after)


def trained_induction() -> Planted:
    """The trained model, with the circuit that its attention tells."""
    hf = train_induction.load()
    previous, inducing = known_heads(hf)
    edges = {("input", f"{head}.v") for head in previous}
    for head in inducing:
        edges |= {("input", f"{head}.q"), ("input", f"{head}.v"), (head, "logits")}
        edges |= {(other, f"{head}.k") for other in previous}
    return Planted("trained induction", hf, frozenset(edges), draw_repetition)
