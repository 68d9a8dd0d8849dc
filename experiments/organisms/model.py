"""The organism's network: a small Llama, its initial weights, and the name bottleneck."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.organisms.config import TrainConfig
from experiments.organisms.schedule import Batch
from experiments.organisms.tokenizer import BOS_ID, PAD_ID

_INIT_STD = 0.02


def build_model(config: TrainConfig, vocab_size: int) -> Any:
    """A `LlamaForCausalLM` in float32 with random weights drawn from the config's seed.

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
                param.normal_(0.0, _INIT_STD * config.init_scale, generator=generator)
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
