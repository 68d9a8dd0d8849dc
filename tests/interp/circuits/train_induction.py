"""Train a small Llama to continue repetitions: `python -m tests.interp.circuits.train_induction`.

Two layers of four heads learn, from random sequences in which pairs of tokens come again, to tell
the second of a pair from the first. Pairs come again in any order, so that the position cannot help
and induction heads must form (Olsson et al. 2022). A group lasso on heads and MLPs keeps those that
are needed and lets the others die, so that it can be told from attention alone which do the work.

The weights that are stored beside this file took half a minute on one core. Any of the seeds 0 to 3
gives one previous-token head and two or three induction heads, and edges that are found as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.interp.tiny import BOS, N_SPECIAL, VOCABULARY

WEIGHTS = Path(__file__).with_name("induction.safetensors")
SEED, STEPS, BATCH, RATE, LASSO = 1, 1500, 64, 0.004, 0.005
N_LAYERS, N_HEADS, D_MODEL, D_MLP = 2, 4, 64, 16
N_DISTINCT, N_PAIRS = 11, 7


def blank() -> Any:
    """The model with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=D_MODEL,
            intermediate_size=D_MLP,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            num_key_value_heads=N_HEADS,
            max_position_embeddings=32,
            rope_theta=100.0,
            initializer_range=0.1,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=0,
            attn_implementation="eager",
        )
    )


def load() -> Any:
    """The model with the stored weights."""
    hf = blank().eval()
    hf.load_state_dict(load_file(WEIGHTS))
    return hf


def sequences(n: int, generator: torch.Generator) -> Tensor:
    """Token ids [n, 1 + N_DISTINCT + 2 N_PAIRS]: BOS, distinct tokens, and pairs of neighbours."""
    order = torch.rand(n, len(VOCABULARY) - N_SPECIAL, generator=generator).argsort(1)
    distinct = order[:, :N_DISTINCT] + N_SPECIAL
    first = torch.randint(0, N_DISTINCT - 1, (n, N_PAIRS), generator=generator)
    pairs = distinct.gather(1, torch.stack([first, first + 1], dim=-1).flatten(1))
    bos = torch.full((n, 1), VOCABULARY.index(BOS))
    return torch.cat([bos, distinct, pairs], dim=1)


def loss(hf: Any, ids: Tensor) -> Tensor:
    """Cross-entropy of the second token of each pair that comes again, in nats."""
    logits = hf(ids, use_cache=False).logits
    firsts = slice(1 + N_DISTINCT, None, 2)
    wanted = ids[:, 2 + N_DISTINCT :: 2]
    return torch.nn.functional.cross_entropy(logits[:, firsts].transpose(1, 2), wanted)


def sizes(hf: Any) -> tuple[Tensor, Tensor]:
    """How large the weights are by which each head [layer, head] and MLP [layer] reads and writes.

    Each is a sum of two norms; a part that writes nothing or reads nothing has no effect.
    """
    heads, mlps = [], []
    for block in hf.model.layers:
        out = block.self_attn.o_proj.weight.unflatten(1, (N_HEADS, -1))
        value = block.self_attn.v_proj.weight.unflatten(0, (N_HEADS, -1))
        heads.append(_norm(out, (0, 2)) + _norm(value, (1, 2)))
        mlps.append(_norm(block.mlp.down_proj.weight) + _norm(block.mlp.up_proj.weight))
    return torch.stack(heads), torch.stack(mlps)


def _norm(weight: Tensor, dims: tuple[int, ...] = (0, 1)) -> Tensor:
    return (weight.square().sum(dims) + 1e-8).sqrt()


def train(steps: int = STEPS, seed: int = SEED) -> tuple[Any, list[float]]:
    """The trained model, and the loss of each step. The same on each run of one machine."""
    torch.manual_seed(seed)
    hf = blank()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(hf.parameters(), lr=RATE, weight_decay=0.0, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
    )
    losses = []
    for _ in range(steps):
        value = loss(hf, sequences(BATCH, generator))
        penalty = sum(size.sum() for size in sizes(hf))
        optimizer.zero_grad()
        (value + LASSO * penalty).backward()
        optimizer.step()
        rate.step()
        losses.append(float(value.detach()))
    return hf.eval(), losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    trained, history = train()
    save_file(trained.state_dict(), WEIGHTS, metadata={"seed": str(SEED), "steps": str(STEPS)})
    sys.stdout.write(f"Loss {history[0]:.3f} at first, {history[-1]:.4f} at last.\n")
