"""How `gemma2_edges.npz` was made: edges of a small Gemma 2 by TransformerLens 2.18.

    pip install --no-deps --target OLD transformer-lens==2.18.0 better-abc
    PYTHONPATH=OLD:. python tests/interp/circuits/make_gemma2_edges.py

A head's share is its `hook_result` times the weights of `ln1_post` over the `hook_scale` of its own
run. An edge is patched where `HookedTransformer` lets one reader alone read something else; an
estimate is the gradient there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gemma_weights

from tests.interp.architectures import ARCHITECTURES, D_HEAD, D_MODEL, N_HEADS

CLEAN = torch.tensor([[1, 4, 9, 15, 22, 7], [1, 10, 14, 3, 30, 21]])
CORRUPT = torch.tensor([[1, 5, 9, 18, 22, 12], [1, 10, 6, 3, 24, 21]])
ANSWER, FOIL = torch.tensor([8, 11]), torch.tensor([19, 5])


def build() -> Any:
    architecture = ARCHITECTURES["Gemma 2"]
    hf = architecture.build()
    given = hf.config
    kinds = {"sliding_attention": "local", "full_attention": "global"}
    config = HookedTransformerConfig(
        n_layers=given.num_hidden_layers,
        d_model=D_MODEL,
        n_ctx=given.max_position_embeddings,
        d_head=D_HEAD,
        n_heads=N_HEADS,
        n_key_value_heads=given.num_key_value_heads,
        d_mlp=given.intermediate_size,
        d_vocab=given.vocab_size,
        act_fn="gelu_pytorch_tanh",
        eps=given.rms_norm_eps,
        normalization_type="RMS",
        final_rms=True,
        use_normalization_before_and_after=True,
        positional_embedding_type="rotary",
        rotary_dim=D_HEAD,
        rotary_base=10000,
        use_attn_scale=True,
        attn_scale=math.sqrt(given.query_pre_attn_scalar),
        attn_scores_soft_cap=given.attn_logit_softcapping,
        output_logits_soft_cap=given.final_logit_softcapping,
        use_local_attn=True,
        window_size=given.sliding_window,
        attn_types=[kinds[kind] for kind in given.layer_types],
        gated_mlp=True,
        original_architecture="Gemma2ForCausalLM",
        device="cpu",
    )
    old = HookedTransformer(config)
    old.load_state_dict(convert_gemma_weights(hf, config), strict=False)
    old.cfg.use_attn_result = old.cfg.use_split_qkv_input = old.cfg.use_hook_mlp_in = True
    with torch.no_grad():
        torch.testing.assert_close(old(CLEAN), hf(CLEAN).logits, rtol=0, atol=1e-5)
    return old


def metric(logits: Tensor) -> Tensor:
    row = torch.arange(len(logits))
    return logits[row, -1, ANSWER] - logits[row, -1, FOIL]


def written(old: Any, ids: Tensor) -> dict[str, Tensor]:
    """What each writer adds [example, position, d_model]."""
    _, cache = old.run_with_cache(ids)
    out = {"input": cache["blocks.0.hook_resid_pre"]}
    for i in range(old.cfg.n_layers):
        norm = old.blocks[i].ln1_post.w / cache[f"blocks.{i}.ln1_post.hook_scale"]
        result = cache[f"blocks.{i}.attn.hook_result"]
        out.update({f"a{i}.h{h}": result[:, :, h] * norm for h in range(N_HEADS)})
        out[f"m{i}"] = cache[f"blocks.{i}.hook_mlp_out"]
    return out


def main() -> None:
    old = build()
    layers, keys = range(old.cfg.n_layers), old.cfg.n_key_value_heads
    clean, corrupt = written(old, CLEAN), written(old, CORRUPT)
    sources = list(clean)
    counts = {"q": N_HEADS, "k": keys, "v": keys}
    points: dict[str, tuple[str, int | None, int]] = {}  # hook, head, number of writers before
    for i in layers:
        before = sources.index(f"a{i}.h0")
        for kind, count in counts.items():
            for head in range(count):
                points[f"a{i}.h{head}.{kind}"] = f"blocks.{i}.hook_{kind}_input", head, before
        points[f"m{i}"] = f"blocks.{i}.hook_mlp_in", None, sources.index(f"m{i}")
    points["logits"] = f"blocks.{layers[-1]}.hook_resid_post", None, len(sources)
    exact = np.full((len(CLEAN), len(sources), len(points)), np.nan, dtype=np.float32)
    estimate = exact.copy()
    with torch.no_grad():
        value = metric(old(CLEAN))

    def run(hook: str, head: int | None, added: Tensor) -> Tensor:
        def add(read: Tensor, hook: object) -> Tensor:
            if head is None:
                return read + added
            read = read.clone()
            read[:, :, head] = read[:, :, head] + added
            return read

        return metric(old.run_with_hooks(CLEAN, fwd_hooks=[(hook, add)]))

    for column, (hook, head, before) in enumerate(points.values()):
        nothing = torch.zeros_like(clean["input"]).requires_grad_()
        (gradient,) = torch.autograd.grad(-run(hook, head, nothing).sum(), nothing)
        for row, name in enumerate(sources[:before]):
            change = corrupt[name] - clean[name]
            with torch.no_grad():
                exact[:, row, column] = value - run(hook, head, change)
                estimate[:, row, column] = (change * gradient).sum((1, 2))
    np.savez_compressed(
        Path(__file__).with_name("gemma2_edges.npz"),
        clean=CLEAN,
        corrupt=CORRUPT,
        answer=ANSWER,
        foil=FOIL,
        sources=np.array(sources),
        destinations=np.array(list(points)),
        exact=exact,
        eap=estimate,
    )


if __name__ == "__main__":
    main()
