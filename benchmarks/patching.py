"""Activation patching: Obverse against TransformerLens' own, in one process, equal answers checked.

GPT-2-small shape, random weights, one pair of prompts, float32. Also the arithmetic floor: the
floating-point operations of the suffixes, at the rate that matrix products reach in this run.

    python -m benchmarks.patching [--length 15] [--layers 12] [--device cpu] [--dtype float32]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks._common import describe_machine, matrix_rate, word_tokenizer
from interp import PromptPairs, load_model, sweep
from interp.model import Model


def build(layers: int, device: str, dtype: torch.dtype) -> Model:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, initializer_range=0.1)
    hf_model = GPT2LMHeadModel(config).to(device=device, dtype=dtype).eval()
    return load_model(hf_model, tokenizer=word_tokenizer(config.vocab_size), device=device)


def timed(work: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """Best of `repeats` times, in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best, result


def theirs(model: Model, pairs: PromptPairs, site: str) -> np.ndarray:
    """TransformerLens' own patching of the same pair: [layer, position] or [layer, head]."""
    from transformer_lens import patching

    bridge = model.bridge
    clean, corrupt = (tokens.ids.to(model.device) for tokens in (pairs.clean, pairs.corrupt))
    answer, foil = pairs.first_tokens("answer"), pairs.first_tokens("foil")

    def metric(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1].float()
        return (last[:, answer[0]] - last[:, foil[0]]).mean()

    # Its progress bar cannot be turned off.
    quiet = contextlib.redirect_stderr(io.StringIO())
    with torch.no_grad(), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        _, cache = bridge.run_with_cache(clean)
        patch = {
            "resid_pre": patching.get_act_patch_resid_pre,
            "z": patching.get_act_patch_attn_head_out_all_pos,
        }[site]
        return np.asarray(patch(bridge, corrupt, cache, metric).float().cpu())


def floor_flops(model: Model, length: int, site: str) -> float:
    """Floating-point operations that no exact sweep can avoid: each cell's suffix, once."""
    d = model.d_model
    per_token = 2 * 12 * d * d  # queries, keys, values, output and MLP of one block
    blocks_above = sum(model.n_layers - layer for layer in range(model.n_layers))
    if site == "resid_pre":
        return per_token * blocks_above * sum(length - p for p in range(length))
    # Heads of all positions: the MLP of their own block, and all blocks above.
    own = 2 * 8 * d * d * model.n_layers
    return model.n_heads * length * (per_token * (blocks_above - model.n_layers) + own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=15)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-ours", action="store_true")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    print(describe_machine(arguments.device))
    model = build(arguments.layers, arguments.device, dtype)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(10, 50_000, (1, arguments.length), generator=generator)
    corrupt = torch.randint(10, 50_000, (1, arguments.length), generator=generator)
    corrupt[:, 0] = clean[:, 0]
    pairs = PromptPairs(model, clean, corrupt, torch.tensor([5]), torch.tensor([6]))
    rate = matrix_rate(arguments.device, dtype, model.d_model)
    print(f"matrix rate {rate / 1e9:.0f} GFLOP/s\n")
    print("| sweep | TransformerLens | Obverse | ratio | arithmetic floor | over the floor |")
    print("|---|---|---|---|---|---|")
    for site, name in (("resid_pre", "residual"), ("z", "heads")):
        sweep(model, pairs, site, layers=[model.n_layers - 1])  # warm up
        ours, result = timed(
            lambda site=site: sweep(model, pairs, site), arguments.repeats, arguments.device
        )
        floor = floor_flops(model, arguments.length, site) / rate
        shape = "×".join(str(n) for n in result["patched"].shape[1:])
        if arguments.only_ours:
            print(f"| {name} {shape} | | {ours:.2f} s | | {floor:.2f} s | {ours / floor:.2f}× |")
            continue
        other, expected = timed(lambda site=site: theirs(model, pairs, site), 1, arguments.device)
        error = float(np.abs(result["patched"].values[0] - expected).max())
        scale = float(np.abs(expected).max())
        assert error <= (1e-4 if dtype == torch.float32 else 0.1) * scale, (error, scale)
        print(
            f"| {name} {shape} | {other:.2f} s | {ours:.2f} s | **{other / ours:.1f}×** "
            f"| {floor:.2f} s | {ours / floor:.2f}× |"
        )


if __name__ == "__main__":
    main()
