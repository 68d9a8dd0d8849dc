"""The network of every organism: a small Llama with weights drawn from a seed, and its files."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.organisms.training.tokenizer import BOS_ID, PAD_ID

__all__ = ["Sizes", "build_model", "round_weights", "save_model"]

_INIT_STD = 0.02


class Sizes(Protocol):
    """What a network is built from."""

    @property
    def seed(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def d_mlp(self) -> int: ...
    @property
    def n_ctx(self) -> int: ...


def build_model(config: Sizes, vocab_size: int, init_scale: float = 1.0) -> Any:
    """A `LlamaForCausalLM` in float32 with random weights drawn from the config's seed.

    Args:
        init_scale: multiplies the initial weights.

    The global random state is left as it was.
    """
    llama = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        max_position_embeddings=config.n_ctx,
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=None,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(llama).to(torch.float32)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for param in model.parameters():
            if param.ndim > 1:
                param.normal_(0.0, _INIT_STD * init_scale, generator=generator)
    return model


def round_weights(model: Any, stored: str) -> None:
    """Round weights in float32 to what is going to be stored, "float32" or "float16"."""
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(param.to(getattr(torch, stored)))


def save_model(model: Any, folder: Path, stored: str = "float32") -> None:
    """Write config and weights, as `stored`, in the way in which `from_pretrained` reads them.

    The model's own `save_pretrained` would draw a progress bar and write weights that only their
    owner may read.
    """
    from safetensors.torch import save_file

    config = copy.deepcopy(model.config)
    config.dtype = stored
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights = folder / "model.safetensors"
    tensors = {name: value.to(getattr(torch, stored)) for name, value in model.state_dict().items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", weights)
