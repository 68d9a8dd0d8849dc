"""A single patch must agree with the sweep, with TransformerLens' hooks, and with doing nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.organisms.training.tokenizer import build_tokenizer
from interp import Model, PromptPairs, load_model, sweep
from interp.errors import SiteError
from interp.patching.single import patch_once

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(["Ann Bo Cy Dee Eve of 's friend is"], n_ctx=32)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def pairs(model: Model) -> PromptPairs:
    """The second pair is longer than the first, and its two prompts differ in length."""
    return PromptPairs(
        model,
        clean=["Ann's friend is", "Ann Bo Cy's friend is"],
        corrupt=["Dee's friend is", "Dee Eve's friend is"],
        answers=[" Bo", " Dee"],
        foils=[" Cy", " Ann"],
        spans={"name": [("Ann", "Dee"), ("Ann Bo Cy", "Dee Eve")]},
    )


# Which run is changed is decided before anybody looks at the site.
@pytest.mark.parametrize(
    ("site", "direction"),
    [
        *[(site, "denoising") for site in ("resid_pre", "resid_post", "attn_out", "mlp_out")],
        ("attn_out", "noising"),
    ],
)
def test_each_cell_of_a_sweep_is_a_single_patch(
    model: Model, pairs: PromptPairs, site: str, direction: str
) -> None:
    swept = sweep(model, pairs, site, direction=direction)  # type: ignore[arg-type]
    for example in range(2):
        for layer in range(3):
            for position in np.nonzero(np.isfinite(swept["patched"][example, layer].values))[0]:
                one = patch_once(
                    model,
                    pairs,
                    site,
                    layer,
                    example=example,
                    position=int(position),
                    direction=direction,
                )
                difference = one["answer_logit"] - one["foil_logit"]
                expected = swept["patched"].values[example, layer, position]
                assert float(difference.sel(run="patched")) == pytest.approx(expected, abs=1e-4)
                assert float(difference.sel(run="clean")) == pytest.approx(
                    float(swept["clean"][example]), abs=1e-4
                )


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_each_head_of_a_sweep_is_a_single_patch(
    model: Model, pairs: PromptPairs, site: str
) -> None:
    swept = sweep(model, pairs, site, by="head")
    for layer in range(3):
        for head in swept["head"].values:
            one = patch_once(model, pairs, site, layer, example=1, head=int(head))
            difference = float((one["answer_logit"] - one["foil_logit"]).sel(run="patched"))
            expected = float(swept["patched"].sel(example=1, layer=layer, head=head))
            assert difference == pytest.approx(expected, abs=1e-4)


def test_the_distribution_is_that_of_a_run_with_a_hook(model: Model, pairs: PromptPairs) -> None:
    """Against TransformerLens' own hooks on a whole forward pass."""
    clean, corrupt = (pairs.prompts(run).ids[:1, :5] for run in ("clean", "corrupt"))
    name = "blocks.1.hook_mlp_out"
    kept: dict[str, torch.Tensor] = {}

    def keep(value: torch.Tensor, hook: object) -> None:
        kept["value"] = value.detach().clone()

    def put(value: torch.Tensor, hook: object) -> torch.Tensor:
        value = value.clone()
        value[:, 1] = kept["value"][:, 1]
        return value

    with torch.no_grad():
        model.bridge.run_with_hooks(clean, fwd_hooks=[(name, keep)])
        logits = model.bridge.run_with_hooks(corrupt, fwd_hooks=[(name, put)])
    expected = logits[0, -1].float().softmax(-1).topk(5)
    position = pairs.positions.index("name -1")
    one = patch_once(model, pairs, "mlp_out", 1, position=position, k=5).sel(run="patched")
    np.testing.assert_allclose(one["top_prob"].values, expected.values.numpy(), atol=1e-5)
    assert list(one["top_token"].values) == model.token_strings(expected.indices.tolist())


def test_probabilities_rank_the_answer_and_sum_to_one(model: Model, pairs: PromptPairs) -> None:
    one = patch_once(model, pairs, "resid_pre", 0, position=2, k=999)
    np.testing.assert_allclose(one["top_prob"].sum("k"), 1.0, atol=1e-5)
    for run in ("clean", "corrupt", "patched"):
        tokens = [str(t) for t in one["top_token"].sel(run=run).values]
        rank = int(one["answer_rank"].sel(run=run))
        assert tokens[rank].strip() == "Bo"
        assert float(one["answer_prob"].sel(run=run)) == pytest.approx(
            float(one["top_prob"].sel(run=run)[rank]), abs=1e-6
        )


def test_patching_a_run_with_itself_changes_nothing(model: Model) -> None:
    same = PromptPairs(model, ["Ann's friend is"], ["Ann's friend is"], [" Bo"], [" Cy"])
    for site, where in (("resid_pre", {"position": 1}), ("z", {"head": 2})):
        one = patch_once(model, same, site, 1, **where)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            one["answer_logit"].sel(run="patched"),
            one["answer_logit"].sel(run="corrupt"),
            atol=1e-5,
        )


@pytest.mark.parametrize(
    ("site", "layer", "where", "message"),
    [
        ("resid_pre", 3, {"position": 0}, "Layer 3"),
        ("resid_pre", 0, {}, "Say what to patch"),
        ("resid_pre", 0, {"position": 99}, "no token at position 99"),
        ("z", 0, {"head": 4}, "Head 4"),
        ("nonsense", 0, {"position": 0}, "nonsense"),
    ],
)
def test_what_cannot_be_patched_is_refused(
    model: Model, pairs: PromptPairs, site: str, layer: int, where: dict[str, int], message: str
) -> None:
    with pytest.raises(SiteError, match=message):
        patch_once(model, pairs, site, layer, **where)  # type: ignore[arg-type]
