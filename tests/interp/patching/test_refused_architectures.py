"""What cannot be done exactly on an architecture is refused in one sentence, never approximated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp import PromptPairs, capture, load_model, sweep
from interp.errors import ModelError, SiteError
from interp.model.model import Model
from tests.interp.architectures import BLOOM, N_HEADS, N_LAYERS, Architecture, Layout
from tests.interp.tiny import build_tokenizer

CLEAN, CORRUPT = ["we saw Ann near Rome", "so Fay is"], ["we saw Bo near Oslo", "so Gus is"]
OPT = {"ffn_dim": 48, "do_layer_norm_before": False}


def load(architecture: Architecture) -> Model:
    return load_model(architecture.build(), tokenizer=build_tokenizer())


def pairs(model: Model, n: int = 2) -> PromptPairs:
    return PromptPairs(model, CLEAN[:n], CORRUPT[:n], [" Gus", " Jo"][:n], [" Ida", " Cy"][:n])


def in_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("OPT", {**OPT, "word_embed_proj_dim": 32}),
        Architecture("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ],
    ids=["OPT with norms after", "Falcon with groups"],
)
def test_what_transformer_lens_cannot_wrap(architecture: Architecture) -> None:
    with pytest.raises(ModelError, match="cannot wrap") as caught:
        load(architecture)
    in_one_sentence(caught.value)


@pytest.mark.slow
def test_position_biases_that_are_added_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's eager attention is not its other one, nor the formula of the paper."""
    from transformers.models.falcon import modeling_falcon

    settings = {"new_decoder_architecture": False, "alibi": True, "intermediate_size": None}
    architecture = Architecture("Falcon", {**settings, "multi_query": False})
    hf = architecture.build()
    ids = torch.tensor([[1, 5, 9, 4, 7, 11]])
    with torch.no_grad():
        eager = hf(ids).logits
        hf.config._attn_implementation = "sdpa"  # Falcon has no other way
        other = hf(ids).logits
        hf.config._attn_implementation = "eager"
        biases = modeling_falcon.build_alibi_tensor
        with monkeypatch.context() as patch:
            half = lambda *args, **settings: biases(*args, **settings) / 2  # noqa: E731
            patch.setattr(modeling_falcon, "build_alibi_tensor", half)
            halved = hf(ids).logits
    if torch.allclose(eager, other, atol=1e-4):
        load(architecture)
        return
    torch.testing.assert_close(halved, other, atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="adds twice in eager attention") as caught:
        load(architecture)
    in_one_sentence(caught.value)
    load(Architecture("Falcon", {**settings, "alibi": False}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("OPT", {**OPT, "word_embed_proj_dim": 16}),  # no norm before the unembedding
        Architecture(  # position biases by head that look as if they were by example
            "Mpt", {"d_model": 32, "n_heads": N_HEADS, "n_layers": N_LAYERS, "max_seq_len": 24}
        ),
    ],
    ids=["OPT with projections", "MPT"],
)
@pytest.mark.parametrize("n", [1, 2])
def test_what_cannot_be_resumed(architecture: Architecture, n: int) -> None:
    model = load(architecture)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"cannot be resumed|does not reproduce") as caught:
            sweep(model, pairs(model, n), "resid_pre")
        in_one_sentence(caught.value)


@pytest.mark.slow
def test_a_stream_that_is_normed_before_the_mlp_is_added_to_it() -> None:
    """Such a BLOOM skips from its norms: nothing is ever added to what follows the attention."""
    settings = {"n_layer": N_LAYERS, "n_head": N_HEADS}
    model = load(
        Architecture(
            "Bloom", {**settings, "apply_residual_connection_post_layernorm": True}, Layout(**BLOOM)
        )
    )
    for use in (
        lambda: sweep(model, pairs(model), "resid_mid"),
        lambda: capture(model, CLEAN, "resid_mid.1"),
    ):
        with pytest.raises(SiteError, match="do not add the MLP's output") as caught:
            use()
        in_one_sentence(caught.value)
    found = sweep(model, pairs(model), "resid_post")
    assert float(np.abs(found["patched"] - found["corrupt"]).max()) > 0.02
