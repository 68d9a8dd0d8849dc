"""Circuits in factors are the dense products of Hugging Face's own matrices.

The matrices are taken from the checkpoints' modules by name, in float64; nothing is tried out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from interp import load_model
from interp.errors import ArgumentError, ModelError, PromptError, SiteError
from interp.weights.association import association_matrix, double_centred
from interp.weights.scores import composition_scores, copying_scores, singular_tokens
from interp.weights.weights import Weights
from tests.interp.architectures import ARCHITECTURES
from tests.interp.tiny import D_HEAD, D_MODEL, N_HEADS, N_LAYERS, VOCABULARY, Tiny, build_tokenizer
from tests.interp.weights.dense import Dense, by_hand

pytestmark = pytest.mark.slow

V = len(VOCABULARY)


@pytest.fixture(params=["gpt2", "llama"])
def case(request: pytest.FixtureRequest, zoo: Any) -> tuple[Tiny, Dense]:
    tiny = zoo(request.param)
    with torch.no_grad():
        return tiny, Dense.of(tiny)


def close(ours: Any, theirs: Any, **options: Any) -> None:
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    scale = float(np.abs(theirs[np.isfinite(theirs)]).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=options.get("atol", 2e-5) * scale)


def test_circuits_are_dense_products(case: tuple[Tiny, Dense]) -> None:
    tiny, dense = case
    weights = Weights(tiny.model)
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            ov = weights.ov(layer, head)
            assert ov.A.shape == (D_MODEL, D_HEAD)
            close(ov.AB, dense.ov(layer, head))
            qk = weights.qk(layer, head, content=True)
            close(qk.AB, dense.qk(layer, head))
            tokens = weights.token_ov(layer, head)
            assert (tokens.A.shape, tokens.B.shape) == ((V, D_HEAD), (D_HEAD, V))
            close(tokens.AB, dense.embed @ dense.ov(layer, head) @ dense.out())
    close(weights.round_trip(), dense.out() @ dense.embed)
    vectors = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0))
    close(weights.unembed(vectors), vectors.double() @ dense.out())


def test_a_qk_circuit_gives_the_models_attention(gpt2: Tiny) -> None:
    """Without rotation and biases, softmax of x W_Q W_Kᵀ x is the pattern, by Hugging Face."""
    hf, weights = gpt2.hf, Weights(gpt2.model)
    block = hf.transformer.h[0]
    bias = block.attn.c_attn.bias.data.clone()
    ids = torch.tensor([gpt2.ids("we saw Ann near Rome")])
    try:
        block.attn.c_attn.bias.data.zero_()
        before = block.ln_1.bias.data.clone()
        block.ln_1.bias.data.zero_()
        with torch.no_grad():
            out = hf(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    finally:
        block.attn.c_attn.bias.data.copy_(bias)
        block.ln_1.bias.data.copy_(before)
    x = out.hidden_states[0][0]
    x = x / (x.var(-1, unbiased=False, keepdim=True) + block.ln_1.eps).sqrt()
    for head in range(N_HEADS):
        scores = x @ weights.qk(0, head).AB @ x.T
        mask = torch.ones_like(scores).tril().bool()
        pattern = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        torch.testing.assert_close(pattern, out.attentions[0][0, head], rtol=0, atol=1e-5)


def test_copying_is_told_by_the_eigenvalues_of_the_dense_circuit(
    case: tuple[Tiny, Dense],
) -> None:
    tiny, dense = case
    found = copying_scores(tiny.model)["copying"]
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            whole = dense.embed @ dense.ov(layer, head) @ dense.out()
            values = torch.linalg.eigvals(whole)
            expected = float(values.real.sum() / values.abs().sum())
            assert float(found[layer, head]) == pytest.approx(expected, abs=1e-4)


def test_composition_is_that_of_dense_circuits(case: tuple[Tiny, Dense]) -> None:
    tiny, dense = case
    found = composition_scores(tiny.model)
    score = found["score"]
    assert found.attrs["qk"] == ("whole" if tiny.name == "gpt2" else "content part, at distance 0")
    assert found.attrs["chance"] == pytest.approx(D_MODEL**-0.5)
    for earlier in range(N_LAYERS):
        for layer in range(N_LAYERS):
            here = score.sel(source_layer=earlier, layer=layer)
            if earlier >= layer:
                assert bool(here.isnull().all())
                continue
            for source in range(N_HEADS):
                for head in range(N_HEADS):
                    first = dense.ov(earlier, source)
                    readers = {
                        "q": dense.qk(layer, head),
                        "k": dense.qk(layer, head).T,
                        "v": dense.ov(layer, head),
                    }
                    for kind, second in readers.items():
                        expected = (first @ second).norm() / (first.norm() * second.norm())
                        value = float(here.sel(kind=kind, source_head=source, head=head))
                        assert value == pytest.approx(float(expected), rel=1e-4)


def test_unrelated_circuits_score_chance(gpt2: Tiny) -> None:
    found = composition_scores(gpt2.model)
    size = float(np.sqrt((found["score"] ** 2).mean()))
    assert size == pytest.approx(found.attrs["chance"], rel=0.25)


def test_singular_directions_are_read_in_tokens(case: tuple[Tiny, Dense]) -> None:
    tiny, dense = case
    names = np.array(VOCABULARY, dtype=object)
    matrices = {
        "ov": dense.ov(1, 2),
        "mlp_in": dense.fold(dense.layers[1].gains[1], dense.layers[1].mlp_in),
        "mlp_out": dense.layers[1].mlp_out,
    }
    sides = {"ov": ["reads", "writes"], "mlp_in": ["reads"], "mlp_out": ["writes"]}
    for name, matrix in matrices.items():
        head = 2 if name == "ov" else None
        found = singular_tokens(tiny.model, name, 1, head, n=2, k=3)  # type: ignore[arg-type]
        left, values, right = torch.linalg.svd(matrix)
        close(found["singular_value"], values[:2])
        assert list(found["side"].values) == sides[name]
        for side in sides[name]:
            table = dense.embed @ left if side == "reads" else (right @ dense.out()).T
            for direction in range(2):
                column = table[:, direction].numpy()
                # A singular vector's sign is anybody's choice; both ends are given.
                ends = {tuple(names[np.argsort(-s * column)[:3]]) for s in (1, -1)}
                here = found.sel(side=side, direction=direction)
                assert {tuple(row) for row in here["token"].values} == ends
                best = sorted([column.max(), -column.min()])
                close(np.sort(here["value"].values[:, 0]), best, atol=1e-4)


def test_both_sides_of_a_direction_have_the_same_sign(llama: Tiny) -> None:
    """What is read along + is written along +."""
    weights = Weights(llama.model)
    found = singular_tokens(llama.model, "ov", 0, 1, n=1, k=1)
    ov = weights.ov(0, 1)
    for sign in ("+", "−"):
        here = found.sel(direction=0, sign=sign).isel(token_rank=0)
        reader, written = (str(here["token"].sel(side=s).item()) for s in ("reads", "writes"))
        embedded = weights.embed(torch.tensor([VOCABULARY.index(reader)]))
        left, value, right = ov.svd()
        main = (embedded @ left[:, :1]) * value[0] * right.mT[:1]
        assert float(weights.unembed(main)[0, VOCABULARY.index(written)]) > 0


@pytest.mark.parametrize("tokens", ["first", "all"])
def test_associations_are_paths_by_hand(case: tuple[Tiny, Dense], tokens: Any) -> None:
    tiny, dense = case
    subjects, objects = ["Ann Bo", "Cy", "Dee Eve Fay"], ["Rome", "Oslo Lima", "Bonn Cork"]
    found = association_matrix(tiny.model, subjects, objects, tokens=tokens)
    lists = [[VOCABULARY.index(w) for w in text.split()] for text in subjects]
    said = [[VOCABULARY.index(w) for w in text.split()] for text in objects]
    expected = by_hand(tiny, dense, lists)
    assert set(found["path"].values) == set(expected)
    for path, written in expected.items():
        logits = written @ dense.out()
        n = 1 if tokens == "first" else 9
        table = torch.stack([logits[:, ids[:n]].mean(1) for ids in said], dim=1).numpy()
        close(found["raw"].sel(path=path), table, atol=1e-4)
        centred = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
        close(found["association"].sel(path=path), centred, atol=2e-4)


def test_double_centring_leaves_no_rows_and_columns() -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(4, 5))
    effect = double_centred(effect)
    np.testing.assert_allclose(effect.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(effect.sum(1), 0, atol=1e-12)
    shifted = effect + rng.normal(size=(4, 1)) + rng.normal(size=(1, 5))
    np.testing.assert_allclose(double_centred(shifted), effect, atol=1e-12)


def test_the_organisms_weights_hold_what_it_learned_and_nothing_else() -> None:
    """Facts told in one direction lie in the weights in that direction."""
    import csv

    model = load_model("reversal-curse")
    assert model.path is not None
    with (model.path / "facts.csv").open() as file:
        rows = list(csv.DictReader(file))

    def strength(split: str, one: str, other: str) -> float:
        facts = [row for row in rows if row["split"] == split]
        texts = [[f" {row[column]}" for row in facts] for column in (one, other)]
        table = association_matrix(model, *texts)["association"].sel(path="m0>a1").values
        own = np.diag(table)
        return float(own.mean() / table[~np.eye(len(table), dtype=bool)].std())

    assert strength("forward", "subject", "object") > 1
    assert abs(strength("forward", "object", "subject")) < 0.3
    assert strength("reverse", "object", "subject") > 1
    assert abs(strength("reverse", "subject", "object")) < 0.3
    assert strength("both", "subject", "object") > 1 < strength("both", "object", "subject") + 0.2


STILL = ("GPT-2", "OPT", "BLOOM")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rotated_scores_are_told_apart(name: str) -> None:
    weights = Weights(load_model(ARCHITECTURES[name].build(), tokenizer=build_tokenizer()))
    for layer in range(2):
        scale = 1.0 if name == "Granite" else 8**-0.5
        assert weights.scores(layer).scale == pytest.approx(scale, rel=1e-3)
        assert weights.qk(layer, 3, content=True).shape == (D_MODEL, D_MODEL)
        if name not in STILL:
            with pytest.raises(SiteError, match="content=True"):
                weights.qk(layer, 0)
        else:
            weights.qk(layer, 0)


def test_scores_that_are_no_products_are_refused() -> None:
    """Each head's queries and keys under a layer norm of their own."""
    cohere = ARCHITECTURES["Cohere"]
    cohere = replace(cohere, settings={**cohere.settings, "use_qk_norm": True})
    weights = Weights(load_model(cohere.build(), tokenizer=build_tokenizer()))
    with pytest.raises(ModelError, match="no products of its queries and keys"):
        weights.qk(0, 0, content=True)


