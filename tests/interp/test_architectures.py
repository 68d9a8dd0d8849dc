"""Other ways to build a block: soft caps, windows, position biases, experts, scales.

Streams are compared with Hugging Face; patches with one whole forward pass of the bridge for each
cell, one unpadded prompt at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from interp import PromptPairs, Site, capture, load_model, sweep
from interp.forward import hooked, readout, record
from interp.model import Model
from interp.sites import hook_point
from tests.interp.tiny import VOCABULARY, build_tokenizer

N_LAYERS = 2
SIZE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Bloom": {"n_layer": N_LAYERS, "n_head": 4},  # position biases by example and head
    "Cohere": {"num_key_value_heads": 2, "logit_scale": 0.3},
    "GPTJ": {"rotary_dim": 4, "n_inner": 48},
    "Gemma2": {  # norms after attention and MLP, a window in every second layer, soft caps
        **GROUPED,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 8,
        "sliding_window": 3,
    },
    "Granite": {
        "num_key_value_heads": 2,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "logits_scaling": 3.0,
    },
    "Mistral": {**GROUPED, "sliding_window": 3},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 3},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},  # positions count from two
    "Qwen3": GROUPED,  # norms of queries and keys
}
CLEAN = ["we saw Ann near Rome and then so", "so Fay is the friend"]
CORRUPT = ["we saw Bo near Oslo and then so", "so Gus is the friend"]
TOLERANCE = {"rtol": 0, "atol": 5e-5}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest) -> tuple[Any, Model]:
    """The Hugging Face model, and the same weights through `load_model`."""
    config = getattr(transformers, f"{request.param}Config")
    cls = getattr(transformers, f"{request.param}ForCausalLM")
    settings = {**SIZE, **ARCHITECTURES[request.param]}

    def build() -> Any:
        torch.manual_seed(0)
        hf = cls(config(**settings)).eval()
        with torch.no_grad():
            for parameter in hf.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return hf

    return build(), load_model(build(), tokenizer=build_tokenizer())


def test_streams_are_hugging_faces_and_sum_up(built: tuple[Any, Model]) -> None:
    hf, model = built
    found = capture(model, CLEAN, ["resid_pre", "resid_post", "attn_out", "mlp_out"])
    for example, text in enumerate(CLEAN):
        ids = model.token_ids(text)
        with torch.no_grad():
            states = hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer in range(N_LAYERS):
            alone = found[f"resid_pre.{layer}"][example, : len(ids)]
            np.testing.assert_allclose(alone, states[layer][0], rtol=0, atol=1e-4)
    for layer in range(N_LAYERS):
        parts = (found[f"{name}.{layer}"] for name in ("resid_pre", "attn_out", "mlp_out"))
        np.testing.assert_allclose(sum(parts), found[f"resid_post.{layer}"], rtol=0, atol=1e-4)


def test_readout_is_hugging_faces_logits(built: tuple[Any, Model]) -> None:
    hf, model = built
    ids = torch.tensor([model.token_ids(CLEAN[0])])
    last = Site("resid_post", N_LAYERS - 1)
    capture(model, CLEAN, "resid_pre.0")  # by now the model was checked, and stops early
    found = readout(model, record(model, ids, [last])[last])
    with torch.no_grad():
        expected = hf(ids).logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def whole_passes(model: Model, pairs: PromptPairs, site: str) -> np.ndarray[Any, Any]:
    """[example, layer, position] by one forward pass of the bridge for each cell."""
    out = np.full((len(pairs), N_LAYERS, len(pairs.alignment)), np.nan)
    for example in range(len(pairs)):
        clean, corrupt = (
            torch.tensor([pairs.prompts(run).row(example)]) for run in ("clean", "corrupt")
        )
        answer, foil = (int(pairs.first_tokens(which)[example]) for which in ("answer", "foil"))
        for layer in range(N_LAYERS):
            point = hook_point(model, Site(site, layer))
            kept: list[torch.Tensor] = []
            run(model, clean, point, lambda value, to=kept: to.append(value.clone()))
            for position in range(clean.shape[1]):

                def put(value: torch.Tensor, position: int = position, of: Any = kept) -> Any:
                    new = value if site == "resid_mid" else value.clone()
                    new[:, position] = of[0][:, position]
                    return None if site == "resid_mid" else new

                logits = run(model, corrupt, point, put)[0, -1]
                out[example, layer, position] = float(logits[answer] - logits[foil])
    return out


def run(model: Model, ids: torch.Tensor, point: Any, hook: Callable[..., Any]) -> torch.Tensor:
    with torch.no_grad(), hooked([(point, hook)]):
        logits: torch.Tensor = model.bridge(ids, use_cache=False)
    return logits


@pytest.mark.parametrize("site", ["resid_mid", "resid_post", "attn_out", "mlp_out", "k", "z"])
def test_each_cell_is_a_whole_forward_pass(built: tuple[Any, Model], site: str) -> None:
    _, model = built
    if site == "resid_mid" and model.parallel_blocks:
        pytest.skip("parallel blocks have no such stream")
    pairs = PromptPairs(model, CLEAN, CORRUPT, [" Gus", " Jo"], [" Ida", " Cy"])
    found = sweep(model, pairs, site, by="position")
    np.testing.assert_allclose(found["patched"], whole_passes(model, pairs, site), **TOLERANCE)
    assert float(np.abs(found["patched"] - found["corrupt"]).max()) > 0.02
