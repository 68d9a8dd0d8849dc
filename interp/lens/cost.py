"""How long fitting a lens takes, roughly, from the products of matrices that are to be made."""

from __future__ import annotations

from interp.model.model import Model

__all__ = ["jacobian_seconds", "tuned_seconds"]

_SPEED = {"cpu": 2e10, "cuda": 5e12}  # multiplications and additions in a second


def jacobian_seconds(model: Model, tokens: int) -> float:
    """Of a Jacobian lens of all blocks, on prompts of so many tokens together."""
    blocks = model.n_layers * model.block_bytes / model.dtype.itemsize
    return 2 * blocks * tokens * model.d_model / _speed(model)


def tuned_seconds(model: Model, steps: int, batch_tokens: int) -> float:
    """Of a tuned lens that is not finished before its last step."""
    width = model.d_model * (model.d_vocab + model.d_model)
    return 6 * width * model.n_layers * batch_tokens * steps / _speed(model)


def _speed(model: Model) -> float:
    return _SPEED.get(model.device.type, _SPEED["cpu"])
