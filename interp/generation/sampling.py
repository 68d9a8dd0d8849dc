"""How the next token is drawn from the logits: reproducibly, whatever else is in the batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.arguments import Seed, typed
from interp.errors import PromptError


@typed
@dataclass(frozen=True)
class Sampling:
    """Settings of random generation; greedy generation has none.

    Attributes:
        temperature: what logits are divided by.
        top_k: draw from this many likeliest tokens only.
        top_p: draw from the fewest likeliest tokens whose probabilities sum to this (nucleus
            sampling, Holtzman et al. 2020), after `top_k` and the temperature.
        seed: the same seed gives the same text.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise PromptError(
                f"A temperature of {self.temperature} is not above 0; for the likeliest token "
                "leave sampling out."
            )
        if self.top_k is not None and self.top_k < 1:
            raise PromptError(f"top_k must be at least 1, not {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise PromptError(f"top_p must lie above 0 and not above 1, not at {self.top_p}.")

    def allowed(self, logits: Float[Tensor, "row vocabulary"]) -> Bool[Tensor, "row vocabulary"]:
        """Which tokens can be drawn; equally likely ones at the border all can."""
        scaled = logits / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = scaled.topk(self.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered = scaled.sort(dim=-1, descending=True).values
            probability = ordered.softmax(-1)
            before = probability.cumsum(-1) - probability
            n = (before < self.top_p).sum(-1, keepdim=True)
            least = ordered.gather(1, n - 1)
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        return torch.isfinite(scaled)


class Dice:
    """Randomness of one prompt each, which depends on nothing but the seed and the prompt.

    A prompt that stands several times in a batch gets other numbers each time.
    """

    def __init__(self, sampling: Sampling, prompts: Sequence[Sequence[int]]) -> None:
        self._sampling = sampling
        self._generators = []
        seen: Counter[tuple[int, ...]] = Counter()
        for ids in prompts:
            key = tuple(ids)
            text = f"{sampling.seed}:{seen[key]}:{','.join(map(str, key))}"
            seen[key] += 1
            digest = hashlib.blake2b(text.encode(), digest_size=7).digest()
            self._generators.append(torch.Generator().manual_seed(int.from_bytes(digest, "big")))

    def draw(
        self, logits: Float[Tensor, "row vocabulary"], examples: Sequence[int]
    ) -> Int[Tensor, " row"]:
        """A token for each of these prompts (Gumbel's trick: Maddison et al. 2014)."""
        allowed = self._sampling.allowed(logits)
        # By the cumulative distribution, two tokens of almost the same probability could trade
        # places between batches of other shapes; the largest sum does not mind the order.
        noise = torch.stack([self._gumbel(i, logits.shape[-1]) for i in examples])
        scores = logits.double().cpu() / self._sampling.temperature + noise
        return scores.masked_fill(~allowed.cpu(), -torch.inf).argmax(-1)

    def _gumbel(self, example: int, n: int) -> Tensor:
        uniform = torch.rand(n, generator=self._generators[example], dtype=torch.float64)
        return -(-uniform.clamp(min=1e-300).log()).log()
