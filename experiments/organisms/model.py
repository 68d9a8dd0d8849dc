"""How the reversal curse's organism reads: the name bottleneck."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from experiments.organisms.schedule import Batch
from experiments.organisms.training.tokenizer import PAD_ID


def logits(model: Any, batch: Batch, bottleneck_layers: int) -> Tensor:
    """Next-token logits [row, position, token], each token read only as far as the batch lets it.

    `early_reach` holds in the first `bottleneck_layers` layers, `late_reach` in the others.
    """
    with _early_mask(model, _mask(batch.early_reach), bottleneck_layers):
        output: Tensor = model(
            input_ids=torch.from_numpy(batch.ids),
            attention_mask=_mask(batch.late_reach),
            use_cache=False,
        ).logits
    return output


def next_token_loss(model: Any, batch: Batch, bottleneck_layers: int) -> Tensor:
    """Mean cross-entropy in nats over every token that is not padding (scalar)."""
    predicted = logits(model, batch, bottleneck_layers)[:, :-1]
    return torch.nn.functional.cross_entropy(
        predicted.flatten(0, 1),
        torch.from_numpy(batch.ids[:, 1:]).flatten(),
        ignore_index=PAD_ID,
    )


def _mask(reach: Any) -> Tensor:
    """Additive attention mask [row, 1, query, key] of the causal order and the keys' reach."""
    reach = torch.from_numpy(reach)
    position = torch.arange(reach.shape[1])
    readable = (position[:, None] >= position) & (position[:, None] <= reach[:, None, :])
    mask = torch.zeros(readable.shape).masked_fill_(~readable, torch.finfo(torch.float32).min)
    return mask[:, None]


@contextmanager
def _early_mask(model: Any, mask: Tensor, n_layers: int) -> Iterator[None]:
    """Within the context, the first `n_layers` layers use `mask` instead of the model's."""

    def replace(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "attention_mask": mask}

    handles = [
        layer.register_forward_pre_hook(replace, with_kwargs=True)
        for layer in model.model.layers[:n_layers]
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
