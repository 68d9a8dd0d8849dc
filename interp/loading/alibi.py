"""Falcons whose position biases transformers adds twice."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from interp.errors import ModelError
from interp.model.model import Model

__all__ = ["check_alibi"]


def check_alibi(model: Model) -> None:
    """Refuse a Falcon whose attention adds its position biases twice.

    transformers 5 hands each block a mask that holds the biases (ALiBi, Press et al. 2022) already.
    Eager attention, the only one in which hooks see patterns, adds them again, as TransformerLens
    does; with "sdpa" they are added once, as in the model that was trained.

    Raises:
        ModelError: it does.
    """
    config = model.bridge.original_model.config
    if config.model_type != "falcon" or not getattr(config, "alibi", False):
        return
    given: dict[str, Any] = {}

    def look(_module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.update(kwargs)

    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    with model.lock, torch.no_grad(), contextlib.ExitStack() as stack:
        hook = model.bridge.blocks[0].register_forward_pre_hook(look, with_kwargs=True)
        stack.callback(hook.remove)
        model.bridge(ids, use_cache=False, return_type="logits")
    mask = given.get("attention_mask")  # of 0 and a number next to −∞, or of truths
    if (
        given.get("alibi") is None
        or not isinstance(mask, torch.Tensor)
        or not mask.is_floating_point()
    ):
        return
    if bool(((mask != 0) & (mask > torch.finfo(mask.dtype).min / 2)).any()):
        raise ModelError(
            f"{model.name} is a Falcon with ALiBi, whose position biases this version of "
            "transformers adds twice in eager attention, so it is not the model that was trained; "
            "use a version that adds them once, or a Falcon with rotary positions."
        )