@pytest.mark.parametrize(
    ("name", "dtype", "settings"),
    [
        ("GPT-NeoX", torch.float32, {"rotary_pct": 0.25}),
        (
            "Llama",
            torch.float32,
            {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}},
        ),
        ("Llama", torch.bfloat16, {}),
        ("Mistral", torch.float32, {"sliding_window": 2}),
    ],
)
def test_even_a_little_rotation_is_seen(
    name: str, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    architecture = ARCHITECTURES[name]
    architecture = replace(architecture, settings={**architecture.settings, **settings})
    model = load_model(architecture.build().to(dtype), tokenizer=build_tokenizer())
    weights = Weights(model)
    for layer in range(2):
        assert weights.scores(layer).by_distance
        assert weights.scores(layer).scale == pytest.approx(8**-0.5, rel=0.02)


def test_what_is_not_there_is_refused(llama: Tiny, gpt2: Tiny) -> None:
    model = llama.model
    with pytest.raises(SiteError, match="give head"):
        singular_tokens(model, "ov", 0)
    with pytest.raises(SiteError, match="leave the head out"):
        singular_tokens(model, "mlp_out", 0, 1)
    with pytest.raises(ArgumentError, match="Unknown matrix"):
        singular_tokens(model, "qk", 0)  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="no 'mlp_gate'"):
        singular_tokens(gpt2.model, "mlp_gate", 0)
    with pytest.raises(SiteError, match="out of range"):
        singular_tokens(model, "ov", 0, 9)
    with pytest.raises(PromptError, match="at least one"):
        singular_tokens(model, "ov", 0, 1, n=0)
    with pytest.raises(SiteError, match="out of range"):
        Weights(model).ov(5, 0)
    for subjects, objects, options, message in (
        (["Ann"], ["Rome", "Oslo"], {}, "at least two"),
        (["Ann", ""], ["Rome", "Oslo"], {}, "no tokens"),
        (["Ann", "Bo"], ["Rome", "Oslo"], {"tokens": "last"}, "last"),
        (["Ann", 3], ["Rome", "Oslo"], {}, "must be text"),
    ):
        with pytest.raises((ArgumentError, PromptError), match=message):
            association_matrix(model, subjects, objects, **options)  # type: ignore[arg-type]
